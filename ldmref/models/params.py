"""Parameters: a nested dictionary of arrays whose paths are the names in the checkpoint.

`{"down_blocks": {"0": {"resnets": {"0": {"conv1": {"weight": ...}}}}}}` is the name
`down_blocks.0.resnets.0.conv1.weight` split at the dots, so loading needs no key mapping.
A *spec* is the same tree with shapes (tuples of int) instead of arrays.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from ldmref.backends.base import Backend
from ldmref.support.deferred import DeferredArray
from ldmref.support.memmap import (
    ArrayReference,
    find_mapping,
    make_reference,
    release_pages,
    require_complete,
)

Shape: TypeAlias = tuple[int, ...]
Spec: TypeAlias = dict[str, "Shape | Spec"]
"""The shapes of a tree of parameters: a shape, or another tree, by name."""
WeightCheck: TypeAlias = Callable[[str, Mapping[str, Any]], Iterable[str]]


class Params(dict[str, Any]):
    """A tree of parameters, or a part of it, whose keys are also attributes: `p.conv1.weight`.

    Networks only read it; it is an ordinary mutable dictionary.

    >>> from ldmref.models import unflatten
    >>> params = unflatten({"mid.resnets.0.bias": 1.0, "mid.resnets.1.bias": 2.0})
    >>> params.mid.resnets["0"].bias, len(params.mid.resnets.items_in_order())
    (1.0, 2)
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}; here are {sorted(self)}") from None

    def items_in_order(self) -> list[Params]:
        """Return the children of a numbered list (`resnets.0`, `resnets.1`, ...)."""
        return [self[str(i)] for i in range(len(self))]


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


def init(spec: Mapping[str, Shape | Spec], seed: int = 0) -> Params:
    """Sample seeded random parameters with the given shapes, float32.

    Matrices and kernels are uniform in +-1/sqrt(fan-in), as in PyTorch's layers. Vectors named
    `weight` (norms) are one, biases zero, and embeddings normal with standard deviation 0.02. Each
    tensor has its own random stream, keyed by seed and name, independent of the other tensors.

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
            return np.full(shape, float(name.endswith("weight")), np.float32)
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        if "embedding.weight" in name:
            return 0.02 * stream.standard_normal(shape, np.float32)
        bound = 1.0 / math.sqrt(math.prod(shape[1:]))
        return bound * (2.0 * stream.random(shape, np.float32) - 1.0)

    return unflatten({name: sample(name, shape) for name, shape in flatten(spec).items()})


class LazyParams(Mapping[str, Params]):
    """The parameters of each network (`unet`, `vae`, ...), on a backend.

    Host arrays in a memory-mapped file, or deferred, stay there until their network is used, and
    can be released again, since the file can bring them back. All others are brought to the backend
    at once.

    Args:
        backend: The backend.
        networks: A tree of host arrays per network.
        check: A function of a network's name and tree that raises an error or returns warnings. It
            is called when the network is brought for the first time.
    """

    def __init__(
        self, backend: Backend, networks: Mapping[str, Any], check: WeightCheck | None = None
    ):
        self._backend = backend
        self._check = check
        self._bringing = threading.Lock()
        self._warnings: dict[str, tuple[str, ...]] = {}  # of the networks that were checked
        self._names = tuple(networks)
        self._mapped = {name: tree for name, tree in networks.items() if _is_mapped(tree)}
        self._on_backend = {
            name: self._bring_first(name, tree)
            for name, tree in networks.items()
            if name not in self._mapped
        }

    def __getitem__(self, name: str) -> Params:
        params = self._on_backend.get(name)  # another thread may release it at any time
        if params is not None:
            return params
        with self._bringing:  # one thread brings it, and the others wait for it
            params = self._on_backend.get(name)
            if params is None:
                params = self._bring_first(name, self._mapped[name])
                self._on_backend[name] = params
        return params

    def __getattr__(self, name: str) -> Params:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"no network {name!r}")
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the networks that were brought so far."""
        return tuple(warning for name in self._names for warning in self._warnings.get(name, ()))

    @property
    def releasable(self) -> tuple[str, ...]:
        """The networks that can be released."""
        return tuple(self._mapped)

    def read_all(self) -> None:
        """Bring every network now, as copies that no longer depend on the file."""
        for name, tree in self._mapped.items():
            self._on_backend[name] = self._bring_first(name, tree, copy=True)

    def release(self, *names: str) -> None:
        """Free the memory of the given networks, if the file can bring them back."""
        for name in names:
            if name in self._mapped:
                self._on_backend.pop(name, None)

    def replaced(self, networks: Mapping[str, Params]) -> LazyParams:
        """Return a copy that shares all memory, with some networks replaced.

        Args:
            networks: Parameters on the backend, by network.
        """
        other = LazyParams(self._backend, {})
        other._names = tuple(dict.fromkeys((*self._names, *networks)))
        other._mapped = {k: tree for k, tree in self._mapped.items() if k not in networks}
        other._on_backend = self._on_backend | dict(networks)
        other._check = self._check
        other._warnings = self._warnings
        return other

    def __repr__(self) -> str:
        return f"<LazyParams of {', '.join(self._names)}>"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays in a file as references to it, the others as NumPy arrays."""
        mapped = {n: tree_map(_as_reference, tree) for n, tree in self._mapped.items()}
        host = {
            name: tree_map(self._backend.to_numpy, tree)
            for name, tree in dict(self._on_backend).items()
            if name not in mapped
        }
        state = {"backend": self._backend, "names": self._names, "mapped": mapped, "host": host}
        return state | {"check": self._check, "warnings": self._warnings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        files: dict[str, np.memmap] = {}

        def opened(leaf: Any) -> Any:
            return leaf.open(files) if isinstance(leaf, ArrayReference) else leaf

        self._backend = state["backend"]
        self._bringing = threading.Lock()
        self._names = state["names"]
        self._check = state["check"]
        self._warnings = state["warnings"]
        self._mapped = {n: tree_map(opened, tree) for n, tree in state["mapped"].items()}
        self._on_backend = {n: self._bring(tree) for n, tree in state["host"].items()}

    def _bring_first(self, name: str, tree: Mapping[str, Any], copy: bool = False) -> Params:
        """Bring a network, and check its weights if this is the first time."""
        if self._check is not None and name not in self._warnings:
            self._warnings[name] = tuple(self._check(name, tree))
        return self._bring(tree, copy)

    def _bring(self, tree: Mapping[str, Any], copy: bool = False) -> Params:
        def bring(leaf: Any) -> Any:
            require_complete(leaf)
            own = copy or isinstance(leaf, DeferredArray)
            weight = self._backend.weight(np.array(leaf) if own else leaf)
            if isinstance(leaf, np.ndarray):
                release_pages(leaf)  # the backend has copied it, or will read it again
            return weight

        with self._backend.recording():  # a network is often brought when a run first needs it
            return tree_map(bring, tree)


def _as_reference(leaf: Any) -> Any:
    """Return what is pickled of a host array: a reference, if a file can bring it back."""
    return make_reference(leaf) or leaf


def _is_mapped(tree: Mapping[str, Any]) -> bool:
    leaves = flatten(tree).values()
    return all(isinstance(leaf, DeferredArray) or find_mapping(leaf) for leaf in leaves)
