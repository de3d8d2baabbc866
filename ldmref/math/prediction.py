"""Conversions between the prediction types eps, x0, v and score.

All follow from x_t = sqrt(abar) x0 + sqrt(1 - abar) eps. `alpha_bar` is a scalar or (n,), and
broadcasts over the trailing axes; an array of any other length raises ValueError.
"""

from __future__ import annotations

from ldmref.math.arrays import Array, along, amplitudes


def x0_from_eps(xt: Array, eps: Array, alpha_bar: Array) -> Array:
    r"""Clean data from the noise.

    .. math:: x_0 = \left(x_t - \sqrt{1 - \bar\alpha}\,\epsilon\right) / \sqrt{\bar\alpha}

    Args:
        xt: noisy data, (n, ...), real floating.
        eps: unit noise, shape of `xt`.
        alpha_bar: scalar or (n,), in (0, 1]; dimensionless.

    Returns:
        x0, shape and dtype of `xt`.

    Accuracy: rounding of `xt` is amplified by 1 / sqrt(alpha_bar).
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 15.

    >>> import numpy as np
    >>> x0_from_eps(np.asarray([[1.4]]), np.asarray([[1.0]]), 0.64)
    array([[1.]])
    """
    signal, noise = amplitudes(alpha_bar, xt)
    return (xt - noise * eps) / signal


def eps_from_x0(xt: Array, x0: Array, alpha_bar: Array) -> Array:
    r"""Return unit noise from the clean data.

    .. math:: \epsilon = \left(x_t - \sqrt{\bar\alpha}\, x_0\right) / \sqrt{1 - \bar\alpha}

    Args:
        xt: noisy data, (n, ...), real floating.
        x0: clean data, shape of `xt`.
        alpha_bar: scalar or (n,), in [0, 1); dimensionless.

    Returns:
        eps, shape and dtype of `xt`.

    Accuracy: rounding of `xt` is amplified by 1 / sqrt(1 - alpha_bar).
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 4 solved for eps.

    >>> import numpy as np
    >>> eps_from_x0(np.asarray([[1.4]]), np.asarray([[1.0]]), 0.64).round(12)
    array([[1.]])
    """
    signal, noise = amplitudes(alpha_bar, xt)
    return (xt - signal * x0) / noise


def v_from_x0_eps(x0: Array, eps: Array, alpha_bar: Array) -> Array:
    r"""Return the velocity: derivative of x_t by the angle whose cosine is sqrt(abar).

    .. math:: v = \sqrt{\bar\alpha}\,\epsilon - \sqrt{1 - \bar\alpha}\, x_0

    Args:
        x0: clean data, (n, ...), real floating.
        eps: unit noise, shape of `x0`.
        alpha_bar: scalar or (n,), in [0, 1]; dimensionless.

    Returns:
        v, shape and dtype of `x0`.

    Accuracy: each term within 4 ulp.
    Source: Salimans and Ho 2022, arXiv:2202.00512, appendix D.

    >>> import numpy as np
    >>> v_from_x0_eps(np.asarray([[1.0]]), np.asarray([[2.0]]), 0.64).round(12)
    array([[1.]])
    """
    signal, noise = amplitudes(alpha_bar, x0)
    return signal * eps - noise * x0


def x0_from_v(xt: Array, v: Array, alpha_bar: Array) -> Array:
    r"""Clean data from the velocity.

    .. math:: x_0 = \sqrt{\bar\alpha}\, x_t - \sqrt{1 - \bar\alpha}\, v

    Args:
        xt: noisy data, (n, ...), real floating.
        v: velocity, shape of `xt`.
        alpha_bar: scalar or (n,), in [0, 1]; dimensionless.

    Returns:
        x0, shape and dtype of `xt`.

    Accuracy: each term within 4 ulp; no division, so it holds at every noise level.
    Source: Salimans and Ho 2022, arXiv:2202.00512, appendix D.

    >>> import numpy as np
    >>> x0_from_v(np.asarray([[2.0]]), np.asarray([[1.0]]), 0.64).round(12)
    array([[1.]])
    """
    signal, noise = amplitudes(alpha_bar, xt)
    return signal * xt - noise * v


def eps_from_v(xt: Array, v: Array, alpha_bar: Array) -> Array:
    r"""Return unit noise from the velocity.

    .. math:: \epsilon = \sqrt{\bar\alpha}\, v + \sqrt{1 - \bar\alpha}\, x_t

    Args:
        xt: noisy data, (n, ...), real floating.
        v: velocity, shape of `xt`.
        alpha_bar: scalar or (n,), in [0, 1]; dimensionless.

    Returns:
        eps, shape and dtype of `xt`.

    Accuracy: each term within 4 ulp; no division, so it holds at every noise level.
    Source: Salimans and Ho 2022, arXiv:2202.00512, appendix D.

    >>> import numpy as np
    >>> eps_from_v(np.asarray([[2.0]]), np.asarray([[1.0]]), 0.64).round(12)
    array([[2.]])
    """
    signal, noise = amplitudes(alpha_bar, xt)
    return signal * v + noise * xt


def score_from_eps(eps: Array, alpha_bar: Array) -> Array:
    r"""Return the score from unit noise.

    .. math:: \nabla_{x_t} \log q(x_t | x_0) = -\frac{\epsilon}{\sqrt{1 - \bar\alpha}}, \qquad
              \nabla_{x_t} \log p(x_t) = -\frac{E[\epsilon | x_t]}{\sqrt{1 - \bar\alpha}}

    The noise of one example gives the score of q(x_t | x_0), expected noise that of p(x_t).

    Args:
        eps: unit noise or its expectation given x_t, (n, ...), real floating.
        alpha_bar: scalar or (n,), in [0, 1); dimensionless.

    Returns:
        the score, shape and dtype of `eps`.

    Accuracy: 3 ulp.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, eq. 11.

    >>> import numpy as np
    >>> score_from_eps(np.asarray([[0.6]]), 0.64).round(12)
    array([[-1.]])
    """
    _, noise = amplitudes(alpha_bar, eps)
    return -eps / noise


def eps_from_score(score: Array, alpha_bar: Array) -> Array:
    r"""Return the expected unit noise from the score.

    .. math:: E[\epsilon | x_t] = -\sqrt{1 - \bar\alpha}\; \nabla_{x_t} \log p(x_t)

    Args:
        score: gradient of log p(x_t), (n, ...), real floating.
        alpha_bar: scalar or (n,), in [0, 1]; dimensionless.

    Returns:
        eps, shape and dtype of `score`.

    Accuracy: 3 ulp.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, eq. 11 solved for eps.

    >>> import numpy as np
    >>> eps_from_score(np.asarray([[-1.0]]), 0.64).round(12)
    array([[0.6]])
    """
    _, noise = amplitudes(alpha_bar, score)
    return -noise * score


def x0_from_score(xt: Array, score: Array, alpha_bar: Array) -> Array:
    r"""Return the expected clean data from the score: Tweedie's formula.

    .. math:: E[x_0 | x_t] = \frac{x_t + (1 - \bar\alpha)\, \nabla_{x_t} \log p(x_t)}
              {\sqrt{\bar\alpha}}

    Args:
        xt: noisy data, (n, ...), real floating.
        score: gradient of log p(x_t), shape of `xt`.
        alpha_bar: scalar or (n,), in (0, 1]; dimensionless.

    Returns:
        x0, shape and dtype of `xt`.

    Accuracy: rounding of `xt` is amplified by 1 / sqrt(alpha_bar).
    Source: Efron 2011, Journal of the American Statistical Association 106:1602, eq. 1.4, for
    x_t / sqrt(alpha_bar), whose noise has the variance (1 - alpha_bar) / alpha_bar.

    >>> import numpy as np
    >>> x0_from_score(np.asarray([[1.0]]), np.asarray([[-1.0]]), 0.64).round(12)
    array([[0.8]])
    """
    signal, _ = amplitudes(alpha_bar, xt)
    return (xt + along(1.0 - alpha_bar, xt) * score) / signal


def score_from_x0(xt: Array, x0: Array, alpha_bar: Array) -> Array:
    r"""Return the score from expected clean data: Tweedie's formula inverted.

    .. math:: \nabla_{x_t} \log p(x_t) = \frac{\sqrt{\bar\alpha}\, E[x_0 | x_t] - x_t}
              {1 - \bar\alpha}

    Args:
        xt: noisy data, (n, ...), real floating.
        x0: expected clean data given x_t, shape of `xt`.
        alpha_bar: scalar or (n,), in [0, 1); dimensionless.

    Returns:
        the score, shape and dtype of `xt`.

    Accuracy: rounding of `xt` is amplified by 1 / (1 - alpha_bar).
    Source: Efron 2011, eq. 1.4 solved for the score, see `x0_from_score`.

    >>> import numpy as np
    >>> score_from_x0(np.asarray([[1.0]]), np.asarray([[0.8]]), 0.64).round(12)
    array([[-1.]])
    """
    signal, _ = amplitudes(alpha_bar, xt)
    return (signal * x0 - xt) / along(1.0 - alpha_bar, xt)
