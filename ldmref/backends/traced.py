"""A backend that times and counts the operations of another, layer by layer, for profiles.

    ops = TracedBackend(get_backend("numpy"))
    unet(ops, ...)
    ops.records[0]    # Record(index=0, name='linear', inputs=..., seconds=..., flops=..., layer='')

To compare what two programs compute, record both and run `ldmref diff`.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ldmref.backends.base import Backend
from ldmref.backends.named import (
    OPERATIONS,
    LayerCall,
    NamedBackend,
    collect_names,
    parameter_arguments,
)
from ldmref.math.arrays import Array


@dataclass(frozen=True)
class Record:
    """One operation, in the order of execution.

    Args:
        index: Position in the trace, from 0.
        name: Name of the operation.
        inputs: Shapes of the array arguments.
        output: Shape of the result.
        seconds: Time that it took.
        flops: Two per multiply-add in linear, geglu, conv2d and attention; 0 for the others.
        layer: Name of the layer whose parameters it used, or of the one around an operation without
            parameters; "" if it is not known.
    """

    index: int
    name: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    seconds: float
    flops: int
    layer: str = ""


class TracedBackend(NamedBackend):
    """A backend that times each operation of `inner` and records it in `records`.

    Networks that are called through `compile`, such as those of a model, name their layers
    themselves; `layer_of` names those of other functions.

    Args:
        inner: Backend that computes.
        layer_of: Layer names by the `id` of their parameters (`layer_names`). The parameters must
            outlive the trace.
    """

    observes_layers = False  # keys and values of the text may be cached

    def __init__(self, inner: Backend, layer_of: Mapping[int, str] | None = None):
        super().__init__(inner, decompose=False)
        self.layer_of = layer_of or {}
        self.records: list[Record] = []

    @property
    def layer_of(self) -> Mapping[int, str]:
        """Layer names by the `id` of their parameters."""
        return self._names

    @layer_of.setter
    def layer_of(self, names: Mapping[int, str]) -> None:
        self._names = dict(names)

    def differentiable(self) -> TracedBackend:
        """Return a traced backend that records gradients and shares these records."""
        other = TracedBackend(self.inner.differentiable(), self.layer_of)
        other.records = self.records
        return other

    def name_parameters(self, params: Mapping[str, Any], prefix: str = "") -> None:
        """Name the layers of a network, unless `layer_of` names some of them."""
        if self._names.keys().isdisjoint(layer_names(params)):
            super().name_parameters(params, prefix)

    def visit(self, call: LayerCall) -> Any:
        """Record an operation; layers of several operations are only called."""
        if call.composite or call.kind not in OPERATIONS:
            return call.compute(call.inputs)
        return self.operate(call, arrays_of(call))

    def operate(self, call: LayerCall, arrays: list[Array]) -> Array:
        """Compute one operation and record it; `arrays` are all its arguments that are arrays."""
        self.synchronize()
        start = time.perf_counter()
        y = call.compute(call.inputs)
        self.synchronize()
        seconds = time.perf_counter() - start
        shapes = tuple(tuple(x.shape) for x in arrays)
        out = tuple(y.shape)
        flops = _flops(call.kind, shapes, out)
        self.records.append(
            Record(len(self.records), call.kind, shapes, out, seconds, flops, call.layer)
        )
        return y


def arrays_of(call: LayerCall) -> list[Array]:
    """Return inputs and parameters of an operation in the order of its arguments."""
    first, names = _arguments(call.kind)
    arrays = {**call.inputs, **call.parameters}
    roles = ["input" if name == first else name for name in names]
    return [arrays[role] for role in roles if role in arrays]


@cache
def _arguments(operation: str) -> tuple[str, list[str]]:
    """Return the name of the first input of an operation, and those of all arguments."""
    names = list(inspect.signature(getattr(Backend, operation)).parameters)[1:]
    owned = parameter_arguments(operation)
    return next(name for name in names if name not in owned), names


def _flops(name: str, shapes: tuple[tuple[int, ...], ...], out: tuple[int, ...]) -> int:
    if name in ("linear", "conv2d"):  # a sum over one row of the weight per output
        return 2 * math.prod(out) * math.prod(shapes[1][1:])
    if name == "geglu":  # two such sums per output
        return 4 * math.prod(out) * shapes[1][1]
    if name == "attention":
        (n, heads, length, d) = shapes[0]
        (*_, keys, d_v) = shapes[2]
        return 2 * n * heads * length * keys * (d + d_v)
    return 0


def layer_names(params: Mapping[str, Any], name: str = "") -> dict[int, str]:
    """Return the names of layers by the `id` of their parameters, for `layer_of`.

    Parts of the tree have an entry, which names operations without parameters within them.

    Args:
        params: Tree of a network, `model.params["unet"]`, or of all, `model.params`. It must live
            as long as the names are used.
        name: Name of the tree, put before the names of its parts.
    """
    layers: dict[int, str] = {}
    collect_names(params, name, layers)
    return layers
