"""A backend that records the operations of another: layer trace, profile and bisection.

Wrap two backends and run the same network on both: `first_difference` names the first operation in
which they differ.

    a, b = (TracedBackend(get_backend(name), keep=True) for name in ("numpy", "torch"))
    unet(a, ...); unet(b, ...)
    first_difference(a, b, rtol=1e-4)    # Difference(index=17, name='conv2d', error=0.31) or None
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.named import (
    OPERATIONS,
    PARAMETER_ARGUMENTS,
    LayerCall,
    NamedBackend,
    collect_names,
)
from ldmref.errors import UsageError
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
        array: The result, with `keep`.
        layer: Name of the layer whose parameters it used, or of the one around an operation without
            parameters; "" if it is not known.
    """

    index: int
    name: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    seconds: float
    flops: int
    array: np.ndarray | None = field(default=None, repr=False)
    layer: str = ""


@dataclass(frozen=True)
class Difference:
    """The first operation in which two traces differ.

    Args:
        index: Position in the traces.
        name: Name of the operation.
        error: Largest difference, relative to the largest value of the second trace; infinite for
            different shapes and for values that are not finite.
        layer: Name of the layer, if either trace knows it.
    """

    index: int
    name: str
    error: float
    layer: str = ""


class TracedBackend(NamedBackend):
    """A backend that times each operation of `inner` and records it in `records`.

    Networks that are called through `compile`, such as those of a model, name their layers
    themselves; `layer_of` names those of other functions.

    Args:
        inner: Backend that computes.
        keep: Whether records hold the results.
        layer_of: Layer names by the `id` of their parameters (`layer_names`). The parameters must
            outlive the trace.
    """

    observes_layers = False  # keys and values of the text may be cached

    def __init__(
        self, inner: Backend, keep: bool = False, layer_of: Mapping[int, str] | None = None
    ):
        super().__init__(inner, decompose=False)
        self.keep = keep
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
        other = TracedBackend(self.inner.differentiable(), self.keep, self.layer_of)
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
        # a copy, safe from in-place changes
        array = np.array(self.to_numpy(y)) if self.keep else None
        flops = _flops(call.kind, shapes, out)
        record = Record(
            len(self.records), call.kind, shapes, out, seconds, flops, array, call.layer
        )
        self.records.append(record)
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
    return next(name for name in names if name not in PARAMETER_ARGUMENTS), names


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


def first_difference(a: TracedBackend, b: TracedBackend, rtol: float) -> Difference | None:
    """Return the first operation whose name, shape or values differ, None if all agree.

    Args:
        a, b: Traces of the same computation, recorded with `keep=True`.
        rtol: Error allowed, max |a - b| / max |b|. NaN and infinity count as a difference.

    Raises:
        UsageError: A trace does not hold the results.
    """
    for i, (x, y) in enumerate(zip_longest(a.records, b.records)):
        if x is None or y is None:
            longer = a.records if y is None else b.records
            return Difference(i, longer[i].name, math.inf, longer[i].layer)
        layer = x.layer or y.layer
        if (x.name, x.output) != (y.name, y.output):
            return Difference(i, x.name, math.inf, layer)
        if x.array is None or y.array is None:
            raise UsageError("both traces need keep=True to be compared", code="E-TRACE")
        with np.errstate(invalid="ignore", over="ignore"):
            scale = np.max(np.abs(y.array), initial=np.finfo(float).tiny)
            error = np.max(np.abs(np.subtract(x.array, y.array, dtype=float)), initial=0.0) / scale
        if not error <= rtol:
            return Difference(i, x.name, float(error), layer)
    return None
