"""Calls of the networks of Qwen-Image 2.1 by diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IMAGE_START = "image_start"  # the place of images on the first axis
STEPS = 1000.0  # training timesteps of the time of the transformer
TIMES = ("time_text_embed", "time_text_embed.time_proj")  # the layers that get the time


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours.

    Without padding the pipeline passes no mask; with it, images begin behind the padding. Times are
    multiplied in float32, as the transformer does.
    """
    import torch

    states = arguments["encoder_hidden_states"]
    mask = arguments.get("encoder_hidden_states_mask")
    start = {} if mask is None else {IMAGE_START: torch.full(states.shape[:1], states.shape[1])}
    if mask is None:
        mask = torch.ones(states.shape[:2])
    return start | {
        "sample": arguments["hidden_states"],
        "timestep": STEPS * arguments["timestep"].float(),
        "encoder_hidden_states": states,
        "encoder_attention_mask": mask.long(),
    }


def read_layer(inputs: Mapping[str, Any], layer: str, array: Any) -> Any | None:
    """Return an array of a layer as ours: times as timesteps, of the last layers the image alone.

    Steps after the first compute the image alone in the blocks, as no layer of ours does; their
    arrays are left out.
    """
    cells = inputs["sample"].shape[-2] * inputs["sample"].shape[-1]
    if layer.startswith(("norm_out", "proj_out")) or not layer:
        return array[:, -cells:] if array.ndim == 3 else array
    if layer in TIMES and array.ndim != 2:  # its second argument only says a data type
        return STEPS * array.float() if array.ndim == 1 else None
    if not layer.startswith("transformer_blocks") or array.ndim < 3:
        return array
    text = inputs["encoder_hidden_states"].shape[1]
    attends = layer.rpartition(".")[2]
    if attends == "attention":  # of the text; that of the image follows in the first step
        return array if array.shape[2] == text else None
    return None if attends != "attention~1" and array.shape[1] == cells else array


def read_states(output: Any, skip: int, pipeline: object) -> Any:
    """Return the last hidden states, of which the pipeline has taken off the norm."""
    return output.hidden_states[-1 - skip]
