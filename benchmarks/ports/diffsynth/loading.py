"""Weights and names of Krea 2 as DiffSynth-Studio has them, for networks of a kit's size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffsynth.utils.state_dict_converters.krea2_dit import Krea2DiTStateDictConverter_Diffusers

NAMES = {
    "net.": "", "attn.wq": "attn.to_q", "attn.wk": "attn.to_k", "attn.wv": "attn.to_v",
    "attn.wo": "attn.to_out.0", "attn.gate": "attn.to_gate", "attn.qknorm.qnorm": "attn.norm_q",
    "attn.qknorm.knorm": "attn.norm_k", "prenorm": "norm1", "postnorm": "norm2", "mlp.": "ff.",
    "last.": "final_layer.", "first": "img_in", "txtfusion": "text_fusion",
}  # fmt: skip
WHOLE = {
    "tmlp": "time_embed", "tmlp.0": "time_embed.linear_1", "tmlp.1": "time_embed.gelu",
    "tmlp.2": "time_embed.linear_2", "tproj.0": "gelu", "tproj.1": "time_mod_proj",
    "last": "final_layer", "txtmlp": "txt_in",
    "txtmlp.0": "txt_in.norm", "txtmlp.1": "txt_in.linear_1",
    "txtmlp.2": "txt_in.gelu", "txtmlp.3": "txt_in.linear_2",
}  # fmt: skip


class PublishedWeights(dict):
    """Weights by diffusers' names; those of the published size that a kit lacks are empty."""

    def __missing__(self, name: str) -> torch.Tensor:
        return torch.zeros(0)


def convert(weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return diffusers' weights by the port's names, converted by the port."""
    arrays = PublishedWeights({name: torch.tensor(x) for name, x in weights.items()})
    return {k: x for k, x in Krea2DiTStateDictConverter_Diffusers(arrays).items() if x.numel()}


def rename(path: str) -> str | None:
    """Return diffusers' name of a layer; None: diffusers has none."""
    path = path.removeprefix("net.")
    if path.endswith(("qknorm", ".mod", "modulation", "posemb", "tproj")) or path == "net":
        return None
    if path in WHOLE:
        return WHOLE[path]
    for name, other in NAMES.items():
        path = path.replace(name, other)
    return path.replace("blocks.", "transformer_blocks.") if path.startswith("blocks.") else path
