"""Arrays that should be normal noise, of which only the distribution is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

DEVIATIONS = 6.0  # standard deviations of a statistic of a sample


class NormalDeviation(NamedTuple):
    """How far an array is from one of independent standard normal numbers.

    Attributes:
        error: The largest difference of a statistic from that of the distribution.
        allowed: How large it may be in a sample of this size.
        cause: Which statistic is too far off, in words; "" for none.
    """

    error: float
    allowed: float
    cause: str


def deviation_from_normal(z: np.ndarray) -> NormalDeviation:
    """Return how far an array is from standard normal numbers.

    With N elements the mean has the standard deviation 1 / sqrt(N), and the root of the mean square
    about 1 / sqrt(2 N).

    Args:
        z: The array, finite and not empty.
    """
    allowed = DEVIATIONS / math.sqrt(2.0 * z.size)
    deviation, mean = float(np.sqrt(np.mean(np.square(z)))), float(np.mean(z))
    errors = abs(deviation - 1.0), abs(mean) / math.sqrt(2.0)
    cause = ""
    if max(errors) > allowed:
        cause = f"standard deviation {deviation:.4g} instead of 1"
    if errors[0] <= allowed < errors[1]:
        cause = f"mean {mean:.4g} instead of 0"
    return NormalDeviation(max(errors), allowed, cause)


def depends_on(z: np.ndarray, x: np.ndarray) -> bool:
    """Return whether noise is correlated with an array, which fresh noise never is.

    The correlation of two independent arrays of N elements has the standard deviation 1 / sqrt(N).

    Args:
        z: The noise.
        x: An array of its shape.
    """
    noise, other = (np.ravel(a).astype(np.float64) - np.mean(a) for a in (z, x))
    scale = float(np.linalg.norm(noise) * np.linalg.norm(other))
    correlation = abs(float(noise @ other)) / scale if scale else 0.0
    return correlation > DEVIATIONS / math.sqrt(z.size)
