"""A model's networks, each brought to its backend when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.mapped import file_of, forget
from ldmref.models.params import Params, flatten, tree_map


class Parts(Mapping[str, Params]):
    """The parameters of each network (`unet`, `vae`, ...), on a backend.

    Host arrays that lie in a mapped file stay there until their network is used, and its network
    can be released: it comes back from the file. Others are brought over at once, and stay.
    """

    def __init__(self, backend: Backend, tree: Mapping[str, Any]):
        self._backend = backend
        self._mapped = {name: part for name, part in tree.items() if _is_mapped(part)}
        self._ready = {name: self._bring(part) for name, part in tree.items()
                       if name not in self._mapped}  # fmt: skip
        self._names = tuple(tree)

    def __getitem__(self, name: str) -> Params:
        if name not in self._ready:
            self._ready[name] = self._bring(self._mapped[name])
        return self._ready[name]

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
        """Give back the memory of networks that can come again."""
        for name in names:
            if name in self._mapped:
                self._ready.pop(name, None)

    def replaced(self, parts: Mapping[str, Params]) -> Parts:
        """The same, sharing all memory, with some networks replaced by ones on the backend."""
        other = Parts(self._backend, {})
        other._names = tuple(dict.fromkeys((*self._names, *parts)))
        other._mapped = {name: part for name, part in self._mapped.items() if name not in parts}
        other._ready = self._ready | dict(parts)
        return other

    def _bring(self, part: Mapping[str, Any]) -> Params:
        def leaf(x: Any) -> Any:
            ready = self._backend.weight(x)
            if isinstance(x, np.ndarray):
                forget(x)  # it was read for a copy, or will be read again at its use
            return ready

        return tree_map(leaf, part)


def _is_mapped(part: Mapping[str, Any]) -> bool:
    return all(isinstance(leaf, np.ndarray) and file_of(leaf) for leaf in flatten(part).values())
