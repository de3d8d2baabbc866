"""Calls of the networks of Krea 2 by diffusers' pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.families.krea2.text import LAYERS
from ldmref.families.qwen3.prompts import join_layers

TIMES = 1000.0  # the timesteps of ours are times multiplied by it


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


def read_states(output: Any, skip: int, pipe: object) -> Any:
    """Return the hidden states that the transformer reads, side by side."""
    return join_layers(output, getattr(pipe, "text_encoder_select_layers", LAYERS), skip)


def read_scale(scale: float) -> float:
    """Return our guidance scale: c + g (c - u) is u + (1 + g) (c - u), and none if g <= 0."""
    return 1.0 + max(scale, 0.0)
