"""NumPy at full speed: the reference's operations, in float32 on all cores.

Pictures keep their shape (n, c, h, w), but their channels lie together in memory, so that
`x.transpose(0, 2, 3, 1)` is contiguous and the networks' own code never copies. Each operation
agrees with the reference (`ldmref/backends/numpy.py`) within float32 rounding; with
`speed="fastest"` convolutions lose about a digit (`winograd.py`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np

from ldmref.backends.fast import attention, convolution, matmul, norms, pointwise
from ldmref.backends.fast.threads import parallel, single_threaded_blas
from ldmref.backends.fast.winograd import transform_weight, winograd
from ldmref.backends.numpy import NumpyBackend
from ldmref.mapped import forget
from ldmref.math.arrays import Array


class FastNumpyBackend(NumpyBackend):
    """NumPy on all cores, float32."""

    dtypes = ("float32",)
    speeds = ("fast", "fastest")

    def __init__(
        self, device: str | None = None, dtype: str | None = None, speed: str | None = None
    ):
        super().__init__(device, dtype, speed)
        self._made: dict[tuple[int, int], tuple[weakref.ref, np.ndarray]] = {}

    def inference(self):
        return single_threaded_blas()

    def weight(self, x: Array) -> Array:
        """Matrices transposed in memory: products with few rows then read them as BLAS likes it.

        Kernels stay as they are, in a file perhaps and in its type, until they are used.
        """
        x = np.asarray(x)
        if x.ndim == 4 and x.shape[2] > 1 and x.dtype in (np.float16, np.float32):
            return x.view()  # what is made of it lives as long as this
        x = self.asarray(x)
        return np.ascontiguousarray(x.T).T if x.ndim == 2 else x

    def weight_bytes(self, shape: tuple[int, ...], pixels: int) -> int:
        size = super().weight_bytes(shape, pixels)
        if shape[2:] == (3, 3) and convolution.by_tiles(1, 2, pixels // 2, *shape[1::-1]):
            tile = 36 if self.speed == "fastest" else 16
            return size * tile // 9  # of the transformed kernel; the other rests in its file
        return size

    def linear(self, x, weight, bias=None):
        return matmul.linear(x, weight, bias)

    def geglu(self, x, weight, bias=None):
        return matmul.geglu(x, weight, bias)

    def conv2d(self, x, weight, bias=None, stride=1, padding=0):
        x, (out, c, k, _) = _channels_last(x), weight.shape
        n, h, w, _ = x.shape
        if (k, stride, padding) == (1, 1, 0):
            y = convolution.pointwise(x, weight, bias)
        elif (k, stride, padding) == (3, 1, 1) and convolution.by_tiles(n, h, w, c, out):
            large = convolution.by_tiles(n, h, w, c, out, 4)
            m = 4 if self.speed == "fastest" and large else 2
            u = self._kept(weight, m, lambda: transform_weight(weight, m))
            y = winograd(x, u, bias, m)
        else:
            if weight.dtype != x.dtype:
                weight = self._kept(weight, 0, lambda: weight.astype(x.dtype))
            y = convolution.im2col(
                x, weight, bias, stride, padding, lambda make: self._kept(weight, 1, make)
            )
        return _channels_first(y)

    def _kept(self, weight: np.ndarray, kind: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What is made of a weight, kept as long as the weight is, which may rest in its file."""
        key = id(weight), kind
        if key not in self._made:
            gone = weakref.ref(weight, lambda _: self._made.pop(key, None))
            self._made[key] = gone, make()
            forget(weight)
        return self._made[key][1]

    def group_norm(self, x, weight, bias, groups, eps):
        return _channels_first(norms.group_norm(_channels_last(x), weight, bias, groups, eps))

    def group_norm_silu(self, x, weight, bias, groups, eps):
        y = _channels_last(x)
        y = norms.group_norm(y, weight, bias, groups, eps, pointwise.sigmoid_times_)
        return _channels_first(y)

    def layer_norm(self, x, weight, bias, eps):
        return norms.layer_norm(x, weight, bias, eps)

    def attention(self, q, k, v, causal=False):
        return attention.attention(q, k, v, causal)

    def silu(self, x):
        return pointwise.share(pointwise.sigmoid_times_, x)

    def quick_gelu(self, x):
        return pointwise.share(lambda part: pointwise.sigmoid_times_(part, 1.702), x)

    def gelu(self, x):
        return pointwise.share(pointwise.gelu_, x)

    def upsample2x(self, x):
        x = _channels_last(x)
        n, h, w, c = x.shape
        y = np.empty((n, h, 2, w, 2, c), x.dtype)

        def rows(i: int) -> None:
            image, row = divmod(i, h)
            y[image, row] = x[image, row, None, :, None]

        parallel(rows, n * h)
        return _channels_first(y.reshape(n, 2 * h, 2 * w, c))

    def pad_bottom_right(self, x):
        return _channels_first(np.pad(_channels_last(x), ((0, 0), (0, 1), (0, 1), (0, 0))))


def _channels_last(x: np.ndarray) -> np.ndarray:
    """(n, c, h, w) -> (n, h, w, c), contiguous; no copy for what these operations gave."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _channels_first(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)
