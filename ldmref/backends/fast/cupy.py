"""CuPy at full speed: few kernel launches, float32 sums, one matrix product per convolution.

Pictures keep their shape (n, c, h, w), but their channels lie together in memory, so that a
convolution is a gather of columns (im2col) and one product on cuBLAS, as is every linear layer.
What surrounds the products is fused: a norm with its activation is three launches, GEGLU's gate
with its biases one. Memory comes from CuPy's pool, all work runs in order on the current stream,
and nothing waits for the device.
"""

from __future__ import annotations

import math

from ldmref.backends.cupy import CupyBackend

ACTIVATIONS = """
__device__ float plain(float x) { return x; }
__device__ float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
__device__ float quick_gelu(float x) { return x / (1.0f + expf(-1.702f * x)); }
"""
NORMALIZED = "((float)x - mean) * rsqrtf(variance + eps) * (float)weight + (float)bias"
GATED = "((float)value + (float)value_bias) * gelu((float)gate + (float)gate_bias)"
FROM_MEAN = "((float)x - mean)"


class FastCupyBackend(CupyBackend):
    """CuPy on one CUDA device, float32 or float16."""

    dtypes = ("float32", "float16")
    speeds = ("fast",)
    workspace = 2**30  # bytes that the columns of a convolution, or attention's scores, may take

    def __init__(
        self, device: str | None = None, dtype: str | None = None, speed: str | None = None
    ):
        super().__init__(device, dtype, speed)

        def elementwise(inputs: str, result: str, name: str):
            return self.lib.ElementwiseKernel(
                inputs, "T y", f"y = (T)({result})", name, preamble=ACTIVATIONS
            )

        def total(inputs: str, term: str, name: str):
            return self.lib.ReductionKernel(
                inputs, "float32 y", term, "a + b", "y = a", "0", name, reduce_type="float"
            )

        norm = "T x, float32 mean, float32 variance, T weight, T bias, float32 eps"
        self._activate = {
            name: elementwise("T x", f"{name}((float)x)", name)
            for name in ("silu", "gelu", "quick_gelu")
        }
        self._normalize = {
            name: elementwise(norm, f"{name}({NORMALIZED})", f"normalize_{name}")
            for name in ("plain", "silu")
        }
        gate = "T value, T gate, T value_bias, T gate_bias"
        self._gate = elementwise(gate, GATED, "geglu")
        self._weigh = elementwise("T x, T highest", "expf((float)x - (float)highest)", "weigh")
        self._divide = elementwise("T x, float32 by", "(float)x / by", "divide")
        self._mean = total("T x, float32 share", "(float)x * share", "mean")
        self._variance = total(
            "T x, float32 mean, float32 share", f"{FROM_MEAN} * {FROM_MEAN} * share", "variance"
        )

    def weight(self, x):
        """Kernels as the matrices (k, k, i, o) by which columns are multiplied."""
        x = self.asarray(x)
        if x.ndim != 4:
            return x
        return self.lib.ascontiguousarray(x.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)

    def linear(self, x, weight, bias=None):
        y = x @ weight.T
        if bias is not None:
            y += bias
        return y

    def geglu(self, x, weight, bias=None):
        half = weight.shape[0] // 2
        both = x @ weight.T
        if bias is None:
            bias = self.lib.zeros(2 * half, dtype=x.dtype)
        return self._gate(both[..., :half], both[..., half:], bias[:half], bias[half:])

    def conv2d(self, x, weight, bias=None, stride=1, padding=0):
        """Columns (n h' w', k k i) times the kernels (k k i, o), by images if they are many."""
        lib, x, (out, c, k, _) = self.lib, _channels_last(self.lib, x), weight.shape
        n, h, w, _ = x.shape
        matrix = weight.transpose(2, 3, 1, 0).reshape(k * k * c, out)
        if padding:
            padded = lib.zeros((n, h + 2 * padding, w + 2 * padding, c), dtype=x.dtype)
            padded[:, padding : padding + h, padding : padding + w] = x
            x = padded
        windows = lib.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
        windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
        h, w = windows.shape[1:3]
        some = max(1, self.workspace // (h * w * k * k * c * x.dtype.itemsize))
        parts = [
            windows[first : first + some].reshape(-1, k * k * c) @ matrix
            for first in range(0, n, some)
        ]
        y = (parts[0] if len(parts) == 1 else lib.concatenate(parts)).reshape(n, h, w, out)
        if bias is not None:
            y += bias
        return y.transpose(0, 3, 1, 2)

    def group_norm(self, x, weight, bias, groups, eps):
        return self._group_norm(x, weight, bias, groups, eps, "plain")

    def group_norm_silu(self, x, weight, bias, groups, eps):
        return self._group_norm(x, weight, bias, groups, eps, "silu")

    def _group_norm(self, x, weight, bias, groups, eps, activation):
        n, c, h, w = x.shape
        grouped = (n, h * w, groups, c // groups)
        x = _channels_last(self.lib, x).reshape(grouped)
        weight, bias = (y.reshape(grouped[2:]) for y in (weight, bias))
        y = self._standardized(x, (1, 3), weight, bias, eps, activation)
        return y.reshape(n, h, w, c).transpose(0, 3, 1, 2)

    def layer_norm(self, x, weight, bias, eps):
        return self._standardized(x, (x.ndim - 1,), weight, bias, eps, "plain")

    def _standardized(self, x, axes, weight, bias, eps, activation):
        share = 1.0 / math.prod(x.shape[axis] for axis in axes)
        mean = self._mean(x, share, axis=axes, keepdims=True)
        variance = self._variance(x, mean, share, axis=axes, keepdims=True)
        return self._normalize[activation](x, mean, variance, weight, bias, eps)

    def _softmax(self, x):
        weights = self._weigh(x, x.max(axis=-1, keepdims=True))
        totals = self._mean(weights, 1.0, axis=(x.ndim - 1,), keepdims=True)
        return self._divide(weights, totals)

    def silu(self, x):
        return self._activate["silu"](x)

    def gelu(self, x):
        return self._activate["gelu"](x)

    def quick_gelu(self, x):
        return self._activate["quick_gelu"](x)

    def upsample2x(self, x):
        x = _channels_last(self.lib, x)
        n, h, w, c = x.shape
        y = self.lib.empty((n, h, 2, w, 2, c), dtype=x.dtype)
        y[...] = x[:, :, None, :, None]
        return y.reshape(n, 2 * h, 2 * w, c).transpose(0, 3, 1, 2)


def _channels_last(lib, x):
    """(n, c, h, w) -> (n, h, w, c), contiguous; no copy for what these operations gave."""
    return lib.ascontiguousarray(x.transpose(0, 2, 3, 1))
