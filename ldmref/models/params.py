"""Parameters: a nested dictionary of arrays whose paths are the names in the checkpoint.

`{"down_blocks": {"0": {"resnets": {"0": {"conv1": {"weight": ...}}}}}}` is the name
`down_blocks.0.resnets.0.conv1.weight` split at the dots, so loading needs no key mapping.
A *spec* is the same tree with shapes (tuples of int) instead of arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]
Spec: TypeAlias = dict[str, "Shape | Spec"]
"""The shapes of a tree of parameters: a shape, or another tree, by name."""


class Params(dict[str, Any]):
    """A tree of parameters, or a part of it, whose keys are also attributes: `p.conv1.weight`.

    Networks only read it; it is an ordinary mutable dictionary.

    Attributes:
        path: Its place in the tree of a network, once `name_parts` has said it.

    >>> from ldmref.models import unflatten
    >>> params = unflatten({"mid.resnets.0.bias": 1.0, "mid.resnets.1.bias": 2.0})
    >>> params.mid.resnets["0"].bias, len(params.mid.resnets.items_in_order())
    (1.0, 2)
    """

    path: str | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}; here are {sorted(self)}") from None

    def items_in_order(self) -> list[Params]:
        """Return the children of a numbered list (`resnets.0`, `resnets.1`, ...)."""
        return [self[str(i)] for i in range(len(self))]


def name_parts(tree: Any, path: str = "") -> None:
    """Tell the parts of a tree of parameters their paths, which are the names of layers.

    Args:
        tree: The parameters of a network, or a part of them. Blocks that are brought when they are
            used name their parts themselves.
        path: The path of the tree itself.

    >>> from ldmref.models.params import name_parts
    >>> params = unflatten({"mid.resnets.0.bias": 1.0})
    >>> name_parts(params)
    >>> params.mid.resnets["0"].path
    'mid.resnets.0'
    """
    tree.path = path
    for name, child in tree.items() if isinstance(tree, dict) else ():
        if isinstance(child, Mapping):
            name_parts(child, f"{path}.{name}" if path else name)


def numbered(children: Iterable[Spec]) -> Spec:
    """Build a spec of children named "0", "1", ..., as `Params.items_in_order` reads them.

    Args:
        children: The specs of the children, in their order.

    Returns:
        The spec.

    >>> numbered([{"weight": (4, 3)}, {"weight": (4, 4)}])
    {'0': {'weight': (4, 3)}, '1': {'weight': (4, 4)}}
    """
    return {str(i): child for i, child in enumerate(children)}


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Return the tree of parameters with these dotted names.

    Args:
        flat: Arrays, or anything else, by dotted name.

    Returns:
        A tree of `Params`, whose keys are also attributes; keys are strings, also those of lists.

    >>> from ldmref.models import unflatten
    >>> unflatten({"mid.weight": 1.0}).mid.weight
    1.0
    """
    tree = Params()
    for name, leaf in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, Params())
        node[last] = leaf
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by dotted name, the inverse of `unflatten`.

    Args:
        tree: Nested dictionaries, such as `model.params["unet"]`.
        prefix: Text before each name.

    Returns:
        A flat dictionary in the order of the tree.

    >>> from ldmref.models import flatten
    >>> flatten({"mid": {"weight": 1.0, "bias": 0.0}})
    {'mid.weight': 1.0, 'mid.bias': 0.0}
    """
    flat: dict[str, Any] = {}
    for name, child in tree.items():
        if isinstance(child, Mapping):
            flat.update(flatten(child, f"{prefix}{name}."))
        else:
            flat[prefix + name] = child
    return flat


def tree_map(function: Callable[[Any], Any], tree: Mapping[str, Any]) -> Params:
    """Apply `function` to every leaf."""
    return unflatten({name: function(leaf) for name, leaf in flatten(tree).items()})


def count(spec: Mapping[str, Shape | Spec]) -> int:
    """Count the parameters."""
    return sum(math.prod(shape) for shape in flatten(spec).values())


AT_ONE = ("weight", "running_var")  # ends of the names of vectors that begin at one


def init(spec: Mapping[str, Shape | Spec], seed: int = 0) -> Params:
    """Sample seeded random parameters with the given shapes, float32.

    Matrices and kernels are uniform in +-1/sqrt(fan-in), as in PyTorch's layers. Vectors named
    `weight` (norms) or `running_var` (variances) are one, other vectors zero, and embeddings normal
    with standard deviation 0.02. Each tensor has its own random stream, keyed by seed and name,
    independent of the other tensors.

    Args:
        spec: The shapes.
        seed: The seed of the streams.

    Returns:
        The parameters, a tree of NumPy arrays.

    >>> init({"proj": {"weight": (4, 3), "bias": (4,)}}, seed=1).proj.bias
    array([0., 0., 0., 0.], dtype=float32)
    """

    def sample(name: str, shape: Shape) -> np.ndarray:
        if len(shape) == 1:
            return np.full(shape, float(name.endswith(AT_ONE)), np.float32)
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        if "embedding.weight" in name:
            return 0.02 * stream.standard_normal(shape, np.float32)
        bound = 1.0 / math.sqrt(math.prod(shape[1:]))
        return bound * (2.0 * stream.random(shape, np.float32) - 1.0)

    return unflatten({name: sample(name, shape) for name, shape in flatten(spec).items()})
