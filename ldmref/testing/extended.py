"""The operations of a backend in extended precision, with which float64 backends are compared."""

from __future__ import annotations

import math

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.math.arrays import Array

# 2^-11 on x86 (64 bits instead of 53); 1 where long double is float64
EXTENDED_UNITS = float(np.finfo(np.longdouble).eps / np.finfo(np.float64).eps)
SATURATED = 7.0  # erf(7) differs from 1 by 4e-23


class ExtendedBackend(NumpyBackend):
    """The NumPy reference in `numpy.longdouble`; slow, for comparisons only.

    Its errors are `EXTENDED_UNITS` times those of float64.
    """

    name = "extended"
    dtypes = ("float64",)

    def set_up(self) -> None:
        super().set_up()
        self._dtype = np.dtype(np.longdouble)

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        causal: bool = False,
        bias: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        factor = 1 / np.sqrt(np.longdouble(q.shape[-1])) if scale is None else scale
        scores = q @ k.swapaxes(-1, -2) * factor
        if bias is not None:
            scores = scores + bias
        if causal:
            future = np.arange(k.shape[2])[None, :] > np.arange(q.shape[2])[:, None]
            scores = np.where(future, -np.inf, scores)
        return self._softmax(scores) @ v

    def gelu(self, x: Array) -> Array:
        half = 0.5 * x
        return half + half * self._erf(x / np.sqrt(np.longdouble(2)))

    def quick_gelu(self, x: Array) -> Array:
        return x * self._sigmoid(np.longdouble(1702) / 1000 * x)

    def _erf(self, x: Array) -> Array:
        """Sum erf(x) = 2 / sqrt(pi) exp(-x^2) sum_k 2^k x^(2k+1) / (2k+1)!!, all of one sign."""
        a = np.minimum(np.abs(x), SATURATED)
        term = a.copy()
        total = a.copy()
        k = 1
        while np.any(term > total * np.finfo(np.longdouble).eps / 8):
            term = term * (2 * a * a) / (2 * k + 1)
            total = total + term
            k += 1
        pi = np.longdouble(math.pi) + np.longdouble(1.2246467991473532e-16)  # pi - float64(pi)
        return np.copysign(np.minimum(2 / np.sqrt(pi) * np.exp(-a * a) * total, 1), x)
