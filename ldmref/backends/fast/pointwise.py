"""Activations by blocks that fit the cache: each element is fetched from memory once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.backends.fast.memory import scratch
from ldmref.backends.fast.threads import divisible, parallel

BLOCK = 2**17  # elements of a block: as large as the cache allows, since short calls contend

# erf(x / sqrt(2)) = tanh(x p(x^2)), p fitted by scripts/fit_gelu.py. p is positive everywhere, so
# for large |x| the tanh is 1, even where p overflows.
ERF = (
    7.978842158e-01,
    3.633427723e-02,
    -3.312291583e-05,
    -5.524276251e-05,
    3.969516340e-06,
    -1.334738362e-07,
    1.806258787e-09,
)


def gelu_(x: np.ndarray) -> None:
    """Compute x * Phi(x) in place; x: contiguous."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        square, p = (scratch(name, block.shape, x.dtype) for name in ("square", "p"))
        with np.errstate(over="ignore"):
            np.multiply(block, block, out=square)
            np.multiply(square, ERF[-1], out=p)
            for coefficient in ERF[-2:0:-1]:
                p += coefficient
                p *= square
            p += ERF[0]
            p *= block
        np.tanh(p, out=p)
        p += 1.0
        block *= 0.5
        block *= p


def swish_(x: np.ndarray, beta: float = 1.0) -> None:
    """Compute x * sigmoid(beta x) = x/2 (1 + tanh(beta x/2)) in place; x: contiguous.

    tanh never overflows, needs no division, and is faster than exp in NumPy.
    """
    x *= 0.5
    double_swish_(x, beta)


def quick_gelu_(x: np.ndarray) -> None:
    """Compute x * sigmoid(1.702 x) in place; x: contiguous."""
    swish_(x, 1.702)


def double_swish_(x: np.ndarray, beta: float = 1.0) -> None:
    """Compute 2 x sigmoid(2 beta x) = x (1 + tanh(beta x)) in place; x: contiguous.

    It is SiLU for an argument that was halved before.
    """
    flat = x.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        gate = scratch("gate", block.shape, x.dtype)
        np.tanh(block if beta == 1.0 else np.multiply(block, beta, out=gate), out=gate)
        gate += 1.0
        block *= gate


@divisible
def apply(function: Callable[[np.ndarray], None], x: np.ndarray) -> np.ndarray:
    """Apply an in-place `function` to a copy of x, in x's memory order, on all threads."""
    y = np.array(x, order="K")
    flat = y.ravel(order="K")

    def block(i: int) -> None:
        function(flat[i * BLOCK : (i + 1) * BLOCK])

    parallel(block, -(-flat.size // BLOCK))
    return y


@divisible
def apply_in_parts(
    function: Callable[..., np.ndarray], axis: int, x: np.ndarray, *args: object
) -> np.ndarray:
    """Return function(x, *args), computed on all threads for a few items of an axis at a time.

    What a part holds in between stays in the cache; in new memory it would cost more than the
    arithmetic.
    """
    y = np.empty_like(x)
    length = x.shape[axis]
    step = max(1, BLOCK * length // x.size)  # set by the shape alone, as the rounding may be

    def compute(i: int) -> None:
        part = [slice(None)] * x.ndim
        part[axis] = slice(i * step, (i + 1) * step)
        at = tuple(part)
        y[at] = function(x[at], *args)

    parallel(compute, -(-length // step))
    return y
