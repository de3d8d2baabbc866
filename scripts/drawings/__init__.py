"""The drawings of the course; `python scripts/make_drawings.py` writes them.

`palette` has the colours and the widths of letters, `canvas` the paper and its text, and `shapes`
the few shapes that all drawings are made of. A drawing is a function that takes the configuration
of the embedded model, so that the numbers in it are those of the model: `systems` has the parts of
the system, `networks` and `layers` what is inside, `processes` the loops, and `computed` what is
computed with `ldmref.math`.
"""

from __future__ import annotations

from collections.abc import Callable

from drawings import computed, layers, networks, processes, systems
from drawings.shapes import Drawing
from ldmref.io.embedded import embedded_folder
from ldmref.io.native import read_config
from ldmref.models import ModelConfig

DRAWINGS: dict[str, Callable[[ModelConfig], Drawing]] = {
    "00-system": systems.system,
    "03-vae": systems.vae,
    "04-latent-scale": computed.latent_scale,
    "06-chains": computed.chains,
    "06-training": processes.training,
    "07-unet": networks.unet,
    "07-attention": layers.attention,
    "07-cross-attention": layers.cross_attention,
    "07-clip": networks.clip,
    "08-guidance": computed.guidance,
    "09-samplers": computed.samplers,
    "11-inpainting": processes.inpainting,
    "13-flow": computed.flow,
    "14-joint-block": networks.joint_block,
    "15-map": computed.flow_map,
}


def embedded_config() -> ModelConfig:
    """Return the configuration of the embedded model, without its weights."""
    return read_config(embedded_folder("emoji") / "config.json")


def make_drawings() -> dict[str, Drawing]:
    """Return every drawing by the name of its file."""
    config = embedded_config()
    return {name: draw(config) for name, draw in DRAWINGS.items()}
