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


class ShapeBackend(Backend):
    """A backend whose operations return zeros of the right shape.

    The zeros are views of a single number. Everything that is not an operation, such as the steps
    of a sampler, is computed by NumPy.
    """

    name = "shapes"
    xp: Any = xp

    def set_up(self) -> None:
        self._dtype = np.dtype(SAME_SIZE.get(self.dtype, self.dtype))

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        x = np.asarray(x)
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
        return np.broadcast_to(np.zeros((), dtype), shape)


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
    return unflatten(
        {name: np.broadcast_to(np.zeros((), _dtype(ops)), s) for name, s in leaves.items()}
    )


def without_weights(spec: Mapping[str, Mapping[str, Any]], ops: Backend) -> LazyParams:
    """Return the parameters of all networks of a model without values."""
    networks = {name: shapes_of(tree, ops) for name, tree in spec.items()}
    return LazyParams(ops, {}).replaced(networks)


def _dtype(ops: Backend) -> str:
    return SAME_SIZE.get(ops.dtype, ops.dtype)
