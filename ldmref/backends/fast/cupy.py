"""CuPy at full speed: few kernel launches, float32 sums, one matrix product per convolution.

Images keep their shape (n, c, h, w), but their channels are contiguous in memory: a convolution is
a gather of columns (im2col) and one cuBLAS product, as is each linear layer. Everything else is
fused: a norm with its activation takes three launches, GEGLU's gate with its
biases one. Memory comes from CuPy's pool, all work is queued on the current stream, and nothing
waits for the device.
"""

from __future__ import annotations

import math
from typing import Any

from ldmref.backends.cupy import CupyBackend
from ldmref.math.arrays import Array

ACTIVATIONS = """
__device__ float identity(float x) { return x; }
__device__ float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
__device__ float quick_gelu(float x) { return x / (1.0f + expf(-1.702f * x)); }
"""
NORMALIZED = "((float)x - mean) * rsqrtf(variance + eps) * (float)weight + (float)bias"
GATED = "((float)value + (float)value_bias) * gelu((float)gate + (float)gate_bias)"
CENTRED = "((float)x - mean)"


class FastCupyBackend(CupyBackend):
    """CuPy on one CUDA device, float32 or float16."""

    dtypes = ("float32", "float16")
    speeds = ("fast",)
    workspace = 2**30  # bytes for the columns of a convolution, or the scores of attention

    def set_up(self) -> None:
        super().set_up()
        self.declare_kernels()

    def declare_kernels(self) -> None:
        """Declare the CUDA kernels; CuPy compiles each at its first launch.

        Their names have a prefix: a kernel called `exp` does not compile beside CUDA's function.
        """

        def elementwise(inputs: str, result: str, name: str) -> Any:
            return self.lib.ElementwiseKernel(
                inputs, "T y", f"y = (T)({result})", f"ldmref_{name}", preamble=ACTIVATIONS
            )

        def reduction(inputs: str, term: str, name: str) -> Any:
            return self.lib.ReductionKernel(
                inputs,
                "float32 y",
                term,
                "a + b",
                "y = a",
                "0",
                f"ldmref_{name}",
                reduce_type="float",
            )

        norm = "T x, float32 mean, float32 variance, T weight, T bias, float32 eps"
        self._activate = {
            name: elementwise("T x", f"{name}((float)x)", name)
            for name in ("silu", "gelu", "quick_gelu")
        }
        self._normalize = {
            name: elementwise(norm, f"{name}({NORMALIZED})", f"normalize_{name}")
            for name in ("identity", "silu")
        }
        gate = "T value, T gate, T value_bias, T gate_bias"
        self._gate = elementwise(gate, GATED, "geglu")
        self._exp = elementwise("T x, T maximum", "expf((float)x - (float)maximum)", "exp")
        self._divide = elementwise("T x, float32 by", "(float)x / by", "divide")
        self._sum = reduction("T x, float32 scale", "(float)x * scale", "sum")
        self._variance = reduction(
            "T x, float32 mean, float32 scale", f"{CENTRED} * {CENTRED} * scale", "variance"
        )

    def weight(self, x: Array) -> Array:
        """Convert a parameter; kernels get the memory order (k, k, i, o) of im2col matrices."""
        x = self.asarray(x)
        if x.ndim != 4:
            return x
        return self.lib.ascontiguousarray(x.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        half = weight.shape[0] // 2
        y = x @ weight.T
        b = self.lib.zeros(2 * half, dtype=x.dtype) if bias is None else bias
        return self._gate(y[..., :half], y[..., half:], b[:half], b[half:])

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        """Multiply columns (n h' w', k k i) by kernels (k k i, o), several images at a time."""
        lib = self.lib
        x = _channels_last(self.lib, x)
        (out, c, k, _) = weight.shape
        n, h, w, _ = x.shape
        matrix = weight.transpose(2, 3, 1, 0).reshape(k * k * c, out)
        if padding:
            padded = lib.zeros((n, h + 2 * padding, w + 2 * padding, c), dtype=x.dtype)
            padded[:, padding : padding + h, padding : padding + w] = x
            x = padded
        windows = lib.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
        windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
        h, w = windows.shape[1:3]
        images = max(1, self.workspace // (h * w * k * k * c * x.dtype.itemsize))
        products = [
            windows[first : first + images].reshape(-1, k * k * c) @ matrix
            for first in range(0, n, images)
        ]
        y = products[0] if len(products) == 1 else lib.concatenate(products)
        if bias is not None:
            y += bias
        return y.reshape(n, h, w, out).transpose(0, 3, 1, 2)

    def group_norm(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        groups: int,
        eps: float,
        activation: str = "identity",
    ) -> Array:
        n, c, h, w = x.shape
        grouped = (n, h * w, groups, c // groups)
        x = _channels_last(self.lib, x).reshape(grouped)
        weight, bias = (y.reshape(grouped[2:]) for y in (weight, bias))
        y = self._standardized(x, (1, 3), weight, bias, eps, activation)
        return y.reshape(n, h, w, c).transpose(0, 3, 1, 2)

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        return self.group_norm(x, weight, bias, groups, eps, "silu")

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return self._standardized(x, (x.ndim - 1,), weight, bias, eps)

    def _standardized(
        self,
        x: Array,
        axes: tuple[int, ...],
        weight: Array,
        bias: Array,
        eps: float,
        activation: str = "identity",
    ) -> Array:
        scale = 1.0 / math.prod(x.shape[axis] for axis in axes)
        mean = self._sum(x, scale, axis=axes, keepdims=True)
        variance = self._variance(x, mean, scale, axis=axes, keepdims=True)
        return self._normalize[activation](x, mean, variance, weight, bias, eps)

    def _softmax(self, x: Array) -> Array:
        weights = self._exp(x, x.max(axis=-1, keepdims=True))
        sums = self._sum(weights, 1.0, axis=(x.ndim - 1,), keepdims=True)
        return self._divide(weights, sums)

    def silu(self, x: Array) -> Array:
        return self._activate["silu"](x)

    def gelu(self, x: Array) -> Array:
        return self._activate["gelu"](x)

    def quick_gelu(self, x: Array) -> Array:
        return self._activate["quick_gelu"](x)

    def upsample2x(self, x: Array) -> Array:
        x = _channels_last(self.lib, x)
        n, h, w, c = x.shape
        y = self.lib.empty((n, h, 2, w, 2, c), dtype=x.dtype)
        y[...] = x[:, :, None, :, None]
        return y.reshape(n, 2 * h, 2 * w, c).transpose(0, 3, 1, 2)


def _channels_last(lib: Any, x: Array) -> Array:
    """Convert (n, c, h, w) to contiguous (n, h, w, c), without a copy of this backend's results."""
    return lib.ascontiguousarray(x.transpose(0, 2, 3, 1))
