"""diffusers' pipeline of Flux.1: how it is made, and asked for an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.families.flux.config import transformer_of
from ldmref.families.flux.files import PACKED
from ldmref.families.joint_transformers import SCALE
from ldmref.math.tokens import join_patches
from ldmref.models.config import ModelConfig
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort
from ldmref.ports.sd3 import FIRST_LAYERS
from ldmref.ports.text_encoders import select_hidden_states

OWN = ("sample_size",)  # a field that diffusers' class does not have


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' transformer of a configuration, whose channels are those of tokens."""
    network = transformer_of(config)
    channels = {name: PACKED * getattr(network, name) for name in ("in_channels", "out_channels")}
    return LibraryObject("diffusers:FluxTransformer2DModel", channels, network, OWN)


def choose_scale(config: ModelConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call for the number of tokens of T5, and for the guidance scale.

    A transformer that reads the scale gets it; another one is guided by a second prediction, whose
    scale is `true_cfg_scale`.
    """
    t5 = config.text_encoders[1]
    name = "guidance_scale" if transformer_of(config).guidance_embeds else "true_cfg_scale"
    return {"max_sequence_length": t5.max_position_embeddings, name: asked["cfg_scale"]}


PARTS = PipelineParts(
    lambda config: LibraryObject("diffusers:FluxPipeline"),
    describe_denoiser,
    request=choose_scale,
    takes_tokens=True,
)


def scale_time(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of diffusers' transformer with the time as our timestep."""
    timestep = arguments.get("timestep")
    scaled = {} if timestep is None else {"timestep": timestep * SCALE}
    return {**arguments, **scaled}


PORT = FamilyPort(
    "flux",
    ("FluxTransformer2DModel",),
    unpack=join_patches,
    inputs=scale_time,
    states=select_hidden_states,
    arguments={"x": ("img", "hidden_states"), "context": ("txt",), "hint": ("controlnet_cond",)},
    first_layers=FIRST_LAYERS,
    parts=PARTS,
)
