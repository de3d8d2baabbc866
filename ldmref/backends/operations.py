"""The operations in which all networks of ldmref are written: the interface of a backend."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from ldmref.math.arrays import Array


class Operations:
    """The operations of a backend: abstract ones, and compositions that it may fuse.

    Images are arrays (n, c, h, w) and tokens (n, l, d), whatever their order in memory. Every
    operation takes and returns arrays of its backend on its device, returns the dtype of its first
    argument, does not modify its arguments and accepts non-contiguous views. Sums should be
    accumulated in float32 at least.

    Attributes:
        xp: The array-API namespace of the arrays, such as `array_api_compat.numpy`.
    """

    xp: Any

    # -- required -------------------------------------------------------------------------------

    @abstractmethod
    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """Convert an array or list: floats to `dtype` (None: the backend's), integers to int64."""
        raise NotImplementedError

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray:
        """Convert to a NumPy array on the host (bfloat16 to float32)."""
        raise NotImplementedError

    @abstractmethod
    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """Compute x @ weight.T + bias; x: (..., i), weight: (o, i), bias: (o,) -> (..., o)."""
        raise NotImplementedError

    @abstractmethod
    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        """Cross-correlate x (n, i, h, w) with weight (o, i, k, k), add bias (o,).

        Returns (n, o, h', w') with h' = (h + 2 padding - k) // stride + 1; padding adds zeros.
        """
        raise NotImplementedError

    @abstractmethod
    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        """Normalise each group of channels to mean 0 and (biased) variance 1; x: (n, c, h, w).

        The result is multiplied by weight (c,), and bias (c,) is added; `eps` is added to the
        variance.
        """
        raise NotImplementedError

    @abstractmethod
    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        """Normalise the last axis to mean 0 and (biased) variance 1; x: (..., d).

        The result is multiplied by weight (d,), and bias (d,) is added; `eps` is added to the
        variance.
        """
        raise NotImplementedError

    @abstractmethod
    def attention(self, q: Array, k: Array, v: Array, causal: bool = False) -> Array:
        """Compute softmax(q k^T / sqrt(d)) v; q: (n, heads, l, d), k and v: (n, heads, m, d).

        With `causal`, query i only attends to keys 0 to i.
        """
        raise NotImplementedError

    @abstractmethod
    def embedding(self, table: Array, ids: Array) -> Array:
        """Look up the rows of `table` (v, d) at integer `ids` (n, l) -> (n, l, d)."""
        raise NotImplementedError

    @abstractmethod
    def silu(self, x: Array) -> Array:
        """Compute x * sigmoid(x)."""
        raise NotImplementedError

    @abstractmethod
    def gelu(self, x: Array) -> Array:
        """Compute x * Phi(x), GELU with the error function (not the tanh approximation)."""
        raise NotImplementedError

    @abstractmethod
    def quick_gelu(self, x: Array) -> Array:
        """Compute x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
        raise NotImplementedError

    @abstractmethod
    def upsample2x(self, x: Array) -> Array:
        """Repeat every pixel in both directions; (n, c, h, w) -> (n, c, 2h, 2w)."""
        raise NotImplementedError

    @abstractmethod
    def pad_bottom_right(self, x: Array) -> Array:
        """Append one row and one column of zeros; (n, c, h, w) -> (n, c, h+1, w+1)."""
        raise NotImplementedError

    # -- optional: compositions to fuse -----------------------------------------------------------

    def add(self, a: Array, b: Array) -> Array:
        """Compute a + b, the sum of a residual connection; (...), (...) -> (...)."""
        return a + b

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """Compute a * gelu(gate), [a, gate] = linear(x); weight: (2 o, i) -> (..., o)."""
        halves = self.xp.reshape(self.linear(x, weight, bias), (*x.shape[:-1], 2, -1))
        a, gate = self.xp.unstack(halves, axis=-2)  # a slice's gradient is padded
        return a * self.gelu(gate)

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        """Compute silu(group_norm(x))."""
        return self.silu(self.group_norm(x, weight, bias, groups, eps))
