"""Means and proportions over images, with 95 % confidence intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054  # P(|x| < Z95) = 0.95 for a standard normal variable


class IntervalEstimate(NamedTuple):
    """An estimate from a value per image, and the ends of its 95 % confidence interval.

    Args:
        mean: The estimate.
        low: The lower end of the interval; NaN without one.
        high: The upper end of the interval; NaN without one.
        images: The number of images.

    >>> from ldmref.evaluate import IntervalEstimate
    >>> IntervalEstimate(0.5, 0.25, 0.75, images=16).half_width
    0.25
    """

    mean: float
    low: float
    high: float
    images: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval; NaN without one."""
        return (self.high - self.low) / 2


def estimate(values: np.ndarray) -> IntervalEstimate:
    r"""Return the mean of one number per image with Student's t interval.

    .. math:: \bar x \pm t_{0.975,\,n-1}\, s / \sqrt n, \qquad
              s^2 = \frac{1}{n-1} \sum_i (x_i - \bar x)^2

    The interval is exact for normal values and right in the limit of many others (Student 1908,
    Biometrika 6:1). For a single image it is NaN.

    Args:
        values: One number per image, (n,), n >= 1.

    Returns:
        The mean and its interval, in the unit of the values.

    >>> import numpy as np
    >>> from ldmref.evaluate import estimate
    >>> result = estimate(np.asarray([1.0, 3.0]))
    >>> result.mean, round(result.half_width, 1)
    (2.0, 12.7)
    """
    from scipy.special import stdtrit

    n = len(values)
    mean = float(np.mean(values))
    half_width = math.nan
    if n > 1:
        half_width = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))
    return IntervalEstimate(mean, mean - half_width, mean + half_width, n)


def proportion(successes: np.ndarray) -> IntervalEstimate:
    r"""Return the share of successes with Wilson's score interval.

    .. math:: \frac{1}{1 + z^2/n} \Bigl(\hat p + \frac{z^2}{2n}
              \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}}\Bigr), \quad z = 1.96

    Its coverage is near 95 % also for shares near 0 and 1, for which `estimate` returns an interval
    of width 0 (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Args:
        successes: One truth value per image, (n,), n >= 1.

    Returns:
        The share, from 0 to 1, and its interval.

    >>> import numpy as np
    >>> from ldmref.evaluate import proportion
    >>> result = proportion(np.asarray([True] * 10))
    >>> result.mean, round(result.low, 2), result.high
    (1.0, 0.72, 1.0)
    """
    n = len(successes)
    p = float(np.mean(successes))
    shrink = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / shrink
    half_width = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2)) / shrink
    # at p = 0 and 1 one end is p, up to rounding
    return IntervalEstimate(p, min(p, centre - half_width), max(p, centre + half_width), n)
