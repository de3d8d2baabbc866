"""Tiny transformers of Flux.1 as diffusers makes them, in float64."""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers import transformer_flux

from ldmref.families.flux import FluxConfig
from ldmref.math import timestep_embedding

SIZES = dict(
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=12,
    num_attention_heads=2,
    joint_attention_dim=20,
    pooled_projection_dim=16,
    axes_dims_rope=(2, 4, 6),
)


def make_transformer(guidance, channels=4):
    """Return diffusers' transformer, in which no bias or norm has its initial value."""
    torch.manual_seed(0)
    theirs = FluxTransformer2DModel(
        in_channels=4 * channels, out_channels=16, guidance_embeds=guidance, **SIZES
    )
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return theirs.eval()


def in_float64(theirs, monkeypatch):
    """Return the transformer in float64, also where diffusers computes in float32."""
    theirs = theirs.double()
    theirs.time_text_embed.time_proj.forward = lambda t: timestep_embedding(t.double(), 256)
    theirs.pos_embed.forward = _positions.__get__(theirs.pos_embed)
    monkeypatch.setattr(transformer_flux, "apply_rotary_emb", _rotate)
    return theirs


def _positions(self, ids):
    """Return cosines and sines as diffusers' class does, without its rounding to float32."""
    angles = [
        torch.outer(ids[:, i].double(), self.theta ** (-torch.arange(0, dim, 2).double() / dim))
        for i, dim in enumerate(self.axes_dim)
    ]
    return torch.cat(angles, dim=-1).cos(), torch.cat(angles, dim=-1).sin()


def _rotate(x, turns, sequence_dim):
    """Multiply neighbouring channels as complex numbers; x: (n, l, heads, d)."""
    assert sequence_dim == 1
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    cos, sin = (part[None, :, None, :] for part in turns)
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(3)


def config_of(guidance, channels=4):
    """Return our configuration of the same transformer."""
    return FluxConfig(in_channels=channels, out_channels=4, guidance_embeds=guidance, **SIZES)
