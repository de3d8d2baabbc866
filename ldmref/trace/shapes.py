"""A backend without values: it computes shapes, which take no time and no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.params import LazyParams, Params, flatten, unflatten

SAME_SIZE = {"bfloat16": "float16"}  # NumPy has no bfloat16


class ConstantArray(np.ndarray):
    """An array of equal values in the memory of one; elementwise functions of such arrays are such.

    Everything else is computed by NumPy as for any other array.
    """

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        constant = all(isinstance(x, ConstantArray) and x.size for x in arrays)
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
    """A backend whose operations return zeros of the right shape.

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
        return self._zeros(x.shape)

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return self._zeros((*x.shape[:-1], weight.shape[0]), x)

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        k = weight.shape[-1]
        h, w = ((size + 2 * padding - k) // stride + 1 for size in x.shape[2:])
        return self._zeros((x.shape[0], weight.shape[0], h, w), x)

    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        return self._zeros(x.shape, x)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return self._zeros(x.shape, x)

    def attention(self, q: Array, k: Array, v: Array, causal: bool = False) -> Array:
        return self._zeros((*q.shape[:-1], v.shape[-1]), q)

    def embedding(self, table: Array, ids: Array) -> Array:
        return self._zeros((*ids.shape, table.shape[-1]))

    def silu(self, x: Array) -> Array:
        return self._zeros(x.shape, x)

    def gelu(self, x: Array) -> Array:
        return self._zeros(x.shape, x)

    def quick_gelu(self, x: Array) -> Array:
        return self._zeros(x.shape, x)

    def upsample2x(self, x: Array) -> Array:
        n, c, h, w = x.shape
        return self._zeros((n, c, 2 * h, 2 * w), x)

    def pad_bottom_right(self, x: Array) -> Array:
        n, c, h, w = x.shape
        return self._zeros((n, c, h + 1, w + 1), x)

    def add(self, a: Array, b: Array) -> Array:
        return self._zeros(np.broadcast_shapes(a.shape, b.shape), a)

    def _zeros(self, shape: tuple[int, ...], like: Array | None = None) -> Array:
        dtype = self._dtype if like is None else like.dtype
        return constant_array(np.zeros((), dtype), shape)


class FusedShapeBackend(ShapeBackend):
    """The same for backends that fuse operations, which are then recorded as one."""

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        return self._zeros(x.shape, x)

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return self._zeros((*x.shape[:-1], weight.shape[0] // 2), x)


def shapes_of(params: Mapping[str, Any], ops: Backend) -> Params:
    """Return a tree of parameters, or of their shapes, without values."""
    leaves = {name: getattr(leaf, "shape", leaf) for name, leaf in flatten(params).items()}
    number = np.zeros((), SAME_SIZE.get(ops.dtype, ops.dtype))
    return unflatten({name: constant_array(number, shape) for name, shape in leaves.items()})


def without_weights(spec: Mapping[str, Mapping[str, Any]], ops: Backend) -> LazyParams:
    """Return the parameters of all networks of a model without values."""
    networks = {name: shapes_of(tree, ops) for name, tree in spec.items()}
    return LazyParams(ops, {}).replaced(networks)
