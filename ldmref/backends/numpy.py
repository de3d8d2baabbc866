"""The NumPy backend: the reference, in which each operation reads as its definition.

Operations call the array library through `self.lib`. CuPy's functions have NumPy's names, so the
CuPy backend inherits all operations (`cupy.py`).
"""

from __future__ import annotations

import math
from typing import Any

import array_api_compat.numpy as xp
import numpy

from ldmref.backends.base import Backend
from ldmref.errors import BackendUnavailable
from ldmref.math.arrays import Array


class NumpyBackend(Backend):
    """NumPy on the host processor."""

    name = "numpy"
    dtypes = ("float64", "float32", "float16")
    lib: Any = numpy
    xp: Any = xp
    workspace = 16 * 2**20  # bytes of a block of im2col columns or attention scores

    def set_up(self) -> None:
        if self.device != "cpu":
            message = f"the numpy backend runs on the cpu, not on {self.device!r}"
            hint = "use --backend torch or --backend cupy for a GPU"
            raise BackendUnavailable(message, code="E-DEVICE", hint=hint)
        self._dtype = self.lib.dtype(self.dtype)

    def version(self) -> str:
        return str(self.lib.__version__)

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        x = self.lib.asarray(x)
        floating = self.lib.dtype(dtype) if dtype else self._dtype
        return x.astype(floating if x.dtype.kind == "f" else numpy.int64, copy=False)

    def to_numpy(self, x: Array) -> numpy.ndarray:
        return numpy.asarray(x)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        y = x @ weight.T
        return y if bias is None else y + bias

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        """Multiply weight (o, i*k*k) by im2col columns (i*k*k, rows*w'), by bands of rows."""
        lib = self.lib
        (n, c, _, _) = x.shape
        (out, _, k, _) = weight.shape
        if k == 1 and stride == 1 and padding == 0:
            y = (weight.reshape(out, c) @ x.reshape(n, c, -1)).reshape(n, out, *x.shape[2:])
            return y if bias is None else y + bias[:, None, None]
        if padding:
            x = lib.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = lib.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))
        windows = windows[:, :, ::stride, ::stride].transpose(0, 1, 4, 5, 2, 3)
        h, w = windows.shape[4:]
        flat = weight.reshape(out, c * k * k)
        y = lib.empty((n, out, h, w), dtype=x.dtype)
        rows = max(1, self.workspace // (c * k * k * w * x.dtype.itemsize))
        for i in range(n):
            for top in range(0, h, rows):
                columns = windows[i, ..., top : top + rows, :].reshape(c * k * k, -1)
                y[i, :, top : top + rows] = (flat @ columns).reshape(out, -1, w)
        return y if bias is None else y + bias[:, None, None]

    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        n, c = x.shape[:2]
        y = self._standardize(x.reshape(n, groups, -1), eps).reshape(x.shape)
        shape = (c,) + (1,) * (x.ndim - 2)
        return y * weight.reshape(shape) + bias.reshape(shape)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return self._standardize(x, eps) * weight + bias

    def _standardize(self, x: Array, eps: float) -> Array:
        """Normalise the last axis to mean 0 and variance 1; statistics in float32 or better."""
        # Means along a contiguous axis are pairwise sums.
        promoted = self.lib.ascontiguousarray(x, self.lib.promote_types(x.dtype, "float32"))
        centred = promoted - promoted.mean(axis=-1, keepdims=True)
        variance = self.lib.mean(centred * centred, axis=-1, keepdims=True)
        return (centred / self.lib.sqrt(variance + eps)).astype(x.dtype, copy=False)

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        causal: bool = False,
        bias: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        """Compute blocks of queries whose scores fit the workspace."""
        lib = self.lib
        (n, heads, length, d) = q.shape
        keys = k.shape[2]
        factor = 1.0 / math.sqrt(d) if scale is None else scale
        out = lib.empty((n, heads, length, v.shape[3]), dtype=q.dtype)
        k_t = k.transpose(0, 1, 3, 2)
        itemsize = (q if bias is None else bias).dtype.itemsize
        block = max(1, self.workspace // (n * heads * keys * itemsize))
        for start in range(0, length, block):
            stop = min(start + block, length)
            scores = (q[:, :, start:stop] * factor) @ k_t
            if bias is not None:  # in its dtype, if that is wider
                scores = scores + (bias if bias.shape[2] == 1 else bias[:, :, start:stop])
            if causal:
                future = lib.arange(keys)[None, :] > lib.arange(start, stop)[:, None]
                scores = lib.where(future, -lib.inf, scores).astype(scores.dtype, copy=False)
            out[:, :, start:stop] = self._softmax(scores).astype(v.dtype, copy=False) @ v
        return out

    def _softmax(self, x: Array) -> Array:
        weights = self.lib.exp(x - x.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def embedding(self, table: Array, ids: Array) -> Array:
        return table[ids]

    def _sigmoid(self, x: Array) -> Array:
        """Compute 1 / (1 + exp(-x)) by tanh, which does not overflow."""
        return 0.5 * self.lib.tanh(0.5 * x) + 0.5

    def silu(self, x: Array) -> Array:
        return x * self._sigmoid(x)

    def quick_gelu(self, x: Array) -> Array:
        return x * self._sigmoid(1.702 * x)

    def gelu(self, x: Array) -> Array:
        half = 0.5 * x
        return half + half * self._erf(x * (1.0 / math.sqrt(2.0))).astype(x.dtype, copy=False)

    def _erf(self, x: Array) -> Array:  # float16 -> float64
        from scipy.special import erf  # takes 0.3 s to import

        return erf(x)

    def upsample2x(self, x: Array) -> Array:
        return x.repeat(2, axis=2).repeat(2, axis=3)

    def pad_bottom_right(self, x: Array) -> Array:
        return self.lib.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
