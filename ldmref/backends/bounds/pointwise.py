"""Bounds for activations, sums, and the compositions with them."""

from __future__ import annotations

import math

import numpy as np

from ldmref.backends.bounds import norms, products
from ldmref.backends.bounds.rounding import ELEMENTARY, ERF, Precision

QUICK = 1.702  # factor of quick GELU


def add(p: Precision, *terms: np.ndarray) -> np.ndarray:
    """Bound a residual sum x_1 + x_2 + ..., added from the left: u sum |partial sums|.

    Higham 2002, equation 4.3.
    """
    total = np.asarray(terms[0], float)
    bound = np.zeros(np.broadcast_shapes(*(np.shape(x) for x in terms)))
    for x in terms[1:]:
        total = total + x
        bound = bound + p.u * np.abs(total) + p.tiny
    return bound


def mul(p: Precision, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bound a product x y: u |x y| + tiny (Higham 2002, equation 2.8)."""
    return p.u * np.abs(np.multiply(x, y)) + p.tiny


def asarray(p: Precision, x: np.ndarray) -> np.ndarray:
    """Bound a conversion to the dtype: u |x| + tiny (Higham 2002, theorem 2.2)."""
    return p.u * np.abs(np.asarray(x, float)) + p.tiny


def silu(p: Precision, x: np.ndarray) -> np.ndarray:
    """Bound x sigmoid(x).

    A kernel computes s = sigmoid(x) as 1 / (1 + exp(-x)), which errs by
    u (ELEMENTARY s (1 - s) + 2 s), or as (1 + t) / 2 with t = tanh(x / 2), which errs by
    u (ELEMENTARY |t| / 2 + 1): an absolute error, not relative to a small s. Both are at most
    u (ELEMENTARY (1 + |t|) / 4 + 1). The product with x and its rounding give

        E = u |x| (ELEMENTARY (1 + |t|) / 4 + 1) + u |y| + tiny (1 + |x|).
    """
    return _gated(p, x, x)


def quick_gelu(p: Precision, x: np.ndarray) -> np.ndarray:
    """Bound x sigmoid(a), a = 1.702 x: the bound of `silu`, and 2 u |a| sigmoid'(a) |x|.

    The last term rounds 1.702 and its product with x.
    """
    a = QUICK * x
    slope = 0.25 / np.cosh(np.clip(0.5 * a, -300.0, 300.0)) ** 2
    return _gated(p, x, a) + 2.0 * p.u * np.abs(x * a) * slope


def gelu(p: Precision, x: np.ndarray) -> np.ndarray:
    """Bound x Phi(x) = (x + x erf(x / sqrt(2))) / 2.

    erf errs by ERF u, an absolute error in many libraries (Abramowitz and Stegun 1964, equation
    7.1.26: 1.5e-7), and by 2 u |a| erf'(a) through its argument a = x / sqrt(2). The error of the
    sum is absolute because x and x erf cancel for negative x:

        E = u |x| ((ERF + 2 |a| erf'(a)) / 2 + 1) + u |y| + tiny (1 + |x|).

    In 16 bits ERF applies to u_acc: erf is computed in float32, and rounded once.
    """
    from scipy.special import erf

    a = x / math.sqrt(2.0)
    slope = 2.0 / math.sqrt(math.pi) * np.exp(-np.minimum(a * a, 700.0))
    errors_of_erf = ERF if p.u == p.u_acc else 1.0 + ERF * p.u_acc / p.u
    factor = 0.5 * (errors_of_erf + 2.0 * np.abs(a) * slope) + 1.0
    y = 0.5 * x * (1.0 + erf(a))
    return p.u * (np.abs(x) * factor + np.abs(y)) + p.tiny * (1.0 + np.abs(x))


def _gated(p: Precision, x: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Bound x sigmoid(a) for an exact `a`."""
    tanh = np.tanh(0.5 * a)
    y = x * 0.5 * (1.0 + tanh)
    factor = 0.25 * ELEMENTARY * (1.0 + np.abs(tanh)) + 1.0
    return p.u * (np.abs(x) * factor + np.abs(y)) + p.tiny * (1.0 + np.abs(x))


def geglu(
    p: Precision, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    """Bound a gelu(g), [a, g] = linear(x).

        E = E_a (|gelu(g)| + E_gate) + |a| E_gate + u |y| + tiny,
        E_gate = 1.13 E_g + E_gelu(g)

    with the bounds E_a and E_g of `linear`; 1.13 is the largest slope of GELU.
    """
    from scipy.special import ndtr

    half = weight.shape[0] // 2
    pair = x @ weight.T + (0.0 if bias is None else bias)
    a = pair[..., :half]
    g = pair[..., half:]
    errors = products.linear(p, x, weight, bias)
    gate = g * ndtr(g)
    gate_error = 1.13 * errors[..., half:] + gelu(p, g)
    from_a = errors[..., :half] * (np.abs(gate) + gate_error)
    return from_a + np.abs(a) * gate_error + p.u * np.abs(a * gate) + p.tiny


def group_norm_silu(
    p: Precision, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float
) -> np.ndarray:
    """Bound silu(y), y = group_norm(x): 1.1 E_y + E_silu(y); 1.1 is the largest slope of SiLU."""
    shape = (x.shape[1],) + (1,) * (x.ndim - 2)
    z = norms.standardized(p, x.reshape(*x.shape[:1], groups, -1), eps)[0].reshape(x.shape)
    y = weight.reshape(shape) * z + bias.reshape(shape)
    return 1.1 * norms.group_norm(p, x, weight, bias, groups, eps) + silu(p, y)
