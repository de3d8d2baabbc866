"""A mean over pictures with its confidence interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054  # of a standard normal variable: 95 % lie within


class Estimate(NamedTuple):
    """A mean of independent numbers, and half the width of its 95 % confidence interval."""

    mean: float
    half_width: float


def estimate(values: np.ndarray) -> Estimate:
    """The mean of one number per picture, (n,); the interval is NaN for a single picture.

    It is 1.96 s / sqrt(n), s the unbiased standard deviation: of the mean's normal limit.

    >>> estimate(np.asarray([1.0, 3.0])).mean
    2.0
    """
    n = len(values)
    spread = float(np.std(values, ddof=1)) if n > 1 else math.nan
    return Estimate(float(np.mean(values)), Z95 * spread / math.sqrt(n))
