"""Compile a network as one graph with `torch.compile`, with its parameters as constants."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ldmref.backends.arguments import map_arrays
from ldmref.backends.base import Backend


def compile_network(
    network: Callable, ops: Backend, params: Mapping[str, Any], device: torch.device
) -> Callable:
    """Return `network(ops, params, ...)` as a compiled function of the remaining arguments.

    It compiles at the first call and again for each new shape. On CUDA it replays CUDA graphs.
    """
    from torch._inductor import config

    cuda = device.type == "cuda"
    mode = "reduce-overhead" if cuda else None
    compiled = torch.compile(_Network(network, ops, params), dynamic=False, mode=mode)

    def run(*args: object, **kwargs: object) -> Any:
        # Freezing packs the weights for oneDNN; torch.compile ignores it among its own options.
        with warnings.catch_warnings(), config.patch(freezing=not cuda):
            # caches in array-api-compat
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru")
            y = compiled(*args, **kwargs)
        return map_arrays(torch.clone, y) if cuda else y  # the next replay overwrites the outputs

    return run


class _Network(torch.nn.Module):
    """A network and its parameters, which freezing needs as buffers of a module."""

    def __init__(self, network: Callable, ops: Backend, params: Mapping[str, Any]):
        super().__init__()
        self._network = network
        self._ops = ops
        self._params = _ParamsModule(params)

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self._network(self._ops, self._params, *args, **kwargs)


class _ParamsModule(torch.nn.Module):
    """A parameter tree with the interface of `ldmref.models.params.Params`."""

    def __init__(self, params: Mapping[str, Any], path: str = ""):
        super().__init__()
        self.path = path
        for name, child in params.items():
            if isinstance(child, Mapping):
                self.add_module(name, _ParamsModule(child, f"{path}.{name}" if path else name))
            else:
                self.register_buffer(name, child)

    def __contains__(self, name: str) -> bool:
        return name in self._modules or name in self._buffers

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._modules, *self._buffers])

    def get(self, name: str) -> Any:
        return getattr(self, name) if name in self else None

    def items_in_order(self) -> list[Any]:
        return [self[str(i)] for i in range(len(self))]
