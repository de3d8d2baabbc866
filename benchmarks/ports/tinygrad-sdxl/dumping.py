"""Write down what layers of tinygrad read and return, as plain arrays.

tinygrad has no class of all modules and no hooks, so the methods of its layers are wrapped.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from tinygrad import Tensor, nn
from tinygrad.nn.state import get_state_dict, load_state_dict

LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)


class Dump:
    """The arrays of a network's layers, by the names of a trace.

    Args:
        net: The network.
        prefix: What precedes the names of its layers in the makers' file.

    Attributes:
        arrays: The arrays.
        call: The call that runs.
    """

    def __init__(self, net: object, prefix: str):
        self.arrays: dict[str, np.ndarray] = {}
        self.call = ""
        self._names: dict[int, str] = {}
        for name in get_state_dict(net):
            path = name.rpartition(".")[0]
            layer = functools.reduce(_part_of, path.split("."), net)
            self._names[id(layer)] = prefix + path

    def note(self, name: str, **arrays: Tensor) -> None:
        """Keep arrays of a layer, or of the whole network, whose name is empty, by their roles."""
        for role, x in arrays.items():
            self.arrays[f"{self.call}/{name}/{role}"] = x.numpy()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Keep what the layers read and return in a block."""
        methods = {kind: kind.__call__ for kind in LAYERS}
        for kind, method in methods.items():
            kind.__call__ = self._make_seen(method)
        try:
            yield
        finally:
            for kind, method in methods.items():
                kind.__call__ = method

    def _make_seen(self, method: Any) -> Any:
        def run(layer: object, x: Tensor) -> Tensor:
            y = method(layer, x).realize()
            if id(layer) in self._names:
                self.note(self._names[id(layer)], input=x, output=y)
            return y

        return run


def _part_of(module: Any, name: str) -> Any:
    return module[int(name)] if isinstance(module, list | tuple) else getattr(module, name)


def load(net: object, weights: Mapping[str, np.ndarray], prefix: str) -> None:
    """Load the weights of a makers' file that have a prefix, of those names that both have."""
    own = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
    tensors = {name: Tensor(np.array(x, np.float32)) for name, x in own.items()}
    load_state_dict(net, tensors, strict=False, verbose=False)
