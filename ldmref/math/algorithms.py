"""DDPM's training and sampling algorithms as in the paper, a reference for the samplers.

Timesteps are counted from 0, so the paper's t is t + 1; alpha-bar at t includes beta_t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along, root
from ldmref.math.forward import q_sample
from ldmref.math.objective import check_prediction_type, simple_loss
from ldmref.math.prediction import v_from_x0_eps
from ldmref.math.variance import posterior_variance


def training_pair(
    x0: Array, alpha_bar: Array, eps: Array, prediction_type: str = "eps"
) -> tuple[Array, Array]:
    r"""Make a training example: the network's input and its target.

    .. math:: x_t = \sqrt{\bar\alpha}\, x_0 + \sqrt{1 - \bar\alpha}\,\epsilon, \qquad
              y = \epsilon, \ x_0 \text{ or } \sqrt{\bar\alpha}\,\epsilon - \sqrt{1-\bar\alpha}\,x_0

    Args:
        x0: clean data, (n, ...), real floating.
        alpha_bar: scalar or (n,), in [0, 1]; dimensionless.
        eps: standard normal noise, shape and dtype of `x0`.
        prediction_type: "eps", "x0" or "v".

    Returns:
        (x_t, target), both of `x0`'s shape and dtype.

    Raises:
        ValueError: unknown `prediction_type`, or `alpha_bar` and `x0` disagree in n.

    Accuracy: each term within 4 ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, algorithm 1; v from Salimans and Ho 2022,
    arXiv:2202.00512, appendix D.

    >>> import numpy as np
    >>> training_pair(np.asarray([[1.0]]), 0.64, np.asarray([[2.0]]))
    (array([[2.]]), array([[2.]]))
    """
    check_prediction_type(prediction_type)
    xt = q_sample(x0, alpha_bar, eps)
    if prediction_type == "v":
        return xt, v_from_x0_eps(x0, eps, alpha_bar)
    return xt, eps if prediction_type == "eps" else x0


def training_loss(
    predict: Callable[[Array, Array], Array],
    x0: Array,
    t: Array,
    eps: Array,
    alphas_cumprod: Array,
    prediction_type: str = "eps",
) -> Array:
    r"""Algorithm 1 without the gradient step: the loss of each example at its own timestep.

    .. math:: L = \frac1D \left\lVert y - y_\theta\!\left(\sqrt{\bar\alpha_t}\, x_0
              + \sqrt{1 - \bar\alpha_t}\,\epsilon,\ t\right) \right\rVert^2

    Args:
        predict: `predict(xt, t) -> prediction` of the target, shape of `xt`.
        x0: clean data, (n, ...), real floating.
        t: timesteps, uniform in 0 .. T-1, (n,), integers.
        eps: standard normal noise, shape and dtype of `x0`.
        alphas_cumprod: (T,), of x0's library, in [0, 1].
        prediction_type: "eps", "x0" or "v".

    Returns:
        (n,), dtype of `x0`.

    Raises:
        ValueError: unknown `prediction_type`.

    Accuracy: that of the library's mean.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, algorithm 1.

    >>> import numpy as np
    >>> x0, eps = np.asarray([[1.0]]), np.asarray([[2.0]])
    >>> training_loss(lambda xt, t: xt - 3.0, x0, np.asarray([1]), eps, np.asarray([0.9, 0.64]))
    array([9.])
    """
    xp = array_namespace(x0, t, eps)
    xt, target = training_pair(x0, xp.take(alphas_cumprod, t, axis=0), eps, prediction_type)
    return simple_loss(predict(xt, t), target)


def ddpm_step(
    xt: Array, eps: Array, beta: Array, alpha_bar: Array, sigma: Array = 0.0, z: Array | None = None
) -> Array:
    r"""One ancestral step from t to t - 1.

    .. math:: x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left(x_t
              - \frac{1 - \alpha_t}{\sqrt{1 - \bar\alpha_t}}\,\epsilon_\theta\right) + \sigma_t z,
              \qquad \alpha_t = 1 - \beta_t

    Args:
        xt: data at step t, (n, ...), real floating.
        eps: predicted unit noise, shape of `xt`.
        beta: forward variance of step t, scalar or (n,), in (0, 1).
        alpha_bar: at t, scalar or (n,), in (0, 1).
        sigma: standard deviation of the step, scalar, (n,) or one per element, >= 0: the root of
            `posterior_variance`, or of a learned variance.
        z: standard normal, shape of `xt`; None at the last step, which adds no noise.

    Returns:
        x_{t-1}, shape and dtype of `xt`.

    Raises:
        ValueError: a coefficient and `xt` disagree in n.

    Accuracy: 8 ulp of each term.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, algorithm 2, line 4, and eq. 11.

    >>> import numpy as np
    >>> one = np.asarray([[1.0]])
    >>> ddpm_step(one, one, 0.36, 0.36, 0.5, one).round(6)  # (1 - 0.36 / 0.8) / 0.8 + 0.5
    array([[1.1875]])
    """
    mean = (xt - along(beta / root(1.0 - alpha_bar), xt) * eps) / along(root(1.0 - beta), xt)
    if z is None:
        return mean
    per_element = getattr(sigma, "ndim", 0) > 1 and sigma.shape == xt.shape
    return mean + (sigma if per_element else along(sigma, xt)) * z


def ddpm_sample(
    predict_eps: Callable[[Array, int], Array],
    x: Array,
    betas: Array,
    noise: Callable[[], Array],
    variance_type: str = "fixed_small",
) -> Iterator[Array]:
    r"""Algorithm 2: denoise pure noise in T steps, yielding every state.

    .. math:: x_T \sim N(0, 1), \qquad x_{t-1} = \mu_\theta(x_t, t) + \sigma_t z, \quad
              t = T, \dots, 1, \qquad z = 0 \text{ at } t = 1

    Args:
        predict_eps: `predict_eps(xt, t) -> eps`, t counted from T - 1 down to 0.
        x: x_T, standard normal, (n, ...), real floating.
        betas: forward variances, (T,), in (0, 1); any array-API library.
        noise: `noise() -> standard normal array` of x's shape; called T - 1 times.
        variance_type: of sigma_t^2, "fixed_small" or "fixed_large", see `posterior_variance`.

    Yields:
        x_{T-1}, ..., x_0: T arrays, shape and dtype of `x`.

    Raises:
        ValueError: unknown `variance_type`.

    Accuracy: rounding of T steps; alpha-bar is float64 whatever `betas` are.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, algorithm 2.

    >>> import numpy as np
    >>> x = np.asarray([[2.0]])
    >>> *_, x0 = ddpm_sample(lambda x, t: x, x, np.asarray([0.36, 0.36]), lambda: 0 * x)
    >>> len(_), x0.shape
    (1, (1, 1))
    """
    alpha_bars = [1.0]  # before each step, and after the last
    for t in range(betas.shape[0]):
        alpha_bars.append(alpha_bars[-1] * (1.0 - float(betas[t])))
    for t in reversed(range(betas.shape[0])):
        sigma = root(posterior_variance(alpha_bars[t + 1], alpha_bars[t], variance_type))
        z = noise() if t > 0 else None
        x = ddpm_step(x, predict_eps(x, t), float(betas[t]), alpha_bars[t + 1], sigma, z)
        yield x
