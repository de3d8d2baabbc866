"""Networks of a training as compiled graphs.

On a GPU, a small network takes less time than starting its operations one by one. torch.compile
makes one graph of a network, forward and backward; on CUDA it is replayed as CUDA graphs. Compiling
takes a minute or more at the first step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from ldmref.backends.torch import TorchBackend
from ldmref.models.params import Params, flatten, unflatten


class NetworkGraphs:
    """The networks that a training has compiled, each once.

    Args:
        ops: The backend that trains.
    """

    def __init__(self, ops: TorchBackend):
        self.ops = ops
        self._compiled: dict[str, Callable] = {}

    def begin_step(self) -> None:
        """Let the graphs overwrite the results of the step before."""
        if torch.device(self.ops.device).type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()

    def bind(self, name: str, function: Callable, params: Params) -> Callable:
        """Return `function(ops, params, ...)` of the network of that name, compiled.

        Args:
            name: The name of the network, always of the same function.
            function: The function.
            params: Its parameters, under autograd; their shapes are those of every step.
        """
        compiled = self._compiled.get(name)
        if compiled is None:
            compiled = self._compiled[name] = self._compile(function)
        flat = flatten(params)

        def network(*args: object) -> Any:
            with warnings.catch_warnings():  # caches in array-api-compat
                warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru")
                return compiled(flat, *args)

        return network

    def _compile(self, function: Callable) -> Callable:
        cuda = torch.device(self.ops.device).type == "cuda"

        def call(flat: dict[str, torch.Tensor], *args: object) -> Any:
            return function(self.ops, unflatten(flat), *args)

        mode = "reduce-overhead" if cuda else None
        return torch.compile(call, dynamic=False, mode=mode)
