"""Unit roundoffs, underflow, and the constants of the bounds.

All bounds start from the standard model (Higham 2002, Accuracy and Stability of Numerical
Algorithms, equations 2.4 and 2.8): an operation in a type with unit roundoff u returns

    fl(x op y) = (x op y)(1 + delta) + eta,   |delta| <= u,

where eta is not zero only if the result underflows. A backend may store each intermediate array of
an operation in the dtype of its argument (u), and accumulates sums in float32 at least (u_acc).

The constants in capitals are calibrated: `scripts/calibrate_error_bounds.py` runs the operations
of all backends on random inputs and prints the largest ratio of an error and its bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ldmref.errors import UsageError, did_you_mean

# lambda of Higham and Mary 2019 (A New Approach to Probabilistic Rounding Error Analysis, SIAM J.
# Sci. Comput. 41:A2815, theorem 2.4): roundings are independent with mean zero, each with a
# standard deviation of at most u / sqrt(3). 4 is then 6.9 standard deviations.
SEQUENTIAL = 4.0
# Higham and Mary 2020 (Sharper Probabilistic Backward Error Analysis ..., SIAM J. Sci. Comput.
# 42:A3427): if the terms also have mean zero, the factor sqrt(n) disappears.
CENTRED = 3.0
# Sums of a norm are pairwise, blocked or at least eight interleaved sums in every library. They err
# by SUM_START + SUM_GROWTH sqrt(n) units and not by SEQUENTIAL sqrt(n).
SUM_START = 4.0
SUM_GROWTH = 0.5
# Errors of exp and tanh in units u of the type in which they are evaluated (u is half an ulp);
# vectorised libraries guarantee 4 ulp.
ELEMENTARY = 8.0
# PyTorch's vectorised GELU computes erf within 20 ulp, which are 20 u where it is near 1.
ERF = 20.0
# Winograd's F(m x m, 3 x 3): rounding errors of a transformed tile, in units of the largest input
# of the tile times the largest entry of the kernel. 1.1 and 38 were seen in tiles with one large
# pixel, whose errors reach all outputs of the tile.
WINOGRAD = {2: 3.0, 4: 60.0}


@dataclass(frozen=True)
class Precision:
    """The two precisions of an operation.

    Args:
        dtype: The type in which arrays are stored.
        u: Its unit roundoff.
        u_acc: Unit roundoff of sums and of the arithmetic between loading and storing.
        tiny: Largest error of an underflow of a stored number.
        tiny_acc: Largest error of an underflow within the arithmetic.

    >>> from ldmref.backends.bounds import PRECISIONS
    >>> PRECISIONS["float16"].u, PRECISIONS["float16"].u_acc == 2.0**-24  # sums are in float32
    (0.00048828125, True)
    """

    dtype: str
    u: float
    u_acc: float
    tiny: float
    tiny_acc: float


# Kernels may flush subnormal numbers to zero: tiny is the smallest normal number. Conversions to
# float16 do not: tiny is half the spacing of the subnormal numbers.
PRECISIONS = {
    "float64": Precision("float64", 2.0**-53, 2.0**-53, 2.0**-1022, 2.0**-1022),
    "float32": Precision("float32", 2.0**-24, 2.0**-24, 2.0**-126, 2.0**-126),
    "float16": Precision("float16", 2.0**-11, 2.0**-24, 2.0**-25, 2.0**-126),
    "bfloat16": Precision("bfloat16", 2.0**-8, 2.0**-24, 2.0**-126, 2.0**-126),
}
"""The `Precision` of each floating-point type by name."""


def precision(dtype: str) -> Precision:
    """Return the precisions of operations in a floating-point type.

    Args:
        dtype: Name of the type: float64, float32, float16 or bfloat16.

    Returns:
        Its precisions.

    Raises:
        UsageError: The type has no bounds.

    >>> from ldmref.backends.bounds import precision
    >>> precision("bfloat16").u
    0.00390625
    """
    if dtype not in PRECISIONS:
        hint = did_you_mean(dtype, PRECISIONS)
        raise UsageError(f"no error bounds for dtype {dtype!r}", code="E-DTYPE", hint=hint)
    return PRECISIONS[dtype]


def sum_units(x: np.ndarray) -> np.ndarray:
    """Return the errors of sums of n numbers along the last axis, in units of u_acc * sum(|x|).

    min(n, SUM_START + SUM_GROWTH sqrt(n) + e), e = the number of x equal to the median, less 1. n
    units are certain for every order of summation (Higham 2002, equation 4.4). The other expression
    is calibrated; the roundings of equal numbers, such as zeros, are not independent.
    """
    n = x.shape[-1]
    median = np.partition(x, n // 2, axis=-1)[..., n // 2, None]
    equal = np.count_nonzero(x == median, axis=-1, keepdims=True) - 1.0
    return np.minimum(n, SUM_START + SUM_GROWTH * n**0.5 + equal)


def inner_product(
    p: Precision,
    terms: int,
    largest_partial: np.ndarray,
    magnitude: np.ndarray,
    equal: np.ndarray | bool = False,
) -> np.ndarray:
    """Bound the rounding errors of sums of `terms` products, accumulated in u_acc.

        u_acc min(n A, SEQUENTIAL sqrt(n) max_j |s_j| + CENTRED A),   A = sum |x_i y_i|

    n u A is the bound for every order of summation (Higham 2002, equation 3.5, to first order). The
    second is a running error bound: recursive summation errs by at most u sum_j |s_j| (equation
    4.3), and independent roundings by SEQUENTIAL u sqrt(sum_j s_j^2) (Higham and Mary 2019, theorem
    3.1, applied to the partial sums), which is at most SEQUENTIAL u sqrt(n) max |s_j|. The maximum
    is known at the boundaries of blocks only; inside of a block the partial sums of terms with mean
    zero move by a part of A / sqrt(n), which gives the term CENTRED A (Higham and Mary 2020).
    Roundings of equal terms are not independent: for those the first bound is used.

    Args:
        p: The precisions.
        terms: Number of products in a sum, n.
        largest_partial: max |s_j| over the boundaries of blocks.
        magnitude: A.
        equal: Which sums have equal terms.
    """
    certain = terms * magnitude
    probable = SEQUENTIAL * terms**0.5 * largest_partial + CENTRED * magnitude
    return p.u_acc * np.where(equal, certain, np.minimum(certain, probable))


def all_equal(x: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Return whether all numbers along the axes are equal."""
    return x.max(axis=axis) == x.min(axis=axis)
