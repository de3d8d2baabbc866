"""A backend that records the operations of another: layer trace, profile and bisection.

Wrap two backends and run the same network on both: `first_difference` names the first operation in
which they differ.

    a, b = (TracedBackend(get_backend(name), keep=True) for name in ("numpy", "torch"))
    unet(a, ...); unet(b, ...)
    first_difference(a, b, rtol=1e-4)    # Difference(index=17, name='conv2d', error=0.31) or None
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array

OPERATIONS = (
    "linear", "conv2d", "group_norm", "layer_norm", "attention", "embedding", "silu", "gelu",
    "quick_gelu", "upsample2x", "pad_bottom_right", "group_norm_silu", "geglu",
)  # fmt: skip


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
        layer: Name of the layer whose parameters it used, with `layer_of`.
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
        layer: Name of the layer whose parameters it used, if either trace has `layer_of`.
    """

    index: int
    name: str
    error: float
    layer: str = ""


class TracedBackend(Backend):
    """A backend that times each operation of `inner` and records it in `records`.

    Args:
        inner: Backend that computes.
        keep: Whether records hold the results.
        layer_of: Layer names by the `id` of their parameters (`layer_names`). The parameters must
            outlive the trace.
    """

    def __init__(
        self, inner: Backend, keep: bool = False, layer_of: Mapping[int, str] | None = None
    ):
        self.inner = inner
        self.keep = keep
        self.layer_of = layer_of or {}
        for attribute in dir(inner):  # delegate everything that is not recorded
            derived = isinstance(getattr(Backend, attribute, None), property)
            own = attribute in (*OPERATIONS, "call_layer", "call_function") or derived
            if not (attribute.startswith("_") or own):
                setattr(self, attribute, getattr(inner, attribute))
        self.compile = super().compile  # a compiled function would bypass the records
        self.compiles = False
        self.differentiable = self._differentiable
        self.records: list[Record] = []

    def _differentiable(self) -> TracedBackend:
        """Return a traced backend that records gradients and shares these records."""
        other = TracedBackend(self.inner.differentiable(), self.keep, self.layer_of)
        other.records = self.records
        return other

    def _run(self, name: str, *args: Any, **kwargs: Any) -> Array:
        self.synchronize()
        start = time.perf_counter()
        y = getattr(self.inner, name)(*args, **kwargs)
        self.synchronize()
        seconds = time.perf_counter() - start
        arrays = [x for x in (*args, *kwargs.values()) if hasattr(x, "shape")]
        shapes = tuple(tuple(x.shape) for x in arrays)
        out = tuple(y.shape)
        # a copy, safe from in-place changes
        array = np.array(self.to_numpy(y)) if self.keep else None
        flops = _flops(name, shapes, out)
        layer = next((self.layer_of[id(x)] for x in arrays if id(x) in self.layer_of), "")
        record = Record(len(self.records), name, shapes, out, seconds, flops, array, layer)
        self.records.append(record)
        return y


def _recorded(name: str) -> Callable:
    def operation(self: TracedBackend, *args: Any, **kwargs: Any) -> Array:
        return self._run(name, *args, **kwargs)

    operation.__name__ = name
    operation.__doc__ = getattr(Backend, name).__doc__
    return operation


for _name in OPERATIONS:
    setattr(TracedBackend, _name, _recorded(_name))


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
    """Return the layer of each parameter by the parameter's `id`, for `layer_of`.

    Args:
        params: Tree of a network, `model.params["unet"]`, or of all, `model.params`. It must live
            as long as the names are used.
        name: Name of the tree, put before the names of its parts.
    """
    layers: dict[int, str] = {}
    for key, child in params.items():
        if isinstance(child, Mapping):
            layers |= layer_names(child, f"{name}.{key}" if name else key)
        else:
            layers[id(child)] = name
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
