"""Log-likelihoods of 8-bit pixels under discretised Gaussians: DDPM's decoder."""

from __future__ import annotations

import math

import numpy as np
from array_api_compat import array_namespace

from ldmref.math.arrays import Array
from ldmref.math.special import log_ndtr


def discretized_gaussian_log_likelihood(
    x: Array, mean: Array, logvar: Array, bins: int = 256
) -> Array:
    r"""Log-probability of pixel values under a discretised Gaussian: DDPM's decoder.

    .. math:: \log p(x) = \log\int_{\delta_-(x)}^{\delta_+(x)} N(u; \mu, \sigma^2)\, du, \qquad
              \delta_\pm(x) = x \pm \frac{1}{255}

    with the lowest bin extended to minus infinity, and the highest to infinity.

    A bin of half-width d at m, both in units of sigma, is integrated by Gauss-Legendre quadrature
    if it is narrow (d < 1/2, |m| d < 1), where the difference of distribution functions would
    cancel; otherwise by that difference in the left tail, where `log_ndtr` is accurate.

    Args:
        x: values 2 k / 255 - 1, k = 0 .. 255, any shape, real floating, in [-1, 1].
        mean: broadcastable to `x`.
        logvar: natural logarithm of the variance, broadcastable to `x`.
        bins: number of values, >= 2; 255 above is bins - 1.

    Returns:
        nats, <= 0, shape and dtype of `x`; the probabilities of all values sum to 1.

    Raises:
        ValueError: bins < 2.

    Accuracy: 8 ulp of 1 + |logvar| + (m + d)^2.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 13.

    >>> import numpy as np
    >>> x = np.asarray([-1.0, 0.0, 1.0])
    >>> np.exp(discretized_gaussian_log_likelihood(x, 0 * x, 0 * x, bins=3)).round(6)
    array([0.308538, 0.382925, 0.308538])
    """
    if bins < 2:
        raise ValueError(f"pixels need at least 2 values, not {bins}")
    xp = array_namespace(x, mean, logvar)
    half = 1.0 / (bins - 1)
    precision = xp.exp(-0.5 * logvar)
    m = (x - mean) * precision
    d = half * precision + xp.zeros_like(m)
    low = log_ndtr(m + d)
    high = log_ndtr(d - m)
    inner = _log_bin(xp.where(m > 0.0, -m, m), d)
    return xp.where(x < half - 1.0, low, xp.where(x > 1.0 - half, high, inner))


def bits_per_dimension(nats: Array, dimensions: int) -> Array:
    r"""Negative log-likelihood in bits per dimension.

    .. math:: b = \frac{-\log p(x)}{D \log 2}

    Args:
        nats: negative log-likelihood per example, scalar or any shape.
        dimensions: D, the number of elements of an example (c h w), >= 1.

    Returns:
        bits per dimension, type and shape of `nats`.

    Accuracy: 2 ulp.
    Derived: change of the logarithm's base.

    >>> round(bits_per_dimension(8 * 0.6931471805599453, 4), 12)
    2.0
    """
    return nats / (dimensions * math.log(2.0))


def _log_bin(m: Array, d: Array) -> Array:
    """log(Phi(m + d) - Phi(m - d)) for m <= 0 < d; see `discretized_gaussian_log_likelihood`."""
    xp = array_namespace(m, d)
    narrow = (d < 0.5) & (-m * d < 1.0)
    # gradients pass through both branches, so the unused one gets finite inputs
    u = xp.where(narrow, m * d, xp.zeros_like(d))
    w = xp.where(narrow, d, xp.zeros_like(d))
    rule = zip(*np.polynomial.legendre.leggauss(8), strict=True)
    integral = sum(float(g) * xp.exp(-float(s) * (u + 0.5 * float(s) * w * w)) for s, g in rule)
    by_quadrature = xp.log(integral * d) - 0.5 * m * m - 0.5 * math.log(2.0 * math.pi)
    upper = log_ndtr(m + d)
    lower = log_ndtr(m - d)
    gap = xp.where(narrow, -xp.ones_like(d), lower - upper)
    return xp.where(narrow, by_quadrature, upper + xp.log(-xp.expm1(gap)))
