"""Names that LoRA files give to the layers of a model, as one table per configuration.

kohya joins the path of a layer with underscores, after `lora_unet_`, `lora_te_`, `lora_te1_` or
`lora_te2_`. It uses the paths of CompVis' U-Net for SDXL, and of diffusers for other models; both
are accepted for every family. diffusers and PEFT keep the dots, with four sets of endings over the
years.

Sources: kohya-ss/sd-scripts (networks/lora.py), huggingface/diffusers
(loaders/lora_conversion_utils.py, utils/state_dict_utils.py), huggingface/peft.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ldmref.io.compvis.keys import unet_table
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten

# Ending of a name -> role of the tensor.
KOHYA = {".lora_down.weight": "down", ".lora_up.weight": "up", ".alpha": "alpha"}
PEFT = {
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".alpha": "alpha",
    ".lora.down.weight": "down", ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",
}  # fmt: skip
OLD = {"_lora.down.weight": "down", "_lora.up.weight": "up"}  # diffusers before 2023-09
# Our name of a projection -> the old one, after the path of its parent.
OLD_UNET = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
KOHYA_PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
WRAPPER = "base_model.model."  # before the paths in PEFT's own files
EMBEDDINGS = re.compile(r"embedding\.weight|\.embed_")


class LoraTarget(NamedTuple):
    """The target of a tensor of a LoRA file: our tensor, and `down`, `up` or `alpha` of it."""

    tensor: str
    role: str


def unwrapped(name: str) -> str:
    """Remove PEFT's wrapper from a name.

    >>> unwrapped("base_model.model.mid_block.attentions.0.proj_in.lora_A.weight")
    'mid_block.attentions.0.proj_in.lora_A.weight'
    """
    return name.replace(WRAPPER, "", 1)


def lora_names(config: ModelConfig) -> dict[str, LoraTarget]:
    """Return every name that a LoRA file for this model may hold.

    LoRA changes matrices and convolutions of the U-Net and the text encoders; autoencoder,
    embeddings, norms and biases have no names here.
    """
    compvis: dict[str, str] = {}
    if not config.unet.class_embed_type:  # for which CompVis has no name
        table = unet_table(config.unet).items()
        compvis = {f"unet.{name}": entry.name for name, entry in table if entry.third is None}
    targets: dict[str, LoraTarget] = {}
    for tensor, shape in flatten(model_spec(config)).items():
        part, _, layer = tensor.removesuffix(".weight").partition(".")
        if part not in KOHYA_PREFIXES or len(shape) not in (2, 4) or EMBEDDINGS.search(tensor):
            continue
        paths = [layer]
        if tensor in compvis:
            paths.append(compvis[tensor].removesuffix(".weight"))
        for name, role in _names(part, layer, paths):
            targets[name] = LoraTarget(tensor, role)
    return targets


def lora_file_name(config: ModelConfig, tensor: str, role: str) -> str:
    """Return kohya's name for a role of our tensor; SDXL's U-Net has the paths of CompVis."""
    part, _, layer = tensor.removesuffix(".weight").partition(".")
    second = config.text_encoder_2 is not None
    if second and part == "unet":
        layer = unet_table(config.unet)[f"{layer}.weight"].name.removesuffix(".weight")
    prefix = KOHYA_PREFIXES[part][1 if second and part == "text_encoder" else 0]
    end = next(end for end, name in KOHYA.items() if name == role)
    return prefix + layer.replace(".", "_") + end


def _names(part: str, layer: str, paths: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, role) in every notation."""
    for prefix in KOHYA_PREFIXES[part]:
        for path in paths:
            joined = prefix + path.replace(".", "_")
            yield from ((joined + end, role) for end, role in KOHYA.items())
    for dotted in _dotted(part, layer):
        yield from ((dotted + end, role) for end, role in PEFT.items())
    for projection, name in (OLD_UNET if part == "unet" else OLD_TEXT).items():
        if layer.endswith("." + projection):
            parent = layer.removesuffix("." + projection)
            parent += ".processor" if part == "unet" else ""
            for dotted in _dotted(part, f"{parent}.{name}"):
                yield from ((dotted + end, role) for end, role in OLD.items())


def _dotted(part: str, path: str) -> Iterator[str]:
    """Yield the path below its network.

    Files for the U-Net alone, and PEFT's for the first text encoder, may omit the network.
    """
    yield f"{part}.{path}"
    if part == "unet" or (part == "text_encoder" and path.startswith("text_model.")):
        yield path
    if path.startswith("text_model."):  # dropped in transformers 5
        yield f"{part}.{path.removeprefix('text_model.')}"
