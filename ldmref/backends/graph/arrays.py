"""`SymbolicArray`: an array whose shape and dtype are known, and that a graph will compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from ldmref.backends.graph.sizes import (
    GraphShape,
    GraphSize,
    OpenSize,
    broadcast_shapes,
    is_known,
    multiply,
)
from ldmref.math.arrays import Array

END = 2**62  # beyond the end of every axis, for Slice


class SymbolicArray:
    """The output of a node, an input, a constant or a parameter of a graph.

    It has the operators and the attributes of arrays that networks use. They add nodes to the
    graph. Operands of Python and NumPy become constants in its dtype.
    """

    __array_ufunc__ = None  # NumPy arrays leave operators to this class
    device = "cpu"
    namespace: ClassVar[Any] = None  # the module of that name, which sets it

    def __init__(self, graph: Any, name: str, shape: Iterable[GraphSize], dtype: Any):
        self.graph = graph
        self.name = name
        self.shape: GraphShape = tuple(shape)
        self.dtype = np.dtype(dtype)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.namespace

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def T(self) -> SymbolicArray:
        """The transposed matrix."""
        return permute(self, (1, 0))

    @property
    def mT(self) -> SymbolicArray:
        """The transposed matrices of a stack."""
        return permute(self, (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2))

    def __len__(self) -> int:
        size = self.shape[0]
        if isinstance(size, OpenSize):
            raise TypeError("the length of this symbolic array is an open size")
        return size

    def __iter__(self) -> Iterator[SymbolicArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: object) -> SymbolicArray:
        return index(self, key if isinstance(key, tuple) else (key,))

    def __add__(self, other: Array) -> SymbolicArray:
        return elementwise("Add", self, other)

    def __radd__(self, other: Array) -> SymbolicArray:
        return elementwise("Add", other, self)

    def __sub__(self, other: Array) -> SymbolicArray:
        return elementwise("Sub", self, other)

    def __rsub__(self, other: Array) -> SymbolicArray:
        return elementwise("Sub", other, self)

    def __mul__(self, other: Array) -> SymbolicArray:
        return elementwise("Mul", self, other)

    def __rmul__(self, other: Array) -> SymbolicArray:
        return elementwise("Mul", other, self)

    def __truediv__(self, other: Array) -> SymbolicArray:
        return elementwise("Div", self, other)

    def __rtruediv__(self, other: Array) -> SymbolicArray:
        return elementwise("Div", other, self)

    def __pow__(self, other: Array) -> SymbolicArray:
        return elementwise("Pow", self, other)

    def __neg__(self) -> SymbolicArray:
        return elementwise("Neg", self)

    def __matmul__(self, other: Array) -> SymbolicArray:
        return multiply_matrices(self, other)

    def __eq__(self, other: object) -> SymbolicArray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return elementwise("Equal", self, other, dtype=bool)

    def __ne__(self, other: object) -> SymbolicArray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return elementwise("Not", self == other, dtype=bool)

    def __lt__(self, other: Array) -> SymbolicArray:
        return elementwise("Less", self, other, dtype=bool)

    def __le__(self, other: Array) -> SymbolicArray:
        return elementwise("LessOrEqual", self, other, dtype=bool)

    def __gt__(self, other: Array) -> SymbolicArray:
        return elementwise("Greater", self, other, dtype=bool)

    def __ge__(self, other: Array) -> SymbolicArray:
        return elementwise("GreaterOrEqual", self, other, dtype=bool)

    __hash__ = object.__hash__

    def _no_values(self, *_: object, **__: object) -> Any:
        raise TypeError("a symbolic array has no values: a network must not depend on them")

    __array__ = __bool__ = __float__ = __int__ = _no_values

    def __repr__(self) -> str:
        return f"<SymbolicArray {self.name}, {self.shape}, {self.dtype}>"


def elementwise(operator: str, *args: object, dtype: object = None) -> SymbolicArray:
    """Add an operator that broadcasts; its result has the operands' dtype, or `dtype`."""
    first = next(x for x in args if isinstance(x, SymbolicArray))
    operands = [x if isinstance(x, SymbolicArray) else np.asarray(x, first.dtype) for x in args]
    shape = broadcast_shapes(*(x.shape for x in operands))
    return first.graph.add(operator, operands, shape, dtype or first.dtype)


def multiply_matrices(a: SymbolicArray, b: Array) -> SymbolicArray:
    """Add a product of matrices, or of stacks of them; `a` may be a vector."""
    shape = (*broadcast_shapes(a.shape[:-2], b.shape[:-2]), *a.shape[-2:-1], b.shape[-1])
    return a.graph.add("MatMul", [a, b], shape, a.dtype)


def permute(x: SymbolicArray, axes: Sequence[int]) -> SymbolicArray:
    """Add a permutation of the axes."""
    shape = [x.shape[axis] for axis in axes]
    return x.graph.add("Transpose", [x], shape, x.dtype, perm=list(axes))


def change_shape(x: SymbolicArray, shape: Sequence[GraphSize]) -> SymbolicArray:
    """Add a reshape; one size may be -1. Without any change of the shape, add nothing."""
    sizes: list[GraphSize] = [d if isinstance(d, OpenSize) else int(d) for d in shape]
    if -1 in sizes:
        rest = multiply(d for d in sizes if d != -1)
        sizes[sizes.index(-1)] = multiply(x.shape) // rest
    if tuple(sizes) == x.shape:
        return x
    # 0 copies a size, and a single open size can be inferred as -1: both need no nodes
    written: list[GraphSize] = [
        0 if isinstance(d, OpenSize) and i < x.ndim and d == x.shape[i] else d
        for i, d in enumerate(sizes)
    ]
    if sum(isinstance(d, OpenSize) for d in written) == 1:
        written = [-1 if isinstance(d, OpenSize) else d for d in written]
    return x.graph.add("Reshape", [x, x.graph.shape_vector(written)], sizes, x.dtype)


def index(x: SymbolicArray, key: tuple[Any, ...]) -> SymbolicArray:
    """Add what indexing with integers, slices of step 1, `...` and None takes."""
    keys = _expand(key, x.ndim)
    starts: list[GraphSize] = []
    stops: list[GraphSize] = []
    axes = []
    shape = list(x.shape)
    for axis, k in enumerate(k for k in keys if k is not None):
        start, stop, length = _bounds(k, x.shape[axis])
        if isinstance(k, int) or length != x.shape[axis]:
            starts.append(start)
            stops.append(stop)
            axes.append(axis)
            shape[axis] = length
    y = x
    if axes:
        vectors = [x.graph.shape_vector(part) for part in (starts, stops, axes)]
        y = x.graph.add("Slice", [x, *vectors], shape, x.dtype)
    if None not in keys and not any(isinstance(k, int) for k in keys):
        return y
    sizes = iter(shape)
    every = [(k, 1 if k is None else next(sizes)) for k in keys]
    return change_shape(y, [size for k, size in every if not isinstance(k, int)])


def _expand(key: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """Replace `...`, or the axes that are not named, by full slices."""
    key = key if Ellipsis in key else (*key, Ellipsis)
    at = key.index(Ellipsis)
    rest = ndim - sum(k is not None for k in key) + 1
    return (*key[:at], *[slice(None)] * rest, *key[at + 1 :])


def _bounds(k: int | slice, size: GraphSize) -> tuple[GraphSize, GraphSize, GraphSize]:
    """Return start, stop and length of an index or a slice of an axis."""
    if isinstance(k, int):
        return k, k + 1 or END, 1
    if k.step not in (None, 1):
        raise TypeError("slices of symbolic arrays have step 1")
    if not isinstance(size, OpenSize) and is_known((k.start or 0, k.stop or 0)):
        start, stop, _ = k.indices(size)
        return start, stop, stop - start
    start = k.start or 0
    stop = size if k.stop is None else k.stop
    return start, stop, _from_start(stop, size) - _from_start(start, size)


def _from_start(k: GraphSize, size: GraphSize) -> GraphSize:
    """Return a bound of a slice as a place counted from the start of an axis."""
    return size + k if not isinstance(k, OpenSize) and k < 0 else k
