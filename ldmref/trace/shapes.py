"""A backend without values: it computes shapes, which take no time and no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.tracer import GraphBackend
from ldmref.backends.named import OPERATIONS
from ldmref.math.arrays import Array
from ldmref.models.lazy_params import LazyParams
from ldmref.models.params import Params, flatten, unflatten

SAME_SIZE = {"bfloat16": "float16"}  # NumPy has no bfloat16


class ConstantArray(np.ndarray):
    """An array of equal values in the memory of one; elementwise functions of such arrays are such.

    Everything else is computed by NumPy as for any other array. Nothing is written into such an
    array: `x += 1` makes a new one, which the assignment binds to x.
    """

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, ConstantArray) for x in kwargs.get("out", ())):
            kwargs = {"dtype": kwargs.pop("out")[0].dtype} | kwargs
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        constant = ufunc.signature is None  # `matmul` is not elementwise
        constant = constant and all(isinstance(x, ConstantArray) and x.size for x in arrays)
        if method == "__call__" and constant and "out" not in kwargs:
            values = [_value(x) if isinstance(x, np.ndarray) else x for x in inputs]
            shape = np.broadcast_shapes(*(np.shape(x) for x in inputs))
            return constant_array(ufunc(*values, **kwargs), shape)
        plain = [x.view(np.ndarray) if isinstance(x, ConstantArray) else x for x in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.concatenate and all(isinstance(x, ConstantArray) for x in args[0]):
            arrays = args[0]
            axis = kwargs.get("axis", args[1] if len(args) > 1 else 0)
            shape = list(arrays[0].shape)
            shape[axis] = sum(x.shape[axis] for x in arrays)
            return constant_array(_value(arrays[0]), tuple(shape))
        return super().__array_function__(func, types, args, kwargs)


def constant_array(value: np.ndarray, shape: tuple[int, ...]) -> ConstantArray:
    """Return an array of equal values, which takes the memory of one.

    >>> constant_array(np.zeros(()), (1000, 1000, 1000)).strides
    (0, 0, 0)
    """
    return np.broadcast_to(value, shape).view(ConstantArray)


def _value(x: np.ndarray) -> np.ndarray:
    """Return the value of a constant array without axes, which keeps its type."""
    return np.array(x.view(np.ndarray)[(0,) * x.ndim])


class ShapeBackend(Backend):
    """A backend whose operations return zeros of the shapes that the tracer of graphs finds.

    Everything that is not an operation, such as the steps of a sampler, is computed by NumPy.
    """

    name = "shapes"
    xp: Any = xp

    def set_up(self) -> None:
        self._dtype = np.dtype(SAME_SIZE.get(self.dtype, self.dtype))

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        x = np.asanyarray(x)
        floating = np.dtype(SAME_SIZE.get(dtype, dtype)) if dtype else self._dtype
        return x.astype(floating if x.dtype.kind == "f" else np.int64, copy=False)

    def weight(self, x: Array) -> Array:
        return constant_array(np.zeros((), self._dtype), x.shape)

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)


def _of_shape(operation: str) -> Callable[..., Array]:
    """Return an operation that gives zeros of the shape that the tracer of graphs finds."""

    def operate(self: ShapeBackend, *args: Any, **kwargs: Any) -> Array:
        graph = Graph()

        def symbol(value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            dtype = np.dtype(GRAPHS.dtype if value.dtype.kind == "f" else np.int64)
            return graph.add_input(GraphInput(f"x{len(graph.inputs)}", value.shape, dtype))

        symbols = [symbol(x) for x in args]
        y = getattr(GRAPHS, operation)(*symbols, **{k: symbol(x) for k, x in kwargs.items()})
        first = next(x for x in (*args, *kwargs.values()) if isinstance(x, np.ndarray))
        return constant_array(np.zeros((), first.dtype), y.shape)

    operate.__name__ = operation
    operate.__doc__ = getattr(Backend, operation).__doc__
    return operate


class FusedShapeBackend(ShapeBackend):
    """The same for backends that fuse operations, which are then recorded as one."""


GRAPHS = GraphBackend()
FUSED = ("group_norm_silu", "geglu")
for _operation in OPERATIONS:
    _class = FusedShapeBackend if _operation in FUSED else ShapeBackend
    setattr(_class, _operation, _of_shape(_operation))


def shapes_of(params: Mapping[str, Any], ops: Backend) -> Params:
    """Return a tree of parameters, or of their shapes, without values."""
    leaves = {name: getattr(leaf, "shape", leaf) for name, leaf in flatten(params).items()}
    number = np.zeros((), SAME_SIZE.get(ops.dtype, ops.dtype))
    return unflatten({name: constant_array(number, shape) for name, shape in leaves.items()})


def without_weights(spec: Mapping[str, Mapping[str, Any]], ops: Backend) -> LazyParams:
    """Return the parameters of all networks of a model without values."""
    networks = {name: shapes_of(tree, ops) for name, tree in spec.items()}
    return LazyParams(ops, {}).replaced(networks)
