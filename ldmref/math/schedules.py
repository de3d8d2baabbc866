"""Noise schedules: beta, alpha-bar, sigma.

Schedules are float64 NumPy arrays; conversions between alpha-bar and sigma accept arrays of any
array-API library. alpha-bar at index t already includes beta_t; before the first step it is 1.
"""

from __future__ import annotations

import math

import numpy as np
from array_api_compat import array_namespace

from ldmref.math.arrays import Array, root


def linear_betas(n: int, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    r"""Forward variances that increase linearly.

    .. math:: \beta_t = a + (b - a)\, t / (n - 1), \quad t = 0, \dots, n-1

    Args:
        n: number of timesteps, >= 2.
        start, end: a and b, in (0, 1); dimensionless.

    Returns:
        (n,) float64.

    Raises:
        ValueError: n < 2, or not 0 < start <= end < 1.

    Accuracy: 2 ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, section 4.

    >>> linear_betas(3, 0.1, 0.3)
    array([0.1, 0.2, 0.3])
    """
    _check_range(n, start, end)
    return np.linspace(start, end, n)


def scaled_linear_betas(n: int, start: float = 0.00085, end: float = 0.012) -> np.ndarray:
    r"""Forward variances whose square roots increase linearly: Stable Diffusion's schedule.

    .. math:: \beta_t = \left(\sqrt a + (\sqrt b - \sqrt a)\, t / (n - 1)\right)^2

    CompVis' code calls this schedule "linear".

    Args:
        n: number of timesteps, >= 2.
        start, end: a and b, in (0, 1); dimensionless.

    Returns:
        (n,) float64.

    Raises:
        ValueError: n < 2, or not 0 < start <= end < 1.

    Accuracy: 4 ulp.
    Source: Rombach et al. 2022, arXiv:2112.10752, code `make_beta_schedule`.

    >>> scaled_linear_betas(3, 0.01, 0.09)
    array([0.01, 0.04, 0.09])
    """
    _check_range(n, start, end)
    return np.linspace(math.sqrt(start), math.sqrt(end), n) ** 2


def cosine_betas(n: int, s: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    r"""Forward variances for which alpha-bar is a squared cosine.

    .. math:: f(u) = \cos^2\!\left(\frac{u + s}{1 + s}\frac\pi2\right), \qquad
              \beta_t = \min\left(1 - \frac{f((t+1)/n)}{f(t/n)},\ \beta_{\max}\right)

    Args:
        n: number of timesteps, >= 2.
        s: offset that bounds the first betas away from 0, >= 0.
        max_beta: cap, in (0, 1).

    Returns:
        (n,) float64.

    Raises:
        ValueError: n < 2.

    Accuracy: relative error within 4 n ulp for any s, since the difference of the two cosines is
    taken in closed form: 1 - f(b) / f(a) = sin(b - a) sin(a + b) / cos(a)^2.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17.

    >>> cosine_betas(2, s=0.0).round(12)
    array([0.5  , 0.999])
    """
    _check_size(n)
    step = (math.pi / 2) / (n * (1.0 + s))
    left = step * np.arange(n, 0, -1)  # pi / 2 minus the angle; the last f is 0
    beta = math.sin(step) * np.sin(2.0 * left - step) / np.sin(left) ** 2
    return np.minimum(beta, max_beta)


def sigmoid_betas(
    n: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> np.ndarray:
    r"""Forward variances for which alpha-bar is a logistic curve.

    .. math:: f(u) = \frac{g(1) - g(u)}{g(1) - g(0)}, \quad
              g(u) = \operatorname{sigmoid}\!\left(\frac{a + (b - a) u}{\tau}\right), \qquad
              \beta_t = \min\left(1 - \frac{f((t+1)/n)}{f(t/n)},\ \beta_{\max}\right)

    Not diffusers' "sigmoid", which is GeoDiff's: there the betas themselves follow the curve.

    Args:
        n: number of timesteps, >= 2.
        start, end: start < end, the range of the logistic curve; -3 and 3 in the paper.
        tau: temperature, > 0; the curve is steeper below 1.
        max_beta: cap, in (0, 1).

    Returns:
        (n,) float64.

    Raises:
        ValueError: n < 2, or not start < end, or tau <= 0.

    Accuracy: relative error within 8 + 2 (|start| + |end|) / tau ulp, and nothing overflows:
    g(b) - g(a) = sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2)) for the logistic function g.
    Source: Jabri, Fleet, Chen 2022, arXiv:2212.11972, figure 8 (as clipped betas of n steps); the
    function also in Chen 2023, arXiv:2301.10972, algorithm 1.

    >>> sigmoid_betas(2).round(12)
    array([0.5  , 0.999])
    """
    _check_size(n)
    if not (start < end and tau > 0.0):
        raise ValueError(f"need start < end and tau > 0, not {start}, {end}, {tau}")
    half = 0.5 * (end - start) / (n * tau)  # half a step, as all arguments below are halved
    left = half * np.arange(n, 0, -1)
    last = 0.5 * end / tau
    after = last - (left - half)
    # sinh(half) cosh(last) / (sinh(left) cosh(after)), with the leading exponentials combined
    beta = np.exp(half - left + abs(last) - np.abs(after))
    beta *= math.expm1(-2.0 * half) / np.expm1(-2.0 * left)
    beta *= (1.0 + math.exp(-2.0 * abs(last))) / (1.0 + np.exp(-2.0 * np.abs(after)))
    return np.minimum(beta, max_beta)


def alphas_cumprod(betas: Array) -> Array:
    r"""Fraction of signal variance remaining after each step.

    .. math:: \bar\alpha_t = \prod_{s=0}^{t} (1 - \beta_s)

    Args:
        betas: (n,), in [0, 1]; any array-API library.

    Returns:
        (n,), in [0, 1], non-increasing; dtype of `betas`.

    Accuracy: relative error n * ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, below eq. 4.

    >>> alphas_cumprod(np.asarray([0.5, 0.5]))
    array([0.5 , 0.25])
    """
    return array_namespace(betas).cumulative_prod(1.0 - betas)


def sigma_from_alpha_bar(alpha_bar: Array) -> Array:
    r"""Noise level in the coordinates x = x0 + sigma eps.

    .. math:: \sigma = \sqrt{(1 - \bar\alpha) / \bar\alpha}

    Args:
        alpha_bar: scalar or any shape, in (0, 1]; dimensionless.

    Returns:
        the same shape and dtype, in [0, inf).

    Accuracy: 3 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (VP).

    >>> sigma_from_alpha_bar(np.asarray([0.5, 1.0]))
    array([1., 0.])
    """
    return root((1.0 - alpha_bar) / alpha_bar)


def alpha_bar_from_sigma(sigma: Array) -> Array:
    r"""Invert `sigma_from_alpha_bar`.

    .. math:: \bar\alpha = 1 / (1 + \sigma^2)

    Args:
        sigma: scalar or any shape, >= 0.

    Returns:
        the same shape and dtype, in (0, 1].

    Accuracy: 2 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (VP).

    >>> alpha_bar_from_sigma(np.asarray([1.0, 0.0]))
    array([0.5, 1. ])
    """
    return 1.0 / (1.0 + sigma * sigma)


def rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    r"""Shift and scale a schedule so that no signal remains after the last step.

    .. math:: \sqrt{\bar\alpha_t}' =
              \frac{\sqrt{\bar\alpha_0}}{\sqrt{\bar\alpha_0} - \sqrt{\bar\alpha_{T-1}}}
              \left(\sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_{T-1}}\right)

    Args:
        betas: (n,), n >= 2, in (0, 1).

    Returns:
        (n,) float64 betas; the last is 1, the first unchanged.

    Raises:
        ValueError: n < 2.

    Accuracy: 1e-13 relative in alpha-bar, except near its zero end.
    Source: Lin et al. 2024, arXiv:2305.08891, algorithm 1.

    >>> alphas_cumprod(rescale_zero_terminal_snr(np.asarray([0.19, 0.5])))
    array([0.81, 0.  ])
    """
    _check_size(len(betas))
    signal = np.sqrt(np.cumprod(1.0 - np.asarray(betas, np.float64)))
    signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    alpha_bar = signal**2
    return 1.0 - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def _check_size(n: int) -> None:
    if n < 2:
        raise ValueError(f"a schedule needs n >= 2 timesteps, not {n}")


def _check_range(n: int, start: float, end: float) -> None:
    _check_size(n)
    if not 0.0 < start <= end < 1.0:
        raise ValueError(f"betas need 0 < start <= end < 1, not start={start}, end={end}")
