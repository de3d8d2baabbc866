"""Tiny transformers of Stable Diffusion 3 as diffusers makes them, in float64."""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.normalization import RMSNorm

from ldmref.families.sd3.config import MMDiTConfig
from ldmref.math import timestep_embedding

SIZES = dict(
    sample_size=8,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=40,
    pooled_projection_dim=24,
    pos_embed_max_size=7,
)
KINDS = {
    "3 medium": {},
    "3.5 large": {"qk_norm": "rms_norm"},
    "3.5 medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}


def make_transformer(kind):
    """Return diffusers' transformer, in which no bias or norm has its initial value."""
    torch.manual_seed(0)
    theirs = SD3Transformer2DModel(**SIZES, **KINDS[kind], caption_projection_dim=16)
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return theirs.eval()


def in_float64(theirs):
    """Return the transformer in float64, also where diffusers computes in float32."""
    theirs = theirs.double()
    theirs.time_text_embed.time_proj.forward = lambda t: timestep_embedding(t.double(), 256)
    for module in theirs.modules():
        if isinstance(module, RMSNorm):
            module.forward = _rms_norm.__get__(module)
    return theirs


def _rms_norm(self, x):
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def config_of(kind):
    """Return our configuration of the same transformer."""
    return MMDiTConfig(**SIZES, **KINDS[kind])
