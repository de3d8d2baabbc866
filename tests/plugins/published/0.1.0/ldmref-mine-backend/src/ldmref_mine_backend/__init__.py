"""A backend for libraries that follow the array API."""

import math

import array_api_compat.numpy as xp
import numpy as np

from ldmref.backends import Backend
from ldmref.math import erfc


class MyBackend(Backend):
    name = "mine"
    dtypes = ("float32", "float64")
    xp = xp

    def set_up(self):
        """Open `self.device`; raise ldmref.errors.BackendUnavailable if it is not there."""

    def version(self):
        return np.__version__

    def asarray(self, x, dtype=None):
        if isinstance(x, np.ndarray) and x.dtype == np.float16:
            x = x.astype(np.float32)
        x = xp.asarray(x)
        floating = xp.isdtype(x.dtype, "real floating")
        return xp.astype(x, getattr(xp, (dtype or self.dtype) if floating else "int64"))

    def to_numpy(self, x):
        return np.asarray(x)

    def linear(self, x, weight, bias=None):
        y = x @ weight.T
        return y if bias is None else y + bias

    def conv2d(self, x, weight, bias=None, stride=1, padding=0):
        n, _, h, w = x.shape
        o, _, k, _ = weight.shape
        h_out = (h + 2 * padding - k) // stride + 1
        w_out = (w + 2 * padding - k) // stride + 1
        x = self._pad(x, padding, padding, padding, padding)
        y = xp.zeros((n, h_out * w_out, o), dtype=x.dtype)
        for i in range(k):
            for j in range(k):
                rows = slice(i, i + stride * (h_out - 1) + 1, stride)
                columns = slice(j, j + stride * (w_out - 1) + 1, stride)
                pixels = xp.reshape(x[:, :, rows, columns], (n, x.shape[1], -1))
                y = y + xp.matrix_transpose(pixels) @ weight[:, :, i, j].T
        y = y if bias is None else y + bias
        return xp.reshape(xp.matrix_transpose(y), (n, o, h_out, w_out))

    def group_norm(self, x, weight, bias, groups, eps):
        y = self._standardize(xp.reshape(x, (x.shape[0], groups, -1)), eps)
        return xp.reshape(y, x.shape) * weight[:, None, None] + bias[:, None, None]

    def layer_norm(self, x, weight, bias, eps):
        return self._standardize(x, eps) * weight + bias

    def attention(self, q, k, v, causal=False, bias=None, scale=None):
        factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
        scores = q @ xp.matrix_transpose(k) * factor
        if bias is not None:
            scores = scores + bias
        if causal:
            later = xp.arange(k.shape[2])[None, :] > xp.arange(q.shape[2])[:, None]
            scores = xp.where(later, -xp.inf, scores)
        weights = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
        return weights / xp.sum(weights, axis=-1, keepdims=True) @ v

    def embedding(self, table, ids):
        rows = self.xp.take(table, self.xp.reshape(ids, (-1,)), axis=0)
        return self.xp.reshape(rows, (*ids.shape, table.shape[1]))

    def silu(self, x):
        return x * self._sigmoid(x)

    def gelu(self, x):
        return x * 0.5 * erfc(x * -math.sqrt(0.5))

    def quick_gelu(self, x):
        return x * self._sigmoid(1.702 * x)

    def upsample2x(self, x):
        return xp.repeat(xp.repeat(x, 2, axis=2), 2, axis=3)

    def pad_bottom_right(self, x):
        return self._pad(x, 0, 1, 0, 1)

    def _pad(self, x, top, bottom, left, right):
        n, c, h, w = x.shape
        x = xp.concat([xp.zeros((n, c, top, w)), x, xp.zeros((n, c, bottom, w))], axis=2)
        h = h + top + bottom
        sides = xp.zeros((n, c, h, left)), x, xp.zeros((n, c, h, right))
        return self.asarray(xp.concat(sides, axis=3))

    def _sigmoid(self, x):
        return 0.5 + 0.5 * xp.tanh(0.5 * x)

    def _standardize(self, x, eps):
        x = x - xp.mean(x, axis=-1, keepdims=True)
        return x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
