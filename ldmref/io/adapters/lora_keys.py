"""The names that LoRA files give to the layers of a model, as one table per configuration.

kohya joins the path of a layer with underscores, after `lora_unet_`, `lora_te_`, `lora_te1_` or
`lora_te2_`; for SDXL it takes the paths of CompVis' U-Net, else those of diffusers. Both are known
for every family. diffusers and PEFT keep the dots; over the years, with four sets of endings.

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

KOHYA = {"down": ".lora_down.weight", "up": ".lora_up.weight", "alpha": ".alpha"}
PEFT = (
    {"down": ".lora_A.weight", "up": ".lora_B.weight", "alpha": ".alpha"},
    {"down": ".lora.down.weight", "up": ".lora.up.weight", "alpha": ".alpha"},
    {"down": ".lora_linear_layer.down.weight", "up": ".lora_linear_layer.up.weight"},
)
# diffusers before 2023-09: the parent's path, then a name for the projection.
OLD = {"down": "_lora.down.weight", "up": "_lora.up.weight"}
OLD_UNET = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
KOHYA_PARTS = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_"),
               "text_encoder_2": ("lora_te2_",)}  # fmt: skip


# PEFT's own files name the layers below its wrapper, of the network or of the pipeline's part.
WRAPPER = "base_model.model."


def unwrapped(name: str) -> str:
    """The name without PEFT's wrapper.

    >>> unwrapped("base_model.model.mid_block.attentions.0.proj_in.lora_A.weight")
    'mid_block.attentions.0.proj_in.lora_A.weight'
    """
    return name.replace(WRAPPER, "", 1)


class Place(NamedTuple):
    """Which part (`down`, `up` or `alpha`) of the change of which of our tensors."""

    tensor: str
    part: str


EMBEDDINGS = re.compile(r"embedding\.weight|\.embed_")


def lora_names(config: ModelConfig) -> dict[str, Place]:
    """Every name that a LoRA file for this model may hold.

    LoRA changes matrices and convolutions of the U-Net and the text encoders; the autoencoder,
    embeddings, norms and biases have no names here.
    """
    compvis: dict[str, str] = {}
    if not config.unet.class_embed_type:  # for which CompVis has no name
        table = unet_table(config.unet).items()
        compvis = {name: entry.name for name, entry in table if entry.third is None}
    places: dict[str, Place] = {}
    for tensor, shape in flatten(model_spec(config)).items():
        part, _, inner = tensor.partition(".")
        if part not in KOHYA_PARTS or len(shape) not in (2, 4) or EMBEDDINGS.search(tensor):
            continue
        layer = inner.removesuffix(".weight")
        paths = [layer]
        if part == "unet" and inner in compvis:
            paths.append(compvis[inner].removesuffix(".weight"))
        for name, kind in _names(part, layer, paths):
            places[name] = Place(tensor, kind)
    return places


def _names(part: str, layer: str, paths: list[str]) -> Iterator[tuple[str, str]]:
    """(name, part of the change) in every notation."""
    for start in KOHYA_PARTS[part]:
        for path in paths:
            yield from ((start + path.replace(".", "_") + end, k) for k, end in KOHYA.items())
    for dotted in _dotted(part, layer):
        for endings in PEFT:
            yield from ((dotted + end, kind) for kind, end in endings.items())
    old = OLD_UNET if part == "unet" else OLD_TEXT
    for projection, name in old.items():
        if layer.endswith("." + projection):
            parent = layer.removesuffix("." + projection)
            parent += ".processor" if part == "unet" else ""
            for dotted in _dotted(part, f"{parent}.{name}"):
                yield from ((dotted + end, kind) for kind, end in OLD.items())


def _dotted(part: str, path: str) -> Iterator[str]:
    """The path below its network; a file for the U-Net alone may leave that out, and so may one of
    PEFT for the first text encoder."""
    yield f"{part}.{path}"
    if part == "unet" or (part == "text_encoder" and path.startswith("text_model.")):
        yield path
    if path.startswith("text_model."):  # transformers 5 has dropped this level
        yield f"{part}.{path.removeprefix('text_model.')}"
