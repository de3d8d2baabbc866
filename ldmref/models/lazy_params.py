"""A model's parameters, each network's brought to the backend when it is first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.mapped import file_of, forget
from ldmref.models.params import Params, flatten, tree_map


class LazyParams(Mapping[str, Params]):
    """The parameters of each network (`unet`, `vae`, ...), on a backend.

    Host arrays in a memory-mapped file stay there until their network is used, and can be released
    again: the file brings them back. All others are brought to the backend at once, and stay.
    """

    def __init__(self, backend: Backend, networks: Mapping[str, Any]):
        self._backend = backend
        self._names = tuple(networks)
        self._mapped = {name: tree for name, tree in networks.items() if _is_mapped(tree)}
        self._on_backend = {
            name: self._bring(tree) for name, tree in networks.items() if name not in self._mapped
        }

    def __getitem__(self, name: str) -> Params:
        if name not in self._on_backend:
            self._on_backend[name] = self._bring(self._mapped[name])
        return self._on_backend[name]

    def __getattr__(self, name: str) -> Params:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"no network {name!r}")
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def releasable(self) -> tuple[str, ...]:
        """The networks that can be released."""
        return tuple(self._mapped)

    def release(self, *names: str) -> None:
        """Free the memory of those networks that the file can bring back."""
        for name in names:
            if name in self._mapped:
                self._on_backend.pop(name, None)

    def replaced(self, networks: Mapping[str, Params]) -> LazyParams:
        """The same, sharing all memory, with some networks replaced by ones on the backend."""
        other = LazyParams(self._backend, {})
        other._names = tuple(dict.fromkeys((*self._names, *networks)))
        other._mapped = {k: tree for k, tree in self._mapped.items() if k not in networks}
        other._on_backend = self._on_backend | dict(networks)
        return other

    def _bring(self, tree: Mapping[str, Any]) -> Params:
        def bring(leaf: Any) -> Any:
            weight = self._backend.weight(leaf)
            if isinstance(leaf, np.ndarray):
                forget(leaf)  # the backend has copied it, or will read it again
            return weight

        return tree_map(bring, tree)


def _is_mapped(tree: Mapping[str, Any]) -> bool:
    leaves = flatten(tree).values()
    return all(isinstance(leaf, np.ndarray) and file_of(leaf) for leaf in leaves)
