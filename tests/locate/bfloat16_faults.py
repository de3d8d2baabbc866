"""Faults of small diffusers pipelines, made in their modules; each in the layers that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class ModuleFault(NamedTuple):
    """A fault: the families that have the layer, the layer, and what changes its module."""

    families: tuple[str, ...]
    layer: str
    make: Callable[[Any], None]


def zero_bias(module: Any) -> None:
    module.bias.data.zero_()


def double_weight(module: Any) -> None:
    module.weight.data *= 2.0


def transpose(module: Any) -> None:
    module.weight.data = module.weight.data.T.contiguous()


def flip(module: Any) -> None:
    module.weight.data = module.weight.data.flip(-1, -2).contiguous()


def replicate(module: Any) -> None:
    module.padding_mode = "replicate"
    module._reversed_padding_repeated_twice = [1, 1, 1, 1]


def regroup(module: Any) -> None:
    module.num_groups = 2 * module.num_groups if module.num_groups == 4 else 4


def large_eps(module: Any) -> None:
    module.eps = 0.5


def ones(module: Any) -> None:
    module.weight.data.fill_(1.0)


def negate(module: Any) -> None:
    module.weight.data *= -1.0
    if module.bias is not None:
        module.bias.data *= -1.0


UNETS = ("sd1", "sdxl")
JOINT = ("sd3", "sd35", "dev", "schnell")
BLOCK = "transformer.transformer_blocks.0"
FAULTS = (
    ModuleFault(UNETS, "unet.conv_in", flip),
    ModuleFault(UNETS, "unet.conv_in", replicate),
    ModuleFault(UNETS, "unet.mid_block.resnets.0.conv1", double_weight),
    ModuleFault(UNETS, "unet.mid_block.resnets.0.norm1", regroup),
    ModuleFault(UNETS, "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", transpose),
    ModuleFault(UNETS, "unet.mid_block.attentions.0.transformer_blocks.0.norm1", large_eps),
    ModuleFault(UNETS, "unet.time_embedding.linear_1", negate),
    ModuleFault(UNETS, "vae.decoder.conv_in", flip),
    ModuleFault(JOINT, "vae.decoder.conv_in", replicate),
    ModuleFault(JOINT, f"{BLOCK}.attn.to_q", transpose),
    ModuleFault(JOINT, f"{BLOCK}.attn.to_add_out", negate),
    ModuleFault(JOINT, f"{BLOCK}.attn.add_k_proj", double_weight),
    ModuleFault(JOINT, f"{BLOCK}.ff.net.2", negate),
    ModuleFault(JOINT, f"{BLOCK}.norm1.linear", double_weight),
    ModuleFault(JOINT, "transformer.proj_out", negate),
    ModuleFault(JOINT, "transformer.time_text_embed.text_embedder.linear_2", transpose),
    ModuleFault(("dev", "schnell"), "transformer.single_transformer_blocks.0.attn.norm_q", ones),
    ModuleFault(("dev", "schnell"), "transformer.single_transformer_blocks.1.proj_mlp", negate),
    ModuleFault(("dev", "schnell"), "transformer.single_transformer_blocks.0.proj_out", zero_bias),
    ModuleFault(("sd35",), f"{BLOCK}.attn2.to_v", negate),
    ModuleFault(("sd35",), f"{BLOCK}.attn.norm_added_k", large_eps),
)


def break_pipeline(pipe: Any, fault: ModuleFault) -> None:
    """Change the module of a fault."""
    name, _, path = fault.layer.partition(".")
    with torch.no_grad():
        fault.make(getattr(pipe, name).get_submodule(path))


def called(fault: ModuleFault) -> str:
    """Return the layer of a fault as the locator calls it, without the number of its call."""
    name, _, path = fault.layer.partition(".")
    network = "vae.decode" if name == "vae" else name
    return f"{network}/{path}"
