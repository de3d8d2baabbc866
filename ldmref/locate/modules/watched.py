"""A copy of a module whose calls are seen, and may be answered instead of computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from ldmref.trace import torch_names as known
from ldmref.trace.torch_scopes import CHUNKED, LAYER, find_layers


@dataclass(frozen=True)
class WatchedLayer:
    """A submodule of a network, whose calls are seen.

    Attributes:
        path: Its path.
        name: The name of its layer; "" for activations, which are operations.
        kind: Its kind; "" if it is not known. Of an activation, the operation.
        module: The module.
        forward: Computes it, without being seen.
    """

    path: str
    name: str
    kind: str
    module: torch.nn.Module
    forward: Callable[..., Any]


class Follower(Protocol):
    """An object that sees the calls of a watched network."""

    def see_layer(self, layer: WatchedLayer, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a layer."""
        ...

    def see_part(self, layer: WatchedLayer, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a layer that is called for a part of the tokens at a time."""
        ...

    def see_function(self, func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a function of torch."""
        ...


class WatchedNetwork:
    """A copy of a module; it is changed.

    Args:
        network: The copy.
        dtype: The number format in which it computes.

    Attributes:
        layers: Its layers by path.
        follower: What sees its calls. None: they are computed.
    """

    def __init__(self, network: torch.nn.Module, dtype: torch.dtype):
        self.network = network
        self.dtype = dtype
        self.follower: Follower | None = None
        self.layers: dict[str, WatchedLayer] = {}
        rename = known.make_renamer(network)
        for found in list(find_layers(network, rename)):
            kind = known.kind_of(found.module) if found.role == LAYER else found.role
            forward = found.module.forward
            layer = WatchedLayer(found.path, found.name, kind, found.module, forward)
            self.layers[found.path] = layer
            found.module.forward = self._seen(layer, found.role == CHUNKED)

    def _seen(self, layer: WatchedLayer, part: bool) -> Callable[..., Any]:
        @wraps(layer.forward)
        def run(*args: object, **kwargs: object) -> Any:
            follower = self.follower
            if follower is None:
                return layer.forward(*args, **kwargs)
            see = follower.see_part if part else follower.see_layer
            return see(layer, args, kwargs)

        return run


class SeenFunctions(TorchFunctionMode):
    """Shows a follower each call of a function of torch that code makes."""

    def __init__(self, follower: Follower):
        super().__init__()
        self.follower = follower
        self._active = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See the calls in a block, once each."""
        if self._active:
            yield
            return
        with self:
            self._active = True
            try:
                yield
            finally:
                self._active = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self._active = False  # torch does not call this for what it calls itself
        try:
            return self.follower.see_function(func, args, kwargs or {})
        finally:
            self._active = True
