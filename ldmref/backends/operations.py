"""The operations in which all networks of ldmref are written: the interface of a backend."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

import numpy as np

from ldmref.errors import BackendUnavailable
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
    name: str

    def _lacks(self, operation: str) -> BackendUnavailable:
        """Return the error of a required operation that a backend does not have."""
        parameters = list(inspect.signature(getattr(Operations, operation)).parameters)[1:]
        return BackendUnavailable(
            f"the {self.name} backend must provide {operation}({', '.join(parameters)})",
            code="E-BACKEND",
            hint=f"help(ldmref.backends.Backend.{operation}) says what it computes",
        )

    # -- required -------------------------------------------------------------------------------

    @abstractmethod
    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """Return an array or list as an array of this backend, on its device.

        Args:
            x: NumPy array, array of this backend, number or nested list, of any shape.
            dtype: Floating-point type of the result if `x` holds floats. None: the backend's
                `dtype`. Integers become int64, whatever `dtype` is.

        Returns:
            An array in the shape of `x`.
        """
        raise self._lacks("asarray")

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray:
        """Return a NumPy array on the host with the values of an array of this backend.

        Args:
            x: Array of this backend, of any shape.

        Returns:
            Shape and dtype of `x`; bfloat16, which NumPy lacks, becomes float32.
        """
        raise self._lacks("to_numpy")

    @abstractmethod
    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        r"""Return the product with a matrix, plus a bias.

        .. math:: y = x\,W^T + b

        Args:
            x: (..., i).
            weight: W, (o, i).
            bias: b, (o,). None: 0.

        Returns:
            (..., o), dtype of `x`.
        """
        raise self._lacks("linear")

    @abstractmethod
    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        r"""Return the cross-correlation with square kernels, plus a bias.

        .. math:: y_{nors} = b_o
                  + \sum_{i, u, v} W_{oiuv}\, x_{n,\, i,\, r t + u - p,\, s t + v - p}

        with stride t and padding p; x is zero outside of the image.

        Args:
            x: (n, i, h, w).
            weight: W, (o, i, k, k).
            bias: b, (o,). None: 0.
            stride: t, >= 1, in both directions.
            padding: p, >= 0, rows and columns of zeros on every side.

        Returns:
            (n, o, h', w') with h' = (h + 2 p - k) // t + 1, and w' likewise; dtype of `x`.
        """
        raise self._lacks("conv2d")

    @abstractmethod
    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        r"""Return each group of channels with mean 0 and variance 1, scaled and shifted by channel.

        .. math:: y = \frac{x - \mu}{\sqrt{v + \varepsilon}}\, w + b

        with the mean and the (biased) variance of all pixels of a group of c / groups channels.

        Args:
            x: (n, c, h, w).
            weight: w, (c,).
            bias: b, (c,).
            groups: Number of groups, a divisor of c.
            eps: Number added to the variance, > 0.

        Returns:
            Shape and dtype of `x`.
        """
        raise self._lacks("group_norm")

    @abstractmethod
    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        r"""Return the last axis with mean 0 and variance 1, scaled and shifted by element.

        .. math:: y = \frac{x - \mu}{\sqrt{v + \varepsilon}}\, w + b

        Args:
            x: (..., d).
            weight: w, (d,).
            bias: b, (d,).
            eps: Number added to the (biased) variance, > 0.

        Returns:
            Shape and dtype of `x`.
        """
        raise self._lacks("layer_norm")

    @abstractmethod
    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        causal: bool = False,
        bias: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        r"""Return the values, weighted by the softmax of scaled dot products plus a bias.

        .. math:: y = \operatorname{softmax}\left(s\,q\,k^T + b\right) v

        A row of b with at least one finite number must give finite results, however small that
        number is: masks are biases with a large negative number at the hidden keys
        (`ldmref.models.layers.mask_bias`). The sum should be computed in float32 at least, without
        the scores of all heads in memory at once.

        Args:
            q: Queries, (n, heads, l, d).
            k: Keys, (n, heads, m, d).
            v: Values, (n, heads, m, d).
            causal: Whether query i only attends to keys 0 to i.
            bias: b, (n, heads, l, m), of which the first three axes may be 1, in the dtype of `q`
                or in `state_dtype`; -inf hides a key. None: 0.
            scale: s. None: 1 / sqrt(d).

        Returns:
            (n, heads, l, d), dtype of `q`.
        """
        raise self._lacks("attention")

    @abstractmethod
    def embedding(self, table: Array, ids: Array) -> Array:
        """Return the rows of a table at integer indices.

        Args:
            table: (v, d).
            ids: Indices, (n, l), integers from 0 to v - 1.

        Returns:
            (n, l, d), dtype of `table`.
        """
        raise self._lacks("embedding")

    @abstractmethod
    def silu(self, x: Array) -> Array:
        """Return x * sigmoid(x).

        Args:
            x: Array of any shape, floating.

        Returns:
            Shape and dtype of `x`.
        """
        raise self._lacks("silu")

    @abstractmethod
    def gelu(self, x: Array) -> Array:
        """Return x * Phi(x), GELU with the error function (not the tanh approximation).

        Args:
            x: Array of any shape, floating.

        Returns:
            Shape and dtype of `x`.
        """
        raise self._lacks("gelu")

    @abstractmethod
    def quick_gelu(self, x: Array) -> Array:
        """Return x * sigmoid(1.702 x), the activation of OpenAI's CLIP.

        Args:
            x: Array of any shape, floating.

        Returns:
            Shape and dtype of `x`.
        """
        raise self._lacks("quick_gelu")

    @abstractmethod
    def upsample2x(self, x: Array) -> Array:
        """Return the image with every pixel repeated in both directions.

        Args:
            x: (n, c, h, w).

        Returns:
            (n, c, 2h, 2w), dtype of `x`.
        """
        raise self._lacks("upsample2x")

    @abstractmethod
    def pad_bottom_right(self, x: Array) -> Array:
        """Return the image with a row and a column of zeros appended.

        Args:
            x: (n, c, h, w).

        Returns:
            (n, c, h+1, w+1), dtype of `x`.
        """
        raise self._lacks("pad_bottom_right")

    # -- optional: compositions to fuse -----------------------------------------------------------

    def add(self, a: Array, b: Array) -> Array:
        """Return a + b, the sum of a residual connection.

        Args:
            a: Array of any shape.
            b: Shape and dtype of `a`.

        Returns:
            Shape and dtype of `a`.
        """
        return a + b

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        r"""Return the gated activation of a transformer's feed-forward layer.

        .. math:: y = a \cdot \mathrm{gelu}(g), \qquad [a, g] = x\,W^T + b

        Args:
            x: (..., i).
            weight: W, (2 o, i).
            bias: b, (2 o,). None: 0.

        Returns:
            (..., o), dtype of `x`.
        """
        halves = self.xp.reshape(self.linear(x, weight, bias), (*x.shape[:-1], 2, -1))
        a, gate = self.xp.unstack(halves, axis=-2)  # a slice's gradient is padded
        return a * self.gelu(gate)

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        """Return silu(group_norm(x)).

        Args:
            x: (n, c, h, w).
            weight: Scale, (c,).
            bias: Shift, (c,).
            groups: Number of groups, a divisor of c.
            eps: Number added to the variance, > 0.

        Returns:
            Shape and dtype of `x`.
        """
        return self.silu(self.group_norm(x, weight, bias, groups, eps))
