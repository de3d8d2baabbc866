"""Noise schedules: beta, alpha-bar, sigma, signal-to-noise ratio; the grids that samplers walk.

Schedules are float64 NumPy arrays made on the host; conversions between alpha-bar, sigma and SNR
take arrays of any array-API library. alpha-bar at index t already includes beta_t; alpha-bar before
the first step is 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any


def linear_betas(n: int, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    r"""Forward variances that grow linearly.

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
    r"""Forward variances whose square roots grow linearly: Stable Diffusion's schedule.

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
    r"""Forward variances whose alpha-bar falls as a squared cosine.

    .. math:: f(u) = \cos^2\!\left(\frac{u + s}{1 + s}\frac\pi2\right), \qquad
              \beta_t = \min\left(1 - \frac{f((t+1)/n)}{f(t/n)},\ \beta_{\max}\right)

    Args:
        n: number of timesteps, >= 2.
        s: offset that keeps the first betas away from 0, >= 0.
        max_beta: cap, in (0, 1).

    Returns:
        (n,) float64.

    Raises:
        ValueError: n < 2.

    Accuracy: relative error below 1e-13 * n (a difference of cosines near 0).
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17.

    >>> cosine_betas(2, s=0.0).round(12)
    array([0.5  , 0.999])
    """
    if n < 2:
        raise ValueError(f"a schedule needs n >= 2 timesteps, not {n}")
    f = np.cos((np.linspace(0.0, 1.0, n + 1) + s) / (1.0 + s) * (math.pi / 2)) ** 2
    return np.minimum(1.0 - f[1:] / f[:-1], max_beta)


def alphas_cumprod(betas: Array) -> Array:
    r"""The fraction of signal variance that is left after each step.

    .. math:: \bar\alpha_t = \prod_{s=0}^{t} (1 - \beta_s)

    Args:
        betas: (n,), in [0, 1]; any array-API library.

    Returns:
        (n,), in [0, 1], never increasing; dtype of `betas`.

    Accuracy: relative error n * ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, below eq. 4.

    >>> alphas_cumprod(np.asarray([0.5, 0.5]))
    array([0.5 , 0.25])
    """
    return array_namespace(betas).cumulative_prod(1.0 - betas)


def snr(alpha_bar: Array) -> Array:
    r"""Signal-to-noise ratio, a ratio of variances.

    .. math:: \mathrm{SNR} = \frac{\bar\alpha}{1 - \bar\alpha} = \frac{1}{\sigma^2}

    Args:
        alpha_bar: any shape, in [0, 1); dimensionless.

    Returns:
        the same shape and dtype, in [0, inf).

    Accuracy: 2 ulp of alpha_bar / (1 - alpha_bar).
    Source: Kingma et al. 2021, arXiv:2107.00630, section 3.1 (definition of the SNR).

    >>> snr(np.asarray([0.75]))
    array([3.])
    """
    return alpha_bar / (1.0 - alpha_bar)


def sigma_from_alpha_bar(alpha_bar: Array) -> Array:
    r"""The noise level in the coordinates x = x0 + sigma eps.

    .. math:: \sigma = \sqrt{(1 - \bar\alpha) / \bar\alpha}

    Args:
        alpha_bar: any shape, in (0, 1]; dimensionless.

    Returns:
        the same shape and dtype, in [0, inf).

    Accuracy: 3 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (VP).

    >>> sigma_from_alpha_bar(np.asarray([0.5, 1.0]))
    array([1., 0.])
    """
    return array_namespace(alpha_bar).sqrt((1.0 - alpha_bar) / alpha_bar)


def alpha_bar_from_sigma(sigma: Array) -> Array:
    r"""The inverse of `sigma_from_alpha_bar`.

    .. math:: \bar\alpha = 1 / (1 + \sigma^2)

    Args:
        sigma: any shape, >= 0.

    Returns:
        the same shape and dtype, in (0, 1].

    Accuracy: 2 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (VP).

    >>> alpha_bar_from_sigma(np.asarray([1.0, 0.0]))
    array([0.5, 1. ])
    """
    return 1.0 / (1.0 + sigma * sigma)


def rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    r"""Shift and stretch a schedule so that its last step keeps no signal at all.

    .. math:: \sqrt{\bar\alpha_t}' =
              \frac{\sqrt{\bar\alpha_0}}{\sqrt{\bar\alpha_0} - \sqrt{\bar\alpha_{T-1}}}
              \left(\sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_{T-1}}\right)

    Args:
        betas: (n,), in (0, 1).

    Returns:
        (n,) float64 betas; the last is 1, the first unchanged.

    Accuracy: 1e-13 relative on alpha-bar away from its zero end.
    Source: Lin et al. 2024, arXiv:2305.08891, algorithm 1.

    >>> alphas_cumprod(rescale_zero_terminal_snr(np.asarray([0.19, 0.5])))
    array([0.81, 0.  ])
    """
    root = np.sqrt(np.cumprod(1.0 - np.asarray(betas, np.float64)))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    alpha_bar = root**2
    return 1.0 - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def karras_sigmas(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> np.ndarray:
    r"""Noise levels evenly spaced in sigma^(1/rho), from the largest to the smallest.

    .. math:: \sigma_i = \left(\sigma_{\max}^{1/\rho} + \frac{i}{n-1}
              (\sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho})\right)^{\rho}

    Args:
        n: number of levels, >= 1 (1 gives sigma_max).
        sigma_min, sigma_max: 0 < sigma_min <= sigma_max.
        rho: > 0; 7 in the paper.

    Returns:
        (n,) float64, decreasing. The final 0 is not included.

    Raises:
        ValueError: n < 1, or not 0 < sigma_min <= sigma_max.

    Accuracy: 2 rho (sigma_max / sigma_min)^(1 / rho) ulp, and |log sigma| ulp more from 1 / rho.
    Source: Karras et al. 2022, arXiv:2206.00364, eq. 5.

    >>> karras_sigmas(3, 1.0, 9.0, rho=1.0)
    array([9., 5., 1.])
    """
    _check_sigmas(n, sigma_min, sigma_max)
    return np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n) ** rho


def exponential_sigmas(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    r"""Noise levels evenly spaced in log sigma, from the largest to the smallest.

    .. math:: \sigma_i = \sigma_{\max} (\sigma_{\min} / \sigma_{\max})^{i / (n-1)}

    Args:
        n: number of levels, >= 1 (1 gives sigma_max).
        sigma_min, sigma_max: 0 < sigma_min <= sigma_max.

    Returns:
        (n,) float64, decreasing. The final 0 is not included.

    Raises:
        ValueError: n < 1, or not 0 < sigma_min <= sigma_max.

    Accuracy: relative error within 1e-15 * (1 + the largest |log sigma|).
    Source: Lu et al. 2022, arXiv:2206.00927, section 3.3 (uniform in log-SNR).

    >>> exponential_sigmas(3, 1.0, 4.0).round(12)
    array([4., 2., 1.])
    """
    _check_sigmas(n, sigma_min, sigma_max)
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), n))


def _check_range(n: int, start: float, end: float) -> None:
    if n < 2:
        raise ValueError(f"a schedule needs n >= 2 timesteps, not {n}")
    if not 0.0 < start <= end < 1.0:
        raise ValueError(f"betas need 0 < start <= end < 1, not start={start}, end={end}")


def _check_sigmas(n: int, sigma_min: float, sigma_max: float) -> None:
    if n < 1:
        raise ValueError(f"a grid needs n >= 1 levels, not {n}")
    if not 0.0 < sigma_min <= sigma_max:
        raise ValueError(f"need 0 < sigma_min <= sigma_max, not {sigma_min}, {sigma_max}")
