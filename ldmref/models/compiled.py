"""Networks compiled with their parameters, kept until either changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ldmref.backends.base import Backend
from ldmref.models.params import Params


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
