"""The variational bound on -log p(x0): its prior, denoising and reconstruction terms, in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along, log, root
from ldmref.math.divergence import kl_normal, kl_standard_normal
from ldmref.math.forward import q_posterior, q_sample
from ldmref.math.gaussian_bins import discretized_gaussian_log_likelihood
from ldmref.math.variance import posterior_variance


class Bound(NamedTuple):
    """The terms of the bound, in nats, of each example."""

    prior: Array  # L_T, (n,)
    denoising: Array  # L_{t-1} at [t - 1], t = 1 .. T-1 counted from 0, (T - 1, n)
    reconstruction: Array  # L_0, (n,)

    @property
    def total(self) -> Array:
        """The bound on -log p(x0), (n,) nats."""
        xp = array_namespace(self.prior)
        return self.prior + xp.sum(self.denoising, axis=0) + self.reconstruction


def prior_kl(x0: Array, alpha_bar: Array) -> Array:
    r"""L_T: how much of the data is left in what should be pure noise.

    .. math:: L_T = D\left(N(\sqrt{\bar\alpha_T}\, x_0, 1 - \bar\alpha_T)\,\|\,N(0, 1)\right)

    Args:
        x0: clean data, (n, ...), real floating.
        alpha_bar: at the last step, scalar or (n,), in [0, 1).

    Returns:
        nats, >= 0, element by element: shape and dtype of `x0`.

    Raises:
        ValueError: `alpha_bar` and `x0` disagree in n.

    Accuracy: that of `kl_standard_normal`, plus alpha_bar ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 5 (L_T).

    >>> import numpy as np
    >>> prior_kl(np.asarray([[1.0]]), 0.5).round(6)
    array([[0.346574]])
    """
    xp = array_namespace(x0)
    logvar = xp.log1p(-(along(alpha_bar, x0) + xp.zeros_like(x0)))
    return kl_standard_normal(along(root(alpha_bar), x0) * x0, logvar)


def denoising_kl(
    x0: Array,
    x0_pred: Array,
    alpha_bar: Array,
    alpha_bar_prev: Array,
    logvar: Array | None = None,
) -> Array:
    r"""L_{t-1}: how far one reverse step is from the posterior that knows the data.

    .. math:: L_{t-1} = D\left(q(x_s | x_t, x_0)\,\|\,
              N(\tilde\mu(x_t, \hat x_0), \Sigma)\right)

    Both means have the same share of x_t, which therefore drops out.

    Args:
        x0: clean data, (n, ...), real floating.
        x0_pred: the network's estimate of it from x_t, shape of `x0`.
        alpha_bar: at t, scalar or (n,), in [0, 1).
        alpha_bar_prev: at s, of the same kind, in (alpha_bar, 1).
        logvar: logarithm of Sigma, broadcastable to `x0`; None for that of q, beta-tilde.

    Returns:
        nats, >= 0, element by element: shape and dtype of `x0`.

    Raises:
        ValueError: a level and `x0` disagree in n.

    Accuracy: that of `kl_normal`, with the difference of the means and beta-tilde within 8 ulp.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 5 (L_{t-1}), 7 and 8.

    >>> import numpy as np
    >>> x = np.asarray([[0.0]])
    >>> denoising_kl(x + 2.0, x, 0.5, 0.75).round(12)  # SNRs 1 and 3, squared error 4
    array([[4.]])
    """
    xp = array_namespace(x0, x0_pred)
    zero = xp.zeros_like(x0)
    gap, variance = q_posterior(x0 - x0_pred, zero, alpha_bar, alpha_bar_prev)
    true = xp.log(variance + zero)
    return kl_normal(gap, true, zero, true if logvar is None else logvar)


def variational_bound(
    x0: Array,
    alphas_cumprod: Array,
    predict_x0: Callable[[Array, int], Array],
    noise: Callable[[], Array],
    kind: str = "fixed_small",
    log_likelihood: Callable[[Array, Array, Array], Array] = discretized_gaussian_log_likelihood,
) -> Bound:
    r"""All terms of the bound, each expectation over x_t estimated with one draw of noise.

    .. math:: -\log p(x_0) \le L_T + \sum_{t=2}^{T} L_{t-1} + L_0, \qquad
              L_0 = -\log p(x_0 | x_1)

    The mean of the decoder p(x_0 | x_1) is the prediction itself. Its variance is beta_1 for
    fixed_large; for fixed_small, whose own is 0, it is beta-tilde of the step above, as in
    improved-diffusion, which takes that for fixed_large too.

    Args:
        x0: clean data, (n, ...), real floating; 2 k / 255 - 1 for the default likelihood.
        alphas_cumprod: (T,), T >= 2, in (0, 1); any array-API library.
        predict_x0: `predict_x0(xt, t) -> x0`, t counted from 0.
        noise: `noise() -> standard normal array` of x0's shape; called T times, for t = 0, 1, ...
        kind: variance of the reverse steps, see `posterior_variance`.
        log_likelihood: of (x, mean, logvar), nats element by element; for continuous data
            `normal_log_density`.

    Returns:
        Bound(prior, denoising, reconstruction), with the sum as `.total`: nats of each example.

    Raises:
        ValueError: fewer than two steps, or an unknown `kind`.

    Accuracy: unbiased; rounding as in its terms.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 5; the first variance of fixed_small:
    openai/improved-diffusion, gaussian_diffusion.py.

    >>> import numpy as np
    >>> x0 = np.asarray([[1.0], [-1.0]])
    >>> noise = np.random.default_rng(0).standard_normal
    >>> bound = variational_bound(x0, np.asarray([0.9, 0.5, 1e-9]), lambda xt, t: x0,
    ...                           lambda: noise((2, 1)))
    >>> bound.total.shape, bound.denoising.shape, float(bound.denoising.max())
    ((2,), (2, 2), 0.0)
    """
    xp = array_namespace(x0)
    levels = [1.0] + [float(alphas_cumprod[t]) for t in range(alphas_cumprod.shape[0])]
    if len(levels) < 3:
        raise ValueError("the bound needs at least two steps")

    def nats(x: Array) -> Array:
        return xp.sum(xp.reshape(x, (x.shape[0], -1)), axis=1)

    def logvar(t: int) -> Array:
        return xp.full_like(x0, log(posterior_variance(levels[t + 1], levels[t], kind)))

    denoising = []
    x1_pred = predict_x0(q_sample(x0, levels[1], noise()), 0)
    first = 1 if kind == "fixed_small" else 0
    reconstruction = -nats(log_likelihood(x0, x1_pred, logvar(first)))
    for t in range(1, len(levels) - 1):
        xt = q_sample(x0, levels[t + 1], noise())
        guess = predict_x0(xt, t)
        denoising.append(nats(denoising_kl(x0, guess, levels[t + 1], levels[t], logvar(t))))
    return Bound(nats(prior_kl(x0, levels[-1])), xp.stack(denoising), reconstruction)
