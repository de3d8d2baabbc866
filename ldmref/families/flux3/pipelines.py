"""How diffusers' pipelines call the networks of FLUX.3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.families.flux3.presets import LAYERS

STEPS = 1000.0  # training timesteps, over diffusers' time
TIMES = ("timestep", "target_timestep")
PLACES = "image_cond_ids"
SHARED = ("stream_modulations.", "norm_out.linear")  # layers with a row for every token


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours."""
    found = dict(arguments)
    for name in TIMES:
        if found.get(name) is not None:
            found[name] = STEPS * found[name]
    if found.get(PLACES) is not None:
        found[PLACES] = found[PLACES][None]
    return found


def read_layer(inputs: Mapping[str, Any], layer: str, array: Any) -> Any:
    """Return an array of a layer as our layer of that name has it.

    Modulations are the same for all tokens of a mode, and diffusers has a row for each.
    """
    is_shared = any(name in layer for name in SHARED)
    return array[:, :1] if is_shared and array.ndim == 3 else array


def join_cells(tokens: Any, rows: int, columns: int) -> Any:
    """Return tokens (n, rows * columns, c) as latents (n, c, rows, columns)."""
    n, _, c = tokens.shape
    return tokens.swapaxes(1, 2).reshape(n, c, rows, columns)


def read_states(output: Any, skip: int, pipe: Any) -> Any:
    """Return the hidden states that the transformer reads, one beside the other."""
    import torch

    states = output.hidden_states
    layers = LAYERS if max(LAYERS) < len(states) else range(1, len(states) - 1)
    return torch.cat([states[layer - skip] for layer in layers], dim=-1)
