"""Parameters: a nested dictionary of arrays whose paths are the checkpoint's names.

`{"down_blocks": {"0": {"resnets": {"0": {"conv1": {"weight": ...}}}}}}` is the flat file
`down_blocks.0.resnets.0.conv1.weight` split at the dots, so loading is no mapping at all.
A *spec* is the same tree with shapes (tuples of int) in place of the arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Spec = dict[str, Any]


class Params(dict):
    """A read-only subtree that can be read as attributes: `p.conv1.weight`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}; here are {sorted(self)}") from None

    def items_in_order(self) -> list[Params]:
        """The children of a numbered list (`resnets.0`, `resnets.1`, ...)."""
        return [self[str(i)] for i in range(len(self))]


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Split the names of `flat` at the dots into a nested tree."""
    tree = Params()
    for name, leaf in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, Params())
        node[last] = leaf
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `unflatten`: every leaf under its dotted name."""
    flat: dict[str, Any] = {}
    for name, child in tree.items():
        if isinstance(child, Mapping):
            flat.update(flatten(child, f"{prefix}{name}."))
        else:
            flat[prefix + name] = child
    return flat


def tree_map(function: Callable, tree: Mapping[str, Any]) -> Params:
    """`function` applied to every leaf."""
    return unflatten({name: function(leaf) for name, leaf in flatten(tree).items()})


def count(spec: Spec) -> int:
    """How many numbers a spec holds."""
    return sum(math.prod(shape) for shape in flatten(spec).values())


def init(spec: Spec, seed: int = 0) -> Params:
    """Seeded random parameters of the given shapes, float32.

    Matrices and kernels: uniform in +-1/sqrt(fan-in), as PyTorch's layers; vectors named `weight`
    (norms): one; biases: zero; embeddings: normal, 0.02. Each tensor has a stream of its own, keyed
    by seed and name, so a tensor does not depend on which others exist.
    """

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("weight")), np.float32)
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        if "embedding.weight" in name:
            return 0.02 * stream.standard_normal(shape, np.float32)
        bound = 1.0 / math.sqrt(math.prod(shape[1:]))
        return bound * (2.0 * stream.random(shape, np.float32) - 1.0)

    return unflatten({name: draw(name, shape) for name, shape in flatten(spec).items()})
