"""The forward process q: one step, any number of steps at once, and the posterior.

`alpha_bar` is a scalar or (n,), and broadcasts over the trailing axes of x.
"""

from __future__ import annotations

from ldmref.math.arrays import Array, along, amplitudes, root


def q_step(x_prev: Array, beta: Array, eps: Array) -> Array:
    r"""One forward step: sample q(x_t | x_{t-1}).

    .. math:: x_t = \sqrt{1 - \beta_t}\, x_{t-1} + \sqrt{\beta_t}\, \epsilon

    Args:
        x_prev: data before the step, (n, ...), real floating.
        beta: forward variance of the step, scalar or (n,), in [0, 1]; dimensionless.
        eps: standard normal noise, shape and dtype of `x_prev`; fresh at every step.

    Returns:
        x_t, shape and dtype of `x_prev`.

    Raises:
        ValueError: `beta` and `x_prev` disagree in n.

    Accuracy: each term within 4 ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 2.

    >>> import numpy as np
    >>> q_step(np.ones((1, 2)), 0.36, np.zeros((1, 2)))
    array([[0.8, 0.8]])
    """
    return along(root(1.0 - beta), x_prev) * x_prev + along(root(beta), x_prev) * eps


def q_sample(x0: Array, alpha_bar: Array, eps: Array) -> Array:
    r"""Diffuse clean data to noise level `alpha_bar` at once: sample q(x_t | x_0).

    .. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon

    Args:
        x0: clean data, (n, ...), real floating.
        alpha_bar: fraction of signal variance, scalar or (n,), in [0, 1]; dimensionless.
        eps: standard normal noise, shape and dtype of `x0`.

    Returns:
        x_t, shape and dtype of `x0`.

    Raises:
        ValueError: `alpha_bar` and `x0` disagree in n.

    Accuracy: each term within 4 ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 4.

    >>> import numpy as np
    >>> q_sample(np.ones((1, 2)), np.asarray([0.64]), np.zeros((1, 2)))
    array([[0.8, 0.8]])
    """
    signal, noise = amplitudes(alpha_bar, x0)
    return signal * x0 + noise * eps


def q_posterior(
    x0: Array, xt: Array, alpha_bar: Array, alpha_bar_prev: Array
) -> tuple[Array, Array]:
    r"""Mean and variance of q(x_s | x_t, x_0) for s before t, adjacent or not.

    .. math:: \alpha = \bar\alpha_t / \bar\alpha_s, \quad \beta = 1 - \alpha, \qquad
              \tilde\mu = \frac{\sqrt{\bar\alpha_s}\,\beta}{1 - \bar\alpha_t} x_0
                        + \frac{\sqrt{\alpha}\,(1 - \bar\alpha_s)}{1 - \bar\alpha_t} x_t, \qquad
              \tilde\beta = \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}\,\beta

    Args:
        x0: clean data, (n, ...), real floating.
        xt: noisy data at `alpha_bar`, shape of `x0`.
        alpha_bar: at t, scalar or (n,), in [0, 1).
        alpha_bar_prev: at s, scalar or (n,), in [alpha_bar, 1], > 0.

    Returns:
        (mean, shape of `x0`; variance beta-tilde, broadcastable to it, 0 at alpha_bar_prev = 1).
        Alpha-bars in the wrong order give a negative variance (`ldmref.math.checked` refuses them).

    Raises:
        ValueError: an alpha-bar and `x0` disagree in n.

    Accuracy: each term within 8 ulp of its value for the given alpha-bars; rounding of alpha_bar
    itself is amplified in 1 - alpha_bar.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 6 and 7.

    >>> import numpy as np
    >>> mean, variance = q_posterior(np.ones((1, 1)), np.zeros((1, 1)), 0.25, 0.5)
    >>> mean.round(6), round(variance, 6)
    (array([[0.471405]]), 0.333333)
    """
    alpha = alpha_bar / alpha_bar_prev
    beta = (alpha_bar_prev - alpha_bar) / alpha_bar_prev
    left = 1.0 - alpha_bar
    of_x0 = root(alpha_bar_prev) * beta / left
    of_xt = root(alpha) * (1.0 - alpha_bar_prev) / left
    variance = beta * (1.0 - alpha_bar_prev) / left
    return along(of_x0, x0) * x0 + along(of_xt, x0) * xt, along(variance, x0)
