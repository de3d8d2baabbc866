"""Single files with the U-Net of Stable Diffusion alone, under CompVis' or diffusers' names.

GGUF files and many quantised ones hold it so, without `model.diffusion_model.` or with it.
diffusers' names are ours, and have one for every U-Net. Nothing recognises them, since such a file
is usually part of a folder: it is read with a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ldmref.io.compvis.keys import unet_table
from ldmref.io.key_table import KeyEntry, add_prefixes, fit
from ldmref.models.config import ModelConfig
from ldmref.models.family import SingleFile
from ldmref.models.networks import model_spec
from ldmref.models.params import Shape, flatten
from ldmref.models.presets import PRESETS

PREFIX = "model.diffusion_model."
FIRST = "input_blocks.0.0.weight"
HINT = "input_hint_block.0.weight"  # of a ControlNet, which has the U-Net's first half
# Of a U-Net of diffusers
PARTS = """
    down_blocks. mid_block. up_blocks. conv_in. conv_out. conv_norm_out. time_embedding.
    step_embedding. class_embedding. add_embedding.
""".split()
# Of two with the same U-Net, the first: sd2-v can only be told by its folder.
FAMILIES = ("sd15", "sd15-inpainting", "sd2-base", "sd2-inpainting", "sdxl")


def is_unet_alone(shapes: Mapping[str, Shape]) -> bool:
    """Return whether a file holds the U-Net of CompVis and no other network.

    >>> is_unet_alone({"input_blocks.0.0.weight": (320, 4, 3, 3)})
    True
    """
    return (FIRST in shapes and HINT not in shapes) or (
        PREFIX + FIRST in shapes and all(name.startswith(PREFIX) for name in shapes)
    )


def list_stored(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of such a file for each parameter of the U-Net.

    None has one if the U-Net embeds classes, for which CompVis has no name.
    """
    if config.unet.class_embed_type:
        return {}
    return add_prefixes("", prefix, unet_table(config.unet))


def recognise(shapes: Mapping[str, Shape], prefix: str = "") -> ModelConfig | None:
    """Return the configuration of a published U-Net that a file holds; None if it is another."""
    if prefix + FIRST not in shapes or not is_unet_alone(shapes):
        return None
    tables = {name: list_stored(PRESETS[name], prefix) for name in FAMILIES}
    reports = [(fit(shapes, table, squeezed=True), name) for name, table in tables.items()]
    best, name = max(reports, key=lambda pair: pair[0].likeness)
    return PRESETS[name] if best.shared else None


def is_unet_of_diffusers(shapes: Mapping[str, Shape]) -> bool:
    """Return whether a file holds a whole U-Net under diffusers' names and no other network.

    >>> is_unet_of_diffusers({"conv_in.weight": (320, 4, 3, 3), "conv_out.weight": (4, 320, 3, 3)})
    True
    """
    ends = {"conv_in.weight", "conv_out.weight"}
    return ends <= shapes.keys() and all(name.startswith(tuple(PARTS)) for name in shapes)


def list_own_names(config: ModelConfig) -> dict[str, KeyEntry]:
    """Return the tensors of a file under diffusers' names, which are those of the parameters."""
    shapes = flatten(model_spec(config)[config.denoiser.network])
    return {name: KeyEntry(name, shape) for name, shape in shapes.items()}


UNET_FILES = (
    *(
        SingleFile(
            "the U-Net of Stable Diffusion",
            partial(recognise, prefix=prefix),
            partial(list_stored, prefix=prefix),
            applies=is_unet_alone,
        )
        for prefix in ("", PREFIX)
    ),
    SingleFile(
        "a U-Net of diffusers",
        None,
        list_own_names,
        applies=is_unet_of_diffusers,
    ),
)
"""CompVis' names, without and with the prefix of whole files; then diffusers' names."""
