"""diffusers' pipeline of Stable Diffusion 3: how it is made, and asked for an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.families.sd3.config import transformer_of
from ldmref.models.config import ModelConfig
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort
from ldmref.ports.text_encoders import select_hidden_states

FIRST_LAYERS = {  # of the networks of SD3 and Flux.1, by our argument
    "t": (("time_proj", "input"),),
    "context": (("context_embedder", "input"),),
    "pooled": (("text_embedder", "input"), ("text_embedder.linear_1", "input")),
}
OWN = ("empty_tokens",)  # a field that diffusers' class does not have


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' transformer of a configuration, which projects text to its own width."""
    network = transformer_of(config)
    settings = {"caption_projection_dim": network.width}
    return LibraryObject("diffusers:SD3Transformer2DModel", settings, network, OWN)


def limit_text(config: ModelConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument of a call for the number of tokens of T5."""
    t5 = config.text_encoder_3
    return {} if t5 is None else {"max_sequence_length": t5.max_position_embeddings}


PARTS = PipelineParts(
    lambda config: LibraryObject("diffusers:StableDiffusion3Pipeline"),
    describe_denoiser,
    request=limit_text,
)


PORT = FamilyPort(
    "sd3",
    ("SD3Transformer2DModel",),
    states=select_hidden_states,
    arguments={"x": ("img", "hidden_states"), "context": ("txt",), "hint": ("controlnet_cond",)},
    first_layers=FIRST_LAYERS,
    parts=PARTS,
)
