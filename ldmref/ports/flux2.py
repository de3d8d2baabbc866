"""diffusers' pipelines of FLUX.2: how they are made, and how they call the networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.families.flux2.config import transformer_of
from ldmref.families.flux2.references import TIME
from ldmref.families.flux2.text import LAYERS
from ldmref.families.joint_transformers import SCALE
from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.transformer_layers import join_cells
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort
from ldmref.ports.qwen3 import read_layers

OWN = ("sample_size",)  # a field that diffusers' class does not have
KEPT = ("encoder_hidden_states", "guidance")


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' transformer of a configuration."""
    return LibraryObject("diffusers:Flux2Transformer2DModel", {}, transformer_of(config), OWN)


def list_layers(config: ModelConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument of a call that names the layers of the text encoder that are read."""
    text = config.text_encoder
    assert isinstance(text, Qwen3Config)
    return {"text_encoder_out_layers": text.hidden_layers}


PARTS = PipelineParts(
    lambda config: LibraryObject("diffusers:Flux2KleinPipeline"),
    describe_denoiser,
    request=list_layers,
)


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours.

    The tokens of references follow those of the image, and the rows and columns of each image begin
    at 0. The k-th reference is at the time 10 k here, whatever the call says: another time shows
    in the first layer that reads it.
    """
    import torch

    found = {name: arguments[name] for name in KEPT if arguments.get(name) is not None}
    tokens, ids, time = (arguments.get(name) for name in ("hidden_states", "img_ids", "timestep"))
    if time is not None:
        found["timestep"] = time * SCALE
    if tokens is None or ids is None:
        return {**arguments, **found}
    ids = ids[None] if ids.ndim == 2 else ids
    first = (ids[0, :, 1] == 0) & (ids[0, :, 2] == 0)
    image = torch.cumsum(first, dim=0) - 1
    length = int((image == 0).sum())
    found = {"sample": tokens[:, :length], **found}
    if length < tokens.shape[1]:
        positions = ids[:1, length:].to(tokens.dtype).clone()
        positions[0, :, 0] = TIME * image[length:]
        found["reference_tokens"] = tokens[:, length:]
        found["reference_positions"] = positions.expand(len(tokens), -1, -1)
    return found


def read_states(output: Any, skip: int, pipe: object) -> Array:
    """Return the hidden states of the layers that the transformer reads, side by side."""
    return read_layers(output, LAYERS, skip, pipe)


PORT = FamilyPort(
    "flux2",
    ("Flux2Transformer2DModel",),
    halves=("cond", "uncond"),
    unpack=join_cells,
    inputs=read_inputs,
    states=read_states,
    unguided=lambda settings: settings.get("is_distilled") is True,
    arguments={"x": ("img", "hidden_states"), "context": ("ctx", "txt")},
    first_layers={"t": (("time_proj", "input"),), "context": (("context_embedder", "input"),)},
    parts=PARTS,
)
