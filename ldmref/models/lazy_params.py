"""The parameters of a model's networks: brought when used, compiled with, released to make room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ldmref.backends.base import Backend
from ldmref.models.params import Params, flatten, tree_map
from ldmref.models.streaming import stream_blocks
from ldmref.support.deferred import DeferredArray
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.support.memmap import (
    ArrayReference,
    find_mapping,
    make_reference,
    release_pages,
    require_complete,
)

WeightCheck: TypeAlias = Callable[[str, Mapping[str, Any]], Iterable[str]]


class LazyParams(LazyMapping[Params]):
    """The parameters of each network (`unet`, `vae`, ...), on a backend.

    Host arrays in a memory-mapped file, or deferred, stay there until their network is used, and
    can be released again, since the file can bring them back. All others are brought to the backend
    at once.

    Args:
        backend: The backend.
        networks: A tree of host arrays per network.
        check: A function of a network's name and tree that raises an error or returns warnings. It
            is called when the network is brought for the first time.

    Attributes:
        copied: Whether `read_all` has brought every network.
    """

    def __init__(
        self, backend: Backend, networks: Mapping[str, Any], check: WeightCheck | None = None
    ):
        self._backend = backend
        self._check = check
        self._bringing = threading.Lock()
        self.copied = False
        self._streamed: frozenset[str] = frozenset()  # networks whose blocks come when used
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

    @property
    def names(self) -> Collection[str]:
        """The names of the networks."""
        return self._names

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
        self.copied = True

    def release(self, *names: str) -> None:
        """Free the memory of the given networks, if the file can bring them back."""
        for name in names:
            if name in self._mapped:
                self._on_backend.pop(name, None)

    def stream(self, names: Collection[str]) -> None:
        """Bring the blocks of these networks when they are used, and all of the other networks.

        Args:
            names: Networks that can be released; others are whole.
        """
        changed = self._streamed ^ frozenset(names)
        self._streamed = frozenset(names)
        self.release(*changed)

    def stored(self, name: str) -> Mapping[str, Any] | None:
        """Return a network as the file holds it, before the backend rounds its numbers.

        Args:
            name: The name of the network.

        Returns:
            A tree of host arrays; None if the network does not depend on a file.
        """
        return None if self.copied else self._mapped.get(name)

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
        other._streamed = self._streamed
        other.copied = self.copied
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
        return state | {"check": self._check, "warnings": self._warnings, "copied": self.copied}

    def __setstate__(self, state: dict[str, Any]) -> None:
        files: dict[str, np.memmap] = {}

        def opened(leaf: object) -> Any:
            return leaf.open(files) if isinstance(leaf, ArrayReference) else leaf

        self._backend = state["backend"]
        self._bringing = threading.Lock()
        self._streamed = frozenset()
        self.copied = state["copied"]
        self._names = state["names"]
        self._check = state["check"]
        self._warnings = state["warnings"]
        self._mapped = {n: tree_map(opened, tree) for n, tree in state["mapped"].items()}
        self._on_backend = {n: self._bring(tree) for n, tree in state["host"].items()}

    def _bring_first(self, name: str, tree: Mapping[str, Any], copy: bool = False) -> Params:
        """Bring a network, and check its weights if this is the first time."""
        if self._check is not None and name not in self._warnings:
            self._warnings[name] = tuple(self._check(name, tree))
        if name in self._streamed and not copy:
            return stream_blocks(tree, self._bring)
        return self._bring(tree, copy)

    def _bring(self, tree: Mapping[str, Any], copy: bool = False) -> Params:
        def bring(leaf: Any) -> Any:
            require_complete(leaf)
            array = np.asarray(leaf) if isinstance(leaf, DeferredArray) else leaf
            shared = isinstance(leaf, DeferredArray) and not array.flags.writeable
            weight = self._backend.weight(np.array(array) if copy or shared else array)
            if isinstance(leaf, np.ndarray):
                release_pages(leaf)  # the backend has copied it, or will read it again
            return weight

        with self._backend.recording():  # a network is often brought when a run first needs it
            return tree_map(bring, tree)


def _as_reference(leaf: object) -> Any:
    """Return what is pickled of a host array: a reference, if a file can bring it back."""
    return make_reference(leaf) or leaf


def _is_mapped(tree: Mapping[str, Any]) -> bool:
    leaves = flatten(tree).values()
    return all(isinstance(leaf, DeferredArray) or find_mapping(leaf) for leaf in leaves)


class CompiledNetworks:
    """The networks that `Backend.compile` returned; copies and pickles start empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, Callable], tuple[Backend, Params, Callable]] = {}

    def get(self, ops: Backend, function: Callable, params: Params, name: str = "") -> Callable:
        """Return `function(ops, params, ...)` as a function of the remaining arguments.

        Args:
            ops: The backend that compiles it.
            function: The network's definition.
            params: The parameters of the network, or of the networks that share them.
            name: The name of the parameters, for `forget`.
        """
        key = name, function
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry[0] is not ops or entry[1] is not params:
                entry = ops, params, ops.compile(function, params)
                self._entries[key] = entry
            return entry[2]

    def forget(self, name: str) -> None:
        """Release the compiled networks with the parameters of that name."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == name]:
                del self._entries[key]

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the compiled networks, which are compiled again after unpickling."""
        return type(self), ()
