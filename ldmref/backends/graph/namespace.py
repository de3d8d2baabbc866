"""The array-API functions that networks call, for symbolic arrays.

Without a symbolic argument they pass on to NumPy, so constants such as the frequencies of a
timestep embedding are computed once, while the graph is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from ldmref.backends.graph.arrays import (
    SymbolicArray,
    change_shape,
    elementwise,
    multiply_matrices,
    permute,
)
from ldmref.backends.graph.sizes import GraphSize, broadcast_shapes, is_known
from ldmref.math.arrays import Array

float32 = np.dtype("float32")
float64 = np.dtype("float64")
int64 = np.dtype("int64")
isdtype = np.isdtype


def _is_symbolic(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_symbolic(item) for item in value)
    return isinstance(value, SymbolicArray)


def _symbolic(function: Callable) -> Callable:
    """Return a function that leaves calls without symbolic arguments to NumPy."""

    @wraps(function)
    def either(*args: object, **kwargs: object) -> Array:
        if _is_symbolic(args):
            return function(*args, **kwargs)
        return getattr(np, function.__name__)(*args, **kwargs)

    return either


def arange(*args: Any, dtype: Any = None, device: object = None) -> np.ndarray:
    """Return a constant range."""
    return np.arange(*args, dtype=dtype)


@_symbolic
def reshape(x: SymbolicArray, shape: Sequence[GraphSize]) -> SymbolicArray:
    """Reshape; one size may be -1."""
    return change_shape(x, shape)


@_symbolic
def permute_dims(x: SymbolicArray, axes: Sequence[int]) -> SymbolicArray:
    """Permute the axes."""
    return permute(x, axes)


@_symbolic
def concat(arrays: Sequence[Array], axis: int = 0) -> Array:
    """Join arrays along an axis."""
    first = next(x for x in arrays if isinstance(x, SymbolicArray))
    if len(arrays) == 1:
        return first
    shape = list(first.shape)
    shape[axis] = arrays[0].shape[axis]
    for x in arrays[1:]:
        shape[axis] = shape[axis] + x.shape[axis]
    return first.graph.add("Concat", arrays, shape, first.dtype, axis=axis)


@_symbolic
def unstack(x: SymbolicArray, axis: int = 0) -> tuple[SymbolicArray, ...]:
    """Split along an axis of known size, which disappears."""
    axis %= x.ndim
    size = x.shape[axis]
    assert isinstance(size, int), "only a known size is unstacked"
    return tuple(x[(slice(None),) * axis + (i,)] for i in range(size))


@_symbolic
def matmul(a: SymbolicArray, b: Array) -> SymbolicArray:
    """Multiply matrices."""
    return multiply_matrices(a, b)


@_symbolic
def astype(x: SymbolicArray, dtype: Any, copy: bool = True) -> SymbolicArray:
    """Convert to another data type."""
    dtype = np.dtype(dtype)
    return x if x.dtype == dtype else x.graph.add("Cast", [x], x.shape, dtype, to=dtype)


@_symbolic
def take(x: SymbolicArray, indices: Array, axis: int = 0) -> SymbolicArray:
    """Select along an axis."""
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.graph.add("Gather", [x, indices], shape, x.dtype, axis=axis)


@_symbolic
def clip(x: SymbolicArray, min: float | None = None, max: float | None = None) -> SymbolicArray:
    """Limit the values."""
    bounds = [None if bound is None else np.asarray(bound, x.dtype) for bound in (min, max)]
    return x.graph.add("Clip", [x, *bounds], x.shape, x.dtype)


@_symbolic
def logaddexp(a: Array, b: Array) -> SymbolicArray:
    """Compute log(exp(a) + exp(b))."""
    largest = elementwise("Max", a, b)
    total = elementwise("Exp", a - largest) + elementwise("Exp", b - largest)
    return largest + elementwise("Log", total)


@_symbolic
def where(condition: Array, a: Array, b: Array) -> SymbolicArray:
    """Select elements of `a` or `b`."""
    shape = broadcast_shapes(condition.shape, a.shape, b.shape)
    graph = next(x.graph for x in (condition, a, b) if isinstance(x, SymbolicArray))
    return graph.add("Where", [condition, a, b], shape, a.dtype)


@_symbolic
def full_like(x: SymbolicArray, fill_value: float) -> Array:
    """Return an array of that shape with one value, a constant if the shape is known."""
    return fill(x.shape, fill_value, x)


def fill(shape: Sequence[GraphSize], value: float, like: Array) -> Array:
    """Return an array of one value with the dtype of another, a constant if the shape is known."""
    known: Any = tuple(shape)
    if is_known(known):
        return np.full(known, value, like.dtype)
    operands = [np.asarray(value, like.dtype), like.graph.shape_vector(known)]
    return like.graph.add("Expand", operands, known, like.dtype)


@_symbolic
def broadcast_arrays(*arrays: Array) -> list[Array]:
    """Repeat each array along its axes of size 1 where another one is longer."""
    shape = broadcast_shapes(*(x.shape for x in arrays))
    graph = next(x.graph for x in arrays if isinstance(x, SymbolicArray))
    sizes = graph.shape_vector(shape)
    return [
        x if tuple(x.shape) == shape else graph.add("Expand", [x, sizes], shape, x.dtype)
        for x in arrays
    ]


def _unary(name: str, operator: str) -> Callable:
    def function(x: Array) -> SymbolicArray:
        return elementwise(operator, x)

    function.__name__ = name
    return _symbolic(function)


def _reduction(name: str, operator: str) -> Callable:
    def reduce(x: SymbolicArray, axis: Any = None, keepdims: bool = False) -> SymbolicArray:
        every = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = sorted(a % x.ndim for a in every)
        kept = [1 if a in axes else d for a, d in enumerate(x.shape) if keepdims or a not in axes]
        operands = [x, np.asarray(axes, np.int64)]
        return x.graph.add(operator, operands, kept, x.dtype, keepdims=int(keepdims))

    reduce.__name__ = name
    return _symbolic(reduce)


def _extreme(name: str, operator: str) -> Callable:
    def extreme(x: SymbolicArray, axis: int) -> SymbolicArray:
        shape = [d for a, d in enumerate(x.shape) if a != axis % x.ndim]
        return x.graph.add(operator, [x], shape, np.int64, axis=axis, keepdims=0)

    extreme.__name__ = name
    return _symbolic(extreme)


@_symbolic
def cumulative_sum(x: SymbolicArray, *, axis: int | None = None) -> SymbolicArray:
    """Return the sums of all entries so far along an axis."""
    along = np.asarray(axis or 0, np.int64)
    return x.graph.add("CumSum", [x, along], x.shape, x.dtype)


exp = _unary("exp", "Exp")
log = _unary("log", "Log")
cos = _unary("cos", "Cos")
sin = _unary("sin", "Sin")
tanh = _unary("tanh", "Tanh")
sqrt = _unary("sqrt", "Sqrt")
abs = _unary("abs", "Abs")
sum = _reduction("sum", "ReduceSum")
mean = _reduction("mean", "ReduceMean")
max = _reduction("max", "ReduceMax")
argmax = _extreme("argmax", "ArgMax")
argmin = _extreme("argmin", "ArgMin")


def zeros_like(x: Array) -> Array:
    """Return zeros of that shape."""
    return full_like(x, 0.0)


def ones_like(x: Array) -> Array:
    """Return ones of that shape."""
    return full_like(x, 1.0)


SymbolicArray.namespace = sys.modules[__name__]
