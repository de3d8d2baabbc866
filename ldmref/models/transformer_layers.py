"""The norm and the activation of T5 and of the transformers of SD3 and Flux.1."""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.params import Params


def rms_norm(ops: Backend, p: Params, x: Array, eps: float) -> Array:
    """Divide by the root mean square of the last axis, and scale; x: (..., d) -> the same shape.

    Zhang and Sennrich 2019, arXiv:1910.07467. The mean is taken in `ops.state_dtype`.
    """
    return ops.call_function("rms_norm", divide_by_rms, x, p.weight, eps, ops.state_dtype)


def divide_by_rms(x: Array, weight: Array, eps: float, dtype: str) -> Array:
    """Return `rms_norm`, with the mean in `dtype`."""
    xp = array_namespace(x)
    wide = xp.astype(x, getattr(xp, dtype), copy=False)
    wide = wide / xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return xp.astype(wide, x.dtype, copy=False) * weight


def gelu_tanh(ops: Backend, x: Array, name: str = "gelu_tanh") -> Array:
    """Return the tanh form of GELU; `name` is that of the module."""
    return ops.call_function(name, tanh_gelu, x)


def tanh_gelu(x: Array) -> Array:
    """Return 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), fast for large arrays."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + array_namespace(x).tanh(inner))
