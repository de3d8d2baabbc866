"""Networks of diffusers and transformers in float64, also where they compute in float32."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from diffusers.models import normalization
from diffusers.models.transformers import transformer_z_image
from transformers.models.qwen3 import modeling_qwen3


@contextmanager
def transformer_in_double():
    """Let diffusers' transformer compute norms, angles and the time's waves in float64."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def table(dims, ends, theta=256.0):
        found = []
        for dim, end in zip(dims, ends, strict=True):
            steps = torch.arange(0, dim, 2, dtype=torch.float64) / dim
            angles = torch.outer(torch.arange(end, dtype=torch.float64), theta**-steps)
            found.append(torch.polar(torch.ones_like(angles), angles))
        return found

    rope = transformer_z_image.RopeEmbedder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalization.RMSNorm, "forward", norm)
        patch.setattr(rope, "precompute_freqs_cis", staticmethod(table))
        patch.setattr(torch, "float32", torch.float64)  # of the time's frequencies
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@contextmanager
def encoder_in_double(head_dim, theta=1e6):
    """Let transformers' Qwen3 compute norms and angles in float64."""

    def norm(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x * scale

    def rotary(self, x, position_ids):
        steps = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        angles = position_ids[..., None].double() / theta**steps
        both = torch.cat([angles, angles], dim=-1)
        return both.cos(), both.sin()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_qwen3.Qwen3RMSNorm, "forward", norm)
        patch.setattr(modeling_qwen3.Qwen3RotaryEmbedding, "forward", rotary)
        yield
