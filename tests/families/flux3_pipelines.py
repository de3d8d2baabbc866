"""A small FLUX.3 of diffusers, and its networks in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import Flux3Transformer2DModel
from diffusers.models.transformers import transformer_flux3


def make_transformer(**options: Any) -> Flux3Transformer2DModel:
    """Return a random transformer of a small size, whose scores are not tiny."""
    torch.manual_seed(0)
    model = Flux3Transformer2DModel(**options).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def with_positions(x: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arguments of diffusers' transformer of those of ours, without a mask."""
    height, width = x["x"].shape[2:]
    grid = torch.cartesian_prod(*(torch.arange(k) for k in (1, height, width, 1))).double()
    grid[:, 1:3] *= 0.5
    length = x["context"].shape[1]
    found = {
        "hidden_states": x["x"].flatten(2).transpose(1, 2),
        "encoder_hidden_states": x["context"],
        "timestep": x["t"] / 1000.0,
        "img_ids": grid,
        "txt_ids": torch.cartesian_prod(*(torch.arange(k) for k in (1, 1, 1, length))).double(),
    }
    if x.get("t_next") is not None:
        found["target_timestep"] = x["t_next"] / 1000.0
    if x.get("reference_tokens") is not None:
        found["image_cond_hidden_states"] = x["reference_tokens"]
        found["image_cond_ids"] = x["reference_places"][0]
    return found


def join_cells(tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return tokens (n, h * w, c) as latents (n, c, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


@contextmanager
def transformer_in_double() -> Iterator[None]:
    """Let diffusers' transformer compute norms, angles and the time's waves in float64."""

    def rotary(dim, pos, theta=10000.0, **options):
        steps = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        angles = torch.outer(pos.double(), theta**-steps).repeat_interleave(2, dim=1)
        return angles.cos(), angles.sin()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_flux3, "get_1d_rotary_pos_embed", rotary)
        patch.setattr(torch, "float32", torch.float64)  # of the time's frequencies
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield
