"""Activations in blocks that fit the cache, so that each number is fetched once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.backends.fast.threads import parallel, scratch

BLOCK = 2**17  # numbers that are worked on at once; with fewer, threads wait for each other
SHARE = 2**18  # numbers of one thread's turn

# tanh(x p(x^2)) = erf(x / sqrt(2)), from scripts/fit_gelu.py; p is positive everywhere, so that
# far out tanh is 1, even where p overflows
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
    """x * Phi(x), in place; x: contiguous."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        u, p = scratch("u", part.shape, x.dtype), scratch("p", part.shape, x.dtype)
        with np.errstate(over="ignore"):
            np.multiply(part, part, out=u)
            np.multiply(u, ERF[-1], out=p)
            for coefficient in ERF[-2:0:-1]:
                p += coefficient
                p *= u
            p += ERF[0]
            p *= part
        np.tanh(p, out=p)
        p += 1.0
        part *= 0.5
        part *= p


def sigmoid_times_(x: np.ndarray, slope: float = 1.0) -> None:
    """x / (1 + exp(-slope x)) = x/2 (1 + tanh(slope x/2)), in place; x: contiguous.

    tanh overflows nowhere, needs no division, and is NumPy's faster function.
    """
    flat = x.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        e = scratch("e", part.shape, x.dtype)
        if slope == 1.0:
            part *= 0.5
            np.tanh(part, out=e)
        else:
            np.multiply(part, 0.5 * slope, out=e)
            np.tanh(e, out=e)
            part *= 0.5
        e += 1.0
        part *= e


def share(function: Callable[[np.ndarray], None], x: np.ndarray) -> np.ndarray:
    """A copy of x, in x's order of memory, every part of which `function` has changed in place."""
    y = np.array(x, order="K")
    flat = y.ravel(order="K")
    parallel(lambda i: function(flat[i * SHARE : (i + 1) * SHARE]), -(-flat.size // SHARE))
    return y
