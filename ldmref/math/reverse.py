"""From noise to data: the reverse SDE and the probability-flow ODE, in t and in sigma.

Both depend on the data only through `score(x, t)`, the gradient of log p_t at x, (n, ...).
"""

from __future__ import annotations

from collections.abc import Callable

from ldmref.math.arrays import Array, along
from ldmref.math.sde import LinearSDE

VectorField = Callable[[Array, Array], Array]  # (x, t) -> array like x


def reverse_sde(sde: LinearSDE, score: VectorField) -> tuple[VectorField, Callable[[Array], Array]]:
    r"""Return the reverse-time diffusion from prior to data with the same marginals.

    .. math:: dx = \left[f(x, t) - g(t)^2\,\nabla_x \log p_t(x)\right] dt + g(t)\,d\bar w,
              \qquad dt < 0

    Args:
        sde: the forward process; only `drift(x, t)` and `diffusion(t)` are used.
        score: `score(x, t)`, shape of `x`.

    Returns:
        (drift(x, t), shape and dtype of `x`; diffusion(t), that of `sde`).

    Accuracy: each term within 4 ulp.
    Source: Anderson 1982; Song et al. 2021, arXiv:2011.13456, eq. 6.

    >>> import numpy as np
    >>> from ldmref.math import VPSDE
    >>> drift, diffusion = reverse_sde(VPSDE(2.0, 2.0), lambda x, t: -x)  # of data N(0, 1)
    >>> drift(np.asarray([[3.0]]), 0.5), round(diffusion(0.5) ** 2, 12)
    (array([[3.]]), 2.0)
    """

    def drift(x: Array, t: Array) -> Array:
        return sde.drift(x, t) - along(sde.diffusion(t) ** 2, x) * score(x, t)

    return drift, sde.diffusion


def probability_flow(sde: LinearSDE, score: VectorField) -> VectorField:
    r"""Velocity of the deterministic flow with the same marginals.

    .. math:: \frac{dx}{dt} = f(x, t) - \tfrac12 g(t)^2\,\nabla_x \log p_t(x)

    Args:
        sde: the forward process; only `drift(x, t)` and `diffusion(t)` are used.
        score: `score(x, t)`, shape of `x`.

    Returns:
        velocity(x, t), shape and dtype of `x`.

    Accuracy: each term within 4 ulp.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 13.

    >>> import numpy as np
    >>> from ldmref.math import VPSDE
    >>> probability_flow(VPSDE(), lambda x, t: -x)(np.asarray([[3.0]]), 0.5)  # N(0, 1) stays
    array([[0.]])
    """

    def velocity(x: Array, t: Array) -> Array:
        return sde.drift(x, t) - along(0.5 * sde.diffusion(t) ** 2, x) * score(x, t)

    return velocity


def sigma_flow(denoise: VectorField) -> VectorField:
    r"""Return the probability flow in the coordinates x = x0 + sigma eps, sigma as the time.

    .. math:: \frac{dx}{d\sigma} = \frac{x - D(x; \sigma)}{\sigma}

    The flows of VP, VE and sub-VP are this one with x(t) = m(t) x and sigma = sigma(t).

    Args:
        denoise: `denoise(x, sigma)`, the expected clean data given x, shape of `x`.

    Returns:
        velocity(x, sigma), shape and dtype of `x`; sigma is a scalar or (n,), > 0.

    Accuracy: rounding of x - D is amplified by 1 / sigma.
    Source: Karras et al. 2022, arXiv:2206.00364, eq. 1 and 3, with sigma(t) = t.

    >>> import numpy as np
    >>> sigma_flow(lambda x, sigma: 0.0 * x)(np.asarray([[3.0]]), 1.5)
    array([[2.]])
    """

    def velocity(x: Array, sigma: Array) -> Array:
        return (x - denoise(x, sigma)) / along(sigma, x)

    return velocity


def score_from_denoised(x: Array, denoised: Array, sigma: Array) -> Array:
    r"""Return the score from the expected clean data.

    .. math:: \nabla_x \log p(x; \sigma) = \frac{D(x; \sigma) - x}{\sigma^2}

    Args:
        x: noisy data x0 + sigma eps, (n, ...).
        denoised: D, the expected clean data given x, shape of `x`.
        sigma: scalar or (n,), > 0.

    Returns:
        the score, shape and dtype of `x`.

    Accuracy: rounding of D - x is amplified by 1 / sigma^2.
    Source: Karras et al. 2022, arXiv:2206.00364, eq. 3.

    >>> import numpy as np
    >>> score_from_denoised(np.asarray([[3.0]]), np.asarray([[1.0]]), 2.0)
    array([[-0.5]])
    """
    return (denoised - x) / along(sigma * sigma, x)


def denoised_from_score(x: Array, score: Array, sigma: Array) -> Array:
    r"""Return the expected clean data from the score (Tweedie's formula).

    .. math:: E[x_0 \mid x] = x + \sigma^2\,\nabla_x \log p(x; \sigma)

    Args:
        x: noisy data x0 + sigma eps, (n, ...).
        score: gradient of the log-density at x, shape of `x`.
        sigma: scalar or (n,), >= 0.

    Returns:
        D = E[x0 | x], shape and dtype of `x`.

    Accuracy: each term within 4 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, eq. 3 solved for D; Efron 2011.

    >>> import numpy as np
    >>> denoised_from_score(np.asarray([[3.0]]), np.asarray([[-0.5]]), 2.0)
    array([[1.]])
    """
    return x + along(sigma * sigma, x) * score


def sde_score(sde: LinearSDE, denoise: VectorField) -> VectorField:
    r"""Return the score of a process from a denoiser in coordinates x = x0 + sigma eps.

    .. math:: \nabla_x \log p_t(x) = \frac{1}{m}\,
              \frac{D(x / m; \sigma) - x / m}{\sigma^2}, \qquad m = m(t),\ \sigma = \sigma(t)

    So every checkpoint provides a score for VP, VE and sub-VP.

    Args:
        sde: the forward process, for its m(t) and sigma(t).
        denoise: `denoise(x, sigma)`, the expected clean data given x, shape of `x`.

    Returns:
        score(x, t), shape and dtype of `x`; t is a scalar or (n,), where sigma(t) > 0.

    Accuracy: rounding of the denoiser is amplified by 1 / (m sigma^2).
    Source: Karras et al. 2022, arXiv:2206.00364, eq. 3 and appendix B.1.

    >>> import numpy as np
    >>> from ldmref.math import VPSDE
    >>> score = sde_score(VPSDE(), lambda x, sigma: x / (1.0 + sigma**2))  # of data N(0, 1)
    >>> score(np.asarray([[3.0]]), 0.5).round(12)
    array([[-3.]])
    """

    def score(x: Array, t: Array) -> Array:
        m = along(sde.mean_coefficient(t), x)
        sigma = sde.sigma(t)
        return score_from_denoised(x / m, denoise(x / m, sigma), sigma) / m

    return score
