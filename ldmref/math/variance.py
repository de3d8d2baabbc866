"""The variance of a reverse step: DDPM's two fixed choices, and a learned interpolation.

`alpha_bar` is a scalar or (n,), and broadcasts over the trailing axes of x.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along, log
from ldmref.math.schedules import alphas_cumprod


def posterior_variance(
    alpha_bar: Array, alpha_bar_prev: Array, variance_type: str = "fixed_small"
) -> Array:
    r"""Variance of the reverse step from t to s: one of DDPM's two bounds.

    .. math:: \beta = 1 - \frac{\bar\alpha_t}{\bar\alpha_s} \ \text{(fixed\_large)}, \qquad
              \tilde\beta = \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}\,\beta
              \ \text{(fixed\_small)}

    fixed_small is a lower bound of Var(x_s | x_t) at every x_t, exact for a single data point.
    fixed_large is an upper bound of its mean over x_t if each coordinate of the data has at most
    unit variance, exact for standard normal data; at a single x_t Var(x_s | x_t) may exceed it.

    Args:
        alpha_bar: at t, scalar or (n,), in [0, 1); dimensionless.
        alpha_bar_prev: at s, scalar or (n,), in [alpha_bar, 1], > 0.
        variance_type: "fixed_small" (beta-tilde, the variance of q(x_s | x_t, x_0)) or
            "fixed_large" (beta).

    Returns:
        the variance, type and shape of `alpha_bar`; fixed_small is 0 at alpha_bar_prev = 1.
        Alpha-bars in the wrong order give a negative one (`ldmref.math.checked` refuses them).

    Raises:
        ValueError: unknown `variance_type`.

    Accuracy: 6 ulp for alpha-bars within a factor of 2, whose difference is exact.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, section 3.2 (the two choices) and eq. 7.

    >>> posterior_variance(0.25, 0.5, "fixed_large"), round(posterior_variance(0.25, 0.5), 6)
    (0.5, 0.333333)
    """
    if variance_type not in ("fixed_small", "fixed_large"):
        raise ValueError(f"variance_type must be fixed_small or fixed_large, not {variance_type!r}")
    beta = (alpha_bar_prev - alpha_bar) / alpha_bar_prev
    if variance_type == "fixed_large":
        return beta
    return beta * ((1.0 - alpha_bar_prev) / (1.0 - alpha_bar))


def posterior_logvar_clipped(betas: Array, floor: float | None = None) -> Array:
    r"""Log of beta-tilde for every timestep of a schedule, finite at the first one too.

    .. math:: \log\tilde\beta_t, \quad t = 1, \dots, T-1; \qquad
              \text{at } t = 0, \text{ where } \tilde\beta_0 = 0: \ \log\tilde\beta_1

    Args:
        betas: forward variances, (T,), T >= 2, in (0, 1); any array-API library.
        floor: None copies the second entry into the first, as improved-diffusion does; a number
            (1e-20 in latent-diffusion and diffusers) is the smallest variance instead.

    Returns:
        (T,) nats, dtype of `betas`.

    Raises:
        ValueError: fewer than two steps.

    Accuracy: T ulp / (1 - alpha_bar), from the differences 1 - alpha_bar; use float64.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, code `posterior_log_variance_clipped`.

    >>> import numpy as np
    >>> np.exp(posterior_logvar_clipped(np.asarray([0.5, 0.5]))).round(6)
    array([0.333333, 0.333333])
    """
    if betas.shape[0] < 2:
        raise ValueError("the first step takes its variance from the second: T must be at least 2")
    xp = array_namespace(betas)
    alpha_bar = alphas_cumprod(betas)
    before = xp.concat([xp.ones_like(betas[:1]), alpha_bar[:-1]])
    variance = betas * (1.0 - before) / (1.0 - alpha_bar)
    if floor is None:
        return xp.log(xp.concat([variance[1:2], variance[1:]]))
    return xp.log(xp.clip(variance, min=floor))


def learned_range_logvar(v: Array, beta: Array, beta_tilde: Array) -> Array:
    r"""Learned log-variance, interpolated between the two fixed ones.

    .. math:: \log\Sigma = f \log\beta + (1 - f) \log\tilde\beta, \qquad f = \tfrac12 (v + 1)

    The v of this function is not the v of v-prediction.

    Args:
        v: output of the network, (n, ...), real floating; 1 means beta, -1 means beta-tilde, other
            values extrapolate.
        beta: fixed_large, scalar or (n,), > 0.
        beta_tilde: fixed_small, scalar or (n,), > 0 (clipped at the first step, see
            `posterior_logvar_clipped`).

    Returns:
        nats, shape and dtype of `v`.

    Raises:
        ValueError: a variance and `v` disagree in n.

    Accuracy: 4 ulp of (|v| + 1) (|log beta| + |log beta_tilde|).
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15; v's range from their code.

    >>> import numpy as np
    >>> np.exp(learned_range_logvar(np.asarray([[-1.0, 0.0, 1.0]]), 0.04, 0.01)).round(12)
    array([[0.01, 0.02, 0.04]])
    """
    fraction = 0.5 * (v + 1.0)
    return fraction * along(log(beta), v) + (1.0 - fraction) * along(log(beta_tilde), v)
