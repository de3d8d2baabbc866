"""NumPy at full speed: the reference's operations, in float32, on all cores.

Images keep their shape (n, c, h, w), but their channels are contiguous in memory:
`x.transpose(0, 2, 3, 1)` is free and the networks' reshapes never copy. Each operation agrees
with the reference (`ldmref/backends/numpy.py`) within float32 rounding; with `speed="fastest"`
convolutions lose about a digit (`winograd.py`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ldmref.backends.fast import attention, convolution, matmul, norms, pointwise
from ldmref.backends.fast.threads import block_length, divisible, parallel, single_threaded_blas
from ldmref.backends.fast.winograd import transform_weight, winograd
from ldmref.backends.numpy import NumpyBackend
from ldmref.math.arrays import Array
from ldmref.support.memmap import release_pages


class FastNumpyBackend(NumpyBackend):
    """NumPy on all cores, float32."""

    dtypes = ("float32",)
    speeds = ("fast", "fastest")

    def set_up(self) -> None:
        super().set_up()
        self._cache: dict[tuple[int, str], tuple[weakref.ref, Array]] = {}

    def inference(self) -> AbstractContextManager:
        return single_threaded_blas()

    def weight(self, x: Array) -> Array:
        """Arrange matrices in memory as products read them fastest.

        Convolution kernels stay as they are, perhaps in a file and in its type, until they are
        used.
        """
        x = np.asarray(x)
        if x.ndim == 4 and x.shape[2] > 1 and x.dtype in (np.float16, np.float32):
            return x.view()  # a new object: `_derived` keeps arrays as long as it lives
        converted = self.asarray(x)
        if x.ndim == 2 or (x.ndim == 4 and x.shape[2:] == (1, 1)):
            copy = True if converted is x else None  # the caller's, or a file's
            return matmul.arrange_weight(converted.reshape(x.shape[:2]), copy).reshape(x.shape)
        return converted

    def weight_bytes(self, shape: tuple[int, ...], pixels: int) -> int:
        size = super().weight_bytes(shape, pixels)
        if shape[2:] == (3, 3) and convolution.winograd_pays(1, 2, pixels // 2, *shape[1::-1]):
            tile = 36 if self.speed == "fastest" else 16
            return size * tile // 9  # only the transformed kernel; the original is in its file
        return size

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return matmul.linear(x, weight, bias)

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return matmul.geglu(x, weight, bias)

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        x = _channels_last(x)
        (out, c, k, _) = weight.shape
        n, h, w, _ = x.shape
        if (k, stride, padding) == (1, 1, 0):
            y = matmul.linear(x, weight[:, :, 0, 0], bias)
        elif (k, stride, padding) == (3, 1, 1) and convolution.winograd_pays(n, h, w, c, out):
            large = convolution.winograd_pays(n, h, w, c, out, m=4)
            m = 4 if self.speed == "fastest" and large else 2
            u = self._derived(weight, f"winograd {m}", lambda: transform_weight(weight, m))
            y = winograd(x, u, bias, m)
        else:
            if weight.dtype != x.dtype:
                weight = self._derived(weight, "cast", lambda: weight.astype(x.dtype))
            y = convolution.im2col(
                x, weight, bias, stride, padding, lambda make: self._derived(weight, "matrix", make)
            )
        return _channels_first(y)

    def _derived(self, weight: Array, kind: str, make: Callable[[], Array]) -> Array:
        """`make()`, computed from a weight once and kept as long as the weight lives."""
        key = id(weight), kind
        if key not in self._cache:
            owner = weakref.ref(weight, lambda _: self._cache.pop(key, None))
            self._cache[key] = owner, make()
            release_pages(weight)
        return self._cache[key][1]

    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        return _channels_first(norms.group_norm(_channels_last(x), weight, bias, groups, eps))

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        y = norms.group_norm(_channels_last(x), weight, bias, groups, eps, silu=True)
        return _channels_first(y)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return norms.layer_norm(x, weight, bias, eps)

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        causal: bool = False,
        bias: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        return attention.attention(q, k, v, causal, bias, scale)

    def silu(self, x: Array) -> Array:
        return pointwise.apply(pointwise.swish_, x)

    def quick_gelu(self, x: Array) -> Array:
        return pointwise.apply(pointwise.quick_gelu_, x)

    def gelu(self, x: Array) -> Array:
        return pointwise.apply(pointwise.gelu_, x)

    def call_function(
        self, name: str, function: Callable, *args: Any, axis: int | None = None
    ) -> Array:
        if axis is None or args[0].size <= pointwise.BLOCK:
            return function(*args)
        return pointwise.apply_in_parts(function, axis, *args)

    def upsample2x(self, x: Array) -> Array:
        return _channels_first(_double_pixels(_channels_last(x)))

    def pad_bottom_right(self, x: Array) -> Array:
        return _channels_first(np.pad(_channels_last(x), ((0, 0), (0, 1), (0, 1), (0, 0))))


@divisible
def _double_pixels(x: np.ndarray) -> np.ndarray:
    """Repeat every pixel in both directions; (n, h, w, c) -> (n, 2 h, 2 w, c)."""
    (n, h, w, c) = x.shape
    y = np.empty((n, h, 2, w, 2, c), x.dtype)
    rows = block_length(h, h)

    def double(i: int) -> None:
        band = slice(i * rows, (i + 1) * rows)
        y[:, band] = x[:, band, None, :, None]

    parallel(double, -(-h // rows) if h else 0)
    return y.reshape(n, 2 * h, 2 * w, c)


def _channels_last(x: np.ndarray) -> np.ndarray:
    """(n, c, h, w) -> (n, h, w, c), contiguous; no copy of results of these operations."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _channels_first(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)
