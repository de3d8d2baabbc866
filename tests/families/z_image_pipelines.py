"""A small Z-Image of diffusers, and its transformer in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.models import normalization
from diffusers.models.transformers import transformer_z_image
from qwen3_networks import make_encoder


def make_pipeline(vocabulary: Path) -> ZImagePipeline:
    """Return a random pipeline for small images, with a tokenizer of that folder."""
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=20,
        axes_dims=[4, 4, 4],
        axes_lens=[640, 32, 32],
    )
    encoder = make_encoder()
    for parameter in transformer.parameters():  # padding tokens are 0 at first, scores tiny
        parameter.data += 0.2 * torch.randn_like(parameter)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 12],
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    found = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae.eval(),
        encoder,
        transformers.AutoTokenizer.from_pretrained(vocabulary),
        transformer.eval(),
    )
    found.set_progress_bar_config(disable=True)
    return found


@contextmanager
def transformer_in_double() -> Iterator[None]:
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
