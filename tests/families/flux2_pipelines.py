"""A small FLUX.2 klein of diffusers, and its transformer in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from diffusers.models.transformers import transformer_flux2
from qwen3_networks import make_encoder

LAYERS = (1, 2, 3)  # of a text encoder of four, as 9, 18 and 27 of 36
SMALL: dict[str, Any] = dict(
    in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
    num_attention_heads=2, joint_attention_dim=60, timestep_guidance_channels=32,
    axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
)  # fmt: skip


def make_transformer(**changes: Any) -> Flux2Transformer2DModel:
    """Return a random transformer, whose modulations are not tiny."""
    torch.manual_seed(0)
    model = Flux2Transformer2DModel(**SMALL | changes).eval()
    for name, parameter in model.named_parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) if "norm" in name else 0.0
        if "modulation" in name or "norm_out" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def make_autoencoder() -> AutoencoderKLFlux2:
    """Return a random autoencoder, whose latents have statistics."""
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 12),
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    ).eval()
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def make_pipeline(
    vocabulary: Path, kind: type = Flux2KleinPipeline, is_distilled: bool = False
) -> Any:
    """Return a random pipeline for small images, with a tokenizer of that folder."""
    transformer = make_transformer()
    found = kind(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        make_autoencoder(),
        make_encoder(num_hidden_layers=4, layers=LAYERS),
        transformers.AutoTokenizer.from_pretrained(vocabulary),
        transformer,
        is_distilled=is_distilled,
    )
    found.set_progress_bar_config(disable=True)
    return found


@contextmanager
def transformer_in_double() -> Iterator[None]:
    """Let diffusers' transformer compute angles and the time's waves in float64."""

    def rotate(x, waves, sequence_dim=1):
        cos, sin = (part[None, :, None, :].to(x.dtype) for part in waves)
        first, second = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack([-second, first], dim=-1).flatten(3)
        return x * cos + turned * sin

    def embed(self, ids):
        found = []
        for axis, dim in enumerate(self.axes_dim):
            steps = torch.arange(0, dim, 2, dtype=torch.float64) / dim
            angles = ids[..., axis].double()[:, None] / self.theta**steps
            found.append(angles.repeat_interleave(2, dim=-1))
        angles = torch.cat(found, dim=-1)
        return angles.cos(), angles.sin()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_flux2, "apply_rotary_emb", rotate)
        patch.setattr(transformer_flux2.Flux2PosEmbed, "forward", embed)
        patch.setattr(torch, "float32", torch.float64)  # of the time's frequencies
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield
