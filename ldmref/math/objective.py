"""Training objectives: L_simple, L_hybrid, and the weights of squared errors.

`alpha_bar` is a scalar or (n,); a weight has its type and shape, one number per example.
"""

from __future__ import annotations

from numbers import Real

from array_api_compat import array_namespace

from ldmref.math.arrays import Array

PREDICTION_TYPES = ("eps", "x0", "v")


def elbo_weight(alpha_bar: Array, alpha_bar_prev: Array, prediction_type: str = "x0") -> Array:
    r"""Weight that turns a squared error into the bound's L_{t-1}, for variance beta-tilde.

    .. math:: w_{x_0} = \tfrac12\left(\mathrm{SNR}(s) - \mathrm{SNR}(t)\right)
              = \frac{\bar\alpha_s - \bar\alpha_t}{2 (1 - \bar\alpha_s)(1 - \bar\alpha_t)}, \qquad
              w_\epsilon = \frac{w_{x_0}}{\mathrm{SNR}(t)}, \qquad
              w_v = (1 - \bar\alpha_t)\, w_{x_0}

    latent-diffusion's weight for x0 differs: a missing pair of parentheses makes it
    sqrt(abar) / (2 (2 - abar)).

    Args:
        alpha_bar: at t, scalar or (n,), in [0, 1); for eps in (0, 1).
        alpha_bar_prev: at s, scalar or (n,), in [alpha_bar, 1). At 1 the term does not exist: the
            first step has the decoder's likelihood instead.
        prediction_type: "eps", "x0" or "v", the quantity of the squared error.

    Returns:
        nats per squared error, >= 0, type and shape of `alpha_bar`.

    Raises:
        ValueError: unknown `prediction_type`.

    Accuracy: 6 ulp for alpha-bars within a factor of 2, whose difference is exact, plus the
    rounding of 1 - alpha_bar.
    Source: Kingma et al. 2021, arXiv:2107.00630, eq. 13 and 14; eps from Ho, Jain, Abbeel 2020,
    arXiv:2006.11239, eq. 12; v by 1 - abar from Salimans and Ho 2022, arXiv:2202.00512, appendix D.

    >>> elbo_weight(0.5, 0.75), elbo_weight(0.25, 0.75, "eps"), elbo_weight(0.5, 0.75, "v")
    (1.0, 4.0, 0.5)
    """
    check_prediction_type(prediction_type)
    common = 0.5 * (alpha_bar_prev - alpha_bar) / (1.0 - alpha_bar_prev)
    if prediction_type == "v":
        return common
    return common / (alpha_bar if prediction_type == "eps" else 1.0 - alpha_bar)


def eps_weight(beta: Array, variance: Array, alpha_bar: Array) -> Array:
    r"""Weight of the squared error of eps in the bound, for any variance of the reverse step.

    .. math:: w = \frac{\beta_t^2}{2 \sigma_t^2 \alpha_t (1 - \bar\alpha_t)}, \qquad
              \alpha_t = 1 - \beta_t

    With sigma^2 = beta-tilde it equals `elbo_weight(..., "eps")`.

    Args:
        beta: forward variance of the step to t, scalar or (n,), in (0, 1).
        variance: sigma^2 of the reverse step, scalar or (n,), > 0.
        alpha_bar: at t, scalar or (n,), in (0, 1).

    Returns:
        nats per squared error, > 0, type and shape of `alpha_bar`.

    Accuracy: 8 ulp, plus the rounding of 1 - alpha_bar.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 12.

    >>> eps_weight(0.5, 0.25, 0.5)
    2.0
    """
    return beta * beta / (2.0 * variance * (1.0 - beta) * (1.0 - alpha_bar))


def min_snr_weight(alpha_bar: Array, prediction_type: str = "eps", gamma: float = 5.0) -> Array:
    r"""Min-SNR weights: the signal-to-noise ratio, clipped at gamma.

    .. math:: w_{x_0} = \min(\mathrm{SNR}, \gamma), \qquad
              w_\epsilon = \frac{\min(\mathrm{SNR}, \gamma)}{\mathrm{SNR}}, \qquad
              w_v = \frac{\min(\mathrm{SNR}, \gamma)}{\mathrm{SNR} + 1}

    Args:
        alpha_bar: scalar or (n,), in [0, 1]; for eps > 0, for x0 < 1; dimensionless.
        prediction_type: "eps", "x0" or "v", the quantity of the squared error.
        gamma: largest SNR, > 0; 5 in the paper.

    Returns:
        dimensionless, >= 0, type and shape of `alpha_bar`.

    Raises:
        ValueError: unknown `prediction_type`.

    Accuracy: 4 ulp, plus the rounding of 1 - alpha_bar.
    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4 (Min-SNR-gamma for x0, eps and v).

    >>> min_snr_weight(0.9, "x0"), min_snr_weight(0.75, "x0"), min_snr_weight(0.75, "v")
    (5.0, 3.0, 0.75)
    """
    check_prediction_type(prediction_type)
    noise = 1.0 - alpha_bar
    if isinstance(alpha_bar, Real):
        capped = min(alpha_bar, gamma * noise)
    else:
        capped = array_namespace(alpha_bar).minimum(alpha_bar, gamma * noise)
    # min(SNR, gamma) (1 - abar), and SNR + 1 = 1 / (1 - abar)
    if prediction_type == "v":
        return capped
    return capped / (alpha_bar if prediction_type == "eps" else noise)


def simple_loss(prediction: Array, target: Array) -> Array:
    r"""L_simple: mean squared error per example.

    .. math:: L = \frac1D \lVert \hat y - y \rVert^2

    Args:
        prediction: eps, x0 or v as predicted by the network, (n, ...), real floating.
        target: its training target, shape of `prediction`.

    Returns:
        (n,), dtype of `prediction`.

    Accuracy: that of the library's mean.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 14 (there a sum over the D elements).

    >>> import numpy as np
    >>> simple_loss(np.asarray([[1.0, 3.0]]), np.asarray([[0.0, 0.0]]))
    array([5.])
    """
    xp = array_namespace(prediction, target)
    error = xp.reshape(prediction - target, (prediction.shape[0], -1))
    return xp.mean(error * error, axis=1)


def hybrid_loss(simple: Array, bound: Array, weight: float = 0.001) -> Array:
    r"""L_hybrid: the squared error plus a small weight of the bound, for a learned variance.

    .. math:: L_{hybrid} = L_{simple} + \lambda L_{vlb}

    Args:
        simple: L_simple, any shape.
        bound: L_vlb or an estimate of it, shape of `simple`; stop its gradient at the mean, so
            that it trains the variance only.
        weight: lambda; 0.001 in the paper.

    Returns:
        shape and dtype of `simple`.

    Accuracy: 2 ulp of each term.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 16.

    >>> hybrid_loss(1.0, 500.0)
    1.5
    """
    return simple + weight * bound


def check_prediction_type(prediction_type: str) -> None:
    """Check that `prediction_type` is "eps", "x0" or "v".

    Raises:
        ValueError: it is not.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be eps, x0 or v, not {prediction_type!r}")
