"""diffusers' pipeline of Krea 2: how it is made, and how it calls the networks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ldmref.families.krea2.config import transformer_of
from ldmref.families.krea2.text import LAYERS
from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.math.tokens import PATCH, join_patches
from ldmref.models.config import ModelConfig
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort
from ldmref.ports.qwen3 import describe_qwen3_vl, join_layers

OWN = ("out_channels", "sample_size")  # fields that diffusers' class does not have
TIMES = 1000.0  # the timesteps of ours are times multiplied by it


def describe_pipeline(config: ModelConfig) -> LibraryObject:
    """Return diffusers' pipeline of a configuration; a distilled one has a constant shift."""
    text = config.text_encoder
    assert isinstance(text, Qwen3Config)
    settings = {
        "text_encoder_select_layers": text.hidden_layers,
        "is_distilled": config.scheduler.shift_rule == "constant",
    }
    return LibraryObject("diffusers:Krea2Pipeline", settings)


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' transformer of a configuration, whose channels are those of tokens."""
    network = transformer_of(config)
    settings = {"in_channels": network.in_channels * PATCH**2}
    return LibraryObject("diffusers:Krea2Transformer2DModel", settings, network, OWN)


def count_suffix(pipe: Any) -> None:
    """Let a pipeline count the tokens after the prompt, of which the published model has 5."""
    suffix = pipe.tokenizer(pipe.prompt_template_encode_suffix)
    pipe.prompt_template_encode_num_suffix_tokens = len(suffix.input_ids)


PARTS = PipelineParts(
    describe_pipeline,
    describe_denoiser,
    text_encoder=partial(describe_qwen3_vl, kind="Qwen3VLModel"),
    takes_tokens=True,
    adapt=count_suffix,
)


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours.

    The hidden states of a token's layers, (n, l, k, d), are joined side by side. Times are
    multiplied in float32, as the transformer does.
    """
    mask = arguments.get("encoder_attention_mask")
    return {
        "sample": arguments["hidden_states"],
        "timestep": TIMES * arguments["timestep"].float(),
        "encoder_hidden_states": arguments["encoder_hidden_states"].flatten(2),
    } | ({} if mask is None else {"encoder_attention_mask": mask.long()})


def read_layer(inputs: Mapping[str, Any], layer: str, array: Any) -> Any:
    """Return an array of a layer as ours: the layer that embeds the time is given 1000 t."""
    return TIMES * array.float() if layer == "time_embed" and array.ndim == 1 else array


def read_states(output: object, skip: int, pipe: object) -> Any:
    """Return the hidden states that the transformer reads, side by side."""
    return join_layers(output, getattr(pipe, "text_encoder_select_layers", LAYERS), skip)


PORT = FamilyPort(
    "krea2",
    ("Krea2Transformer2DModel",),
    halves=("cond", "uncond"),
    unpack=join_patches,
    inputs=read_inputs,
    states=read_states,
    layer=read_layer,
    arguments={"x": ("img", "hidden_states")},
    first_layers={"t": (("time_proj", "input"),)},
    parts=PARTS,
)
