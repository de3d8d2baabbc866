"""Spacings of noise levels from sigma_max to sigma_min.

All are decreasing float64 NumPy arrays without the final level, which the sampling grid appends
because implementations differ in it.
"""

from __future__ import annotations

import math

import numpy as np

_ALIGN_YOUR_STEPS = {
    "sd": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}


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


def kl_optimal_sigmas(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    r"""Noise levels evenly spaced in arctan(sigma), from the largest to the smallest.

    .. math:: \sigma_i = \tan\left(\frac{i}{n-1} \arctan\sigma_{\min}
              + \left(1 - \frac{i}{n-1}\right) \arctan\sigma_{\max}\right)

    A1111 and ComfyUI call it "KL Optimal". For data of N(0, I), Euler's method from sigma to sigma'
    multiplies x by cos(a) cos(a - a') / cos(a') with a = arctan(sigma), and the flow by
    cos(a) / cos(a'): the factors cos(a - a') that remain are largest together, and the standard
    deviation of the samples nearest to the truth, if the angles are evenly spaced.

    Args:
        n: number of levels, >= 1 (1 gives sigma_max).
        sigma_min, sigma_max: 0 < sigma_min <= sigma_max.

    Returns:
        (n,) float64, decreasing. The final 0 is not included.

    Raises:
        ValueError: n < 1, or not 0 < sigma_min <= sigma_max.

    Accuracy: relative error within 1e-15 * (sigma + 1 / sigma), from that of the angle.
    Source: Sabour et al. 2024, arXiv:2404.14507 (the optimum for Gaussian data), with c = 1;
    AUTOMATIC1111/stable-diffusion-webui, pull request 15608.

    >>> kl_optimal_sigmas(3, 1.0, 1.0).round(12)
    array([1., 1., 1.])
    """
    _check_sigmas(n, sigma_min, sigma_max)
    return np.tan(np.linspace(math.atan(sigma_max), math.atan(sigma_min), n))


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


def beta_timesteps(n: int, total: int, a: float = 0.6, b: float = 0.6) -> np.ndarray:
    r"""Timesteps at evenly spaced quantiles of a Beta distribution: dense at both ends.

    .. math:: t_i = (T - 1)\, F^{-1}_{\mathrm{Beta}(a, b)}(1 - i / n), \quad i = 0, \dots, n-1

    The paper and ComfyUI apply the distribution to the timesteps; diffusers applies it to the sigma
    interval, which is `beta_sigmas`. ComfyUI then rounds to integers and drops duplicates, so it
    may take fewer steps than requested; here nothing is rounded.

    Args:
        n: number of timesteps, >= 1 (1 gives T - 1).
        total: T, the number of training timesteps, >= 2.
        a, b: shape of the distribution, > 0.

    Returns:
        (n,) float64, decreasing, in (0, T - 1].

    Raises:
        ValueError: n < 1, or total < 2.

    Accuracy: 1e-12 relative, that of the inverse of the incomplete beta function.
    Source: Lee et al. 2024, "Beta Sampling is All You Need", arXiv:2407.12173.

    >>> beta_timesteps(2, 1000).round(9)
    array([999. , 499.5])
    """
    if n < 1 or total < 2:
        raise ValueError(f"need n >= 1 levels of total >= 2 timesteps, not {n}, {total}")
    return (total - 1) * _beta_quantiles(1.0 - np.arange(n) / n, a, b)


def beta_sigmas(
    n: int, sigma_min: float, sigma_max: float, a: float = 0.6, b: float = 0.6
) -> np.ndarray:
    r"""Noise levels at evenly spaced quantiles of a Beta distribution over the sigma interval.

    .. math:: \sigma_i = \sigma_{\min} + (\sigma_{\max} - \sigma_{\min})\,
              F^{-1}_{\mathrm{Beta}(a, b)}\!\left(1 - \frac{i}{n-1}\right)

    The "beta" grid of diffusers; the paper's, which differs, is `beta_timesteps`.

    Args:
        n: number of levels, >= 1 (1 gives sigma_max).
        sigma_min, sigma_max: 0 < sigma_min <= sigma_max.
        a, b: shape of the distribution, > 0.

    Returns:
        (n,) float64, decreasing. The final 0 is not included.

    Raises:
        ValueError: n < 1, or not 0 < sigma_min <= sigma_max.

    Accuracy: 1e-12 relative, that of the inverse of the incomplete beta function.
    Source: Lee et al. 2024, arXiv:2407.12173, as diffusers' `_convert_to_beta` reads it.

    >>> beta_sigmas(3, 1.0, 5.0).round(9)
    array([5., 3., 1.])
    """
    _check_sigmas(n, sigma_min, sigma_max)
    return sigma_min + (sigma_max - sigma_min) * _beta_quantiles(np.linspace(1.0, 0.0, n), a, b)


def align_your_steps_timesteps(model: str = "sd") -> np.ndarray:
    """Return the ten timesteps optimised for Stable Diffusion: a table, not a formula.

    Args:
        model: `sd` (1.5) or `sdxl`; both count 1000 training timesteps.

    Returns:
        (10,) int64, decreasing.

    Raises:
        ValueError: unknown model.

    Accuracy: exact.
    Source: Sabour, Fidler, Kreis 2024, arXiv:2404.14507; the numbers as in diffusers'
    `AysSchedules`.

    >>> align_your_steps_timesteps("sdxl")
    array([999, 845, 730, 587, 443, 310, 193, 116,  53,  13])
    """
    if model not in _ALIGN_YOUR_STEPS:
        raise ValueError(f"no table for {model!r}, only for {', '.join(_ALIGN_YOUR_STEPS)}")
    return np.asarray(_ALIGN_YOUR_STEPS[model], np.int64)


def log_linear_sigmas(sigmas: np.ndarray, n: int) -> np.ndarray:
    r"""Resample a list of noise levels to length n, piecewise linear in log sigma.

    .. math:: \log \sigma'(u) = (1 - w) \log\sigma_k + w \log\sigma_{k+1}, \quad
              u (m - 1) = k + w, \qquad u = 0, \tfrac{1}{n-1}, \dots, 1

    The align-your-steps authors adapt their table of m levels to other step counts this way.

    Args:
        sigmas: (m,), m >= 1, all > 0.
        n: number of levels, >= 1 (1 gives the first).

    Returns:
        (n,) float64 with the endpoints of `sigmas`.

    Raises:
        ValueError: n < 1, or a sigma that is not positive.

    Accuracy: relative error within 1e-15 * (1 + the largest |log sigma|).
    Source: Sabour, Fidler, Kreis 2024, arXiv:2404.14507, published code (`loglinear_interp`).

    >>> log_linear_sigmas(np.asarray([16.0, 4.0, 1.0]), 5).round(12)
    array([16.,  8.,  4.,  2.,  1.])
    """
    sigmas = np.asarray(sigmas, np.float64)
    if n < 1 or not np.all(sigmas > 0.0):
        raise ValueError(f"need n >= 1 levels along positive sigmas, not {n} along {sigmas}")
    positions = np.linspace(0.0, len(sigmas) - 1.0, n)
    return np.exp(np.interp(positions, np.arange(len(sigmas)), np.log(sigmas)))


def _beta_quantiles(p: np.ndarray, a: float, b: float) -> np.ndarray:
    from scipy.special import betaincinv  # slow to import, and needed here only

    return np.asarray(betaincinv(a, b, p))


def _check_sigmas(n: int, sigma_min: float, sigma_max: float) -> None:
    if n < 1:
        raise ValueError(f"a grid needs n >= 1 levels, not {n}")
    if not 0.0 < sigma_min <= sigma_max:
        raise ValueError(f"need 0 < sigma_min <= sigma_max, not {sigma_min}, {sigma_max}")
