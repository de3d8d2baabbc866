"""Calls of the networks of FLUX.3 by diffusers' pipelines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ldmref.families.flux3.positions import ROW_SCALE
from ldmref.families.flux3.text import LAYERS
from ldmref.families.qwen3.prompts import join_layers
from ldmref.models.transformer_layers import join_cells

STEPS = 1000.0  # training timesteps, over diffusers' time
TIMES = ("timestep", "target_timestep")
PLACES = "image_cond_ids"
POSITIONS = ("img_ids", "txt_ids")
SHARED = re.compile(  # layers that read or return a row for every token
    r"silu.*|\w+_stream_modulations\..*|norm_out.*|(mode_blocks\.\w+|\w+_blocks)\.\d+"
)


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours.

    Times are multiplied in the format of the tokens, as the transformer does.
    """
    found = dict(arguments)
    tokens, positions = found.get("hidden_states"), found.get("img_ids")
    if tokens is not None and positions is not None:
        rows, columns = (len(positions[:, axis].unique()) for axis in (1, 2))
        found["hidden_states"] = join_cells(tokens, rows, columns)
    for name in POSITIONS:  # ours follow from the arrays; others show in the first attention
        found.pop(name, None)
    for name in TIMES:
        if found.get(name) is not None:
            time = found[name] if tokens is None else found[name].to(tokens.dtype)
            found[name] = STEPS * time
    if found.get(PLACES) is not None:
        found[PLACES] = place_as_ours(found[PLACES])
    return found


def place_as_ours(ids: Any) -> Any:
    """Return the positions of references, (1, k, 4), of those of a call, (k, 4).

    Rows and columns of each reference begin at 0. Their scale and the number are ours: others
    show in the first attention.
    """
    import torch

    starts = (ids[:, 1] == 0) & (ids[:, 2] == 0)
    number = torch.cumsum(starts, dim=0)
    found = torch.zeros_like(ids)
    found[:, 3] = -number.to(ids.dtype)
    for k in number.unique():
        for axis in (1, 2):
            counted = ids[number == k, axis].unique(return_inverse=True)[1]
            found[number == k, axis] = ROW_SCALE * counted.to(ids.dtype)
    return found[None]


def read_layer(inputs: Mapping[str, Any], layer: str, array: Any) -> Any:
    """Return an array of a layer as our layer of that name has it.

    Modulations are the same for all tokens of a mode, and diffusers has a row for each.
    """
    import torch

    if array.ndim != 3 or not SHARED.fullmatch(layer):
        return array
    first = array[:, :1]
    return first if torch.equal(array, first.expand_as(array)) else array


def read_states(output: Any, skip: int, pipe: object) -> Any:
    """Return the hidden states that the transformer reads, side by side."""
    count = len(output.hidden_states)
    return join_layers(output, LAYERS if max(LAYERS) < count else range(1, count - 1), skip)
