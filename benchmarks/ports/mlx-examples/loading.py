"""Load weights into modules of mlx-examples, by its own mapping, and the names of its layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

NAMES = {
    "downsample": "downsamplers.0.conv",
    "upsample": "upsamplers.0.conv",
    "mid_blocks.0": "mid_block.resnets.0",
    "mid_blocks.1": "mid_block.attentions.0",
    "mid_blocks.2": "mid_block.resnets.1",
    "query_proj": "to_q",
    "key_proj": "to_k",
    "value_proj": "to_v",
    "out_proj": "to_out.0",
    "linear3": "ff.net.2",
}


def rename(path: str) -> str | None:
    """Return diffusers' name of a layer; None: a part of one, ff.net.0.proj."""
    if path.endswith(("linear1", "linear2")) and "transformer_blocks" in path:
        return None
    for own, name in NAMES.items():
        path = path.replace(own, name)
    return path


def load_weights(
    module: Any,
    weights: Mapping[str, Any],
    mapping: Callable[[str, mx.array], list[tuple[str, mx.array]]],
) -> None:
    """Load weights by their published names into a module of MLX.

    Raises:
        SystemExit: There is no weight for a parameter of the module.
    """
    mapped = [pair for name, x in weights.items() for pair in mapping(name, mx.array(x))]
    lacking = dict(tree_flatten(module.parameters())).keys() - dict(mapped).keys()
    if lacking:
        sys.exit(f"not loaded: {sorted(lacking)}")
    module.update(tree_unflatten(mapped))


def load_sanitized(module: Any, weights: Mapping[str, Any]) -> None:
    """Load weights by the names of their published file, as the port renames them.

    Raises:
        ValueError: There is no weight for a parameter of the module, or no parameter for a weight.
    """
    arrays = {name: mx.array(x) for name, x in weights.items()}
    module.load_weights([*module.sanitize(arrays).items()])
