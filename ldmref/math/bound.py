"""The variational bound on -log p(x0): its prior, denoising and reconstruction terms, in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along, amplitudes, log
from ldmref.math.divergence import kl_normal, kl_standard_normal
from ldmref.math.forward import q_posterior, q_sample
from ldmref.math.gaussian_bins import discretized_gaussian_log_likelihood
from ldmref.math.variance import learned_range_logvar, posterior_variance

LogLikelihood = Callable[[Array, Array, Array], Array]  # of (x, mean, logvar), elementwise


class Bound(NamedTuple):
    """The terms of the bound, in nats per example."""

    prior: Array  # L_T, (n,)
    denoising: Array  # L_{t-1} at [t - 1], t = 1 .. T-1 counted from 0, (T - 1, n)
    reconstruction: Array  # L_0, (n,)

    @property
    def total(self) -> Array:
        """The bound on -log p(x0), (n,) nats."""
        xp = array_namespace(self.prior)
        return self.prior + xp.sum(self.denoising, axis=0) + self.reconstruction


def prior_kl(x0: Array, alpha_bar: Array) -> Array:
    r"""L_T: divergence of the fully noised data from the prior.

    .. math:: L_T = \operatorname{KL}\left(N(\sqrt{\bar\alpha_T}\, x_0, 1 - \bar\alpha_T)
              \,\|\, N(0, 1)\right)

    Args:
        x0: clean data, (n, ...), real floating.
        alpha_bar: at the last step, scalar or (n,), in [0, 1).

    Returns:
        nats, >= 0, elementwise: shape and dtype of `x0`.

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
    signal, _ = amplitudes(alpha_bar, x0)
    return kl_standard_normal(signal * x0, logvar)


def denoising_kl(
    x0: Array,
    x0_pred: Array,
    alpha_bar: Array,
    alpha_bar_prev: Array,
    logvar: Array | None = None,
) -> Array:
    r"""L_{t-1}: divergence of the posterior given the data from one reverse step.

    .. math:: L_{t-1} = \operatorname{KL}\left(q(x_s | x_t, x_0)\,\|\,
              N(\tilde\mu(x_t, \hat x_0), \Sigma)\right)

    The coefficient of x_t is the same in both means, so x_t drops out.

    Args:
        x0: clean data, (n, ...), real floating.
        x0_pred: the network's estimate of x0 from x_t, shape of `x0`.
        alpha_bar: at t, scalar or (n,), in [0, 1).
        alpha_bar_prev: at s, scalar or (n,), in (alpha_bar, 1).
        logvar: logarithm of Sigma, broadcastable to `x0`; None for that of q, beta-tilde.

    Returns:
        nats, >= 0, elementwise: shape and dtype of `x0`.

    Raises:
        ValueError: an alpha-bar and `x0` disagree in n.

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


def bound_term(
    x0: Array,
    x0_pred: Array,
    t: Array,
    alphas_cumprod: Array,
    variance_type: str = "fixed_small",
    v: Array | None = None,
    log_likelihood: LogLikelihood = discretized_gaussian_log_likelihood,
) -> Array:
    r"""Compute the bound's term of each example at its timestep: L_{t-1}, or L_0 at the first.

    .. math:: -\log p(x_0) \le L_T + T\;\mathbb{E}_{t \sim U\{0, \dots, T-1\}}
              \left[\text{term}_t\right]

    in expectation over the noise; a term at a timestep sampled with probability p(t) counts
    1 / p(t).

    Args:
        x0: clean data, (n, ...), real floating.
        x0_pred: the network's estimate of x0 from x_t, shape of `x0`.
        t: timesteps counted from 0, (n,) integers below T.
        alphas_cumprod: (T,), T >= 2, all in (0, 1), of the library of `x0`; best in float64.
        variance_type: of the reverse step: "fixed_small" or "fixed_large", see
            `posterior_variance`, or "learned_range", see `learned_range_logvar`.
        v: for "learned_range" the network's second output, shape of `x0`; otherwise None.
        log_likelihood: as of `variational_bound`, with its variance at the first step; that of
            "learned_range" is between the two fixed ones.

    Returns:
        nats, elementwise: shape and dtype of `x0`.

    Raises:
        ValueError: unknown `variance_type`, or "learned_range" without `v`.

    Accuracy: that of `denoising_kl` and of `log_likelihood`.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 5; the learned variance: Nichol and
    Dhariwal 2021, arXiv:2102.09672, eq. 15 and code `_vb_terms_bpd`.

    >>> import numpy as np
    >>> x = np.asarray([[0.0]])
    >>> bound_term(x + 2.0, x, np.asarray([1]), np.asarray([0.75, 0.5])).round(12)
    array([[4.]])
    """
    xp = array_namespace(x0, x0_pred)
    first = t == 0
    later = xp.where(first, xp.ones_like(t), t)  # the first step has the variance of the second
    now, before = (xp.take(alphas_cumprod, i, axis=0) for i in (later, later - 1))
    if variance_type == "fixed_large":
        variance = _betas_at(t, alphas_cumprod)
    else:
        lower = "fixed_small" if variance_type == "learned_range" else variance_type
        variance = posterior_variance(now, before, lower)
    if variance_type != "learned_range":
        logvar = along(log(variance), x0) + xp.zeros_like(x0)
    elif v is not None:
        logvar = learned_range_logvar(v, _betas_at(t, alphas_cumprod), variance)
    else:
        raise ValueError("learned_range needs v, the network's second output")
    kl = denoising_kl(x0, x0_pred, now, before, logvar)
    decoder = -log_likelihood(x0, x0_pred, logvar)
    return xp.where(xp.reshape(first, (-1,) + (1,) * (x0.ndim - 1)), decoder, kl)


def _betas_at(t: Array, alphas_cumprod: Array) -> Array:
    """beta at each t, (n,): the first step's is 1 - alpha_bar."""
    xp = array_namespace(alphas_cumprod)
    before = xp.concat([xp.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    betas = posterior_variance(alphas_cumprod, before, "fixed_large")
    return xp.take(betas, t, axis=0)


def variational_bound(
    x0: Array,
    alphas_cumprod: Array,
    predict_x0: Callable[[Array, int], Array],
    noise: Callable[[], Array],
    variance_type: str = "fixed_small",
    log_likelihood: LogLikelihood = discretized_gaussian_log_likelihood,
) -> Bound:
    r"""All terms of the bound, with one noise sample for each expectation over x_t.

    .. math:: -\log p(x_0) \le L_T + \sum_{t=2}^{T} L_{t-1} + L_0, \qquad
              L_0 = -\log p(x_0 | x_1)

    The mean of the decoder p(x_0 | x_1) is the prediction itself. Its variance is beta_1 for
    fixed_large; for fixed_small, where beta-tilde_1 is 0, it is beta-tilde_2 as in
    improved-diffusion, which uses that for fixed_large too.

    Args:
        x0: clean data, (n, ...), real floating; 2 k / 255 - 1 for the default likelihood.
        alphas_cumprod: (T,), T >= 2, in (0, 1); any array-API library.
        predict_x0: `predict_x0(xt, t) -> x0`, t counted from 0.
        noise: `noise() -> standard normal array` of x0's shape; called T times, for t = 0, 1, ...
        variance_type: of the reverse steps, see `posterior_variance`.
        log_likelihood: of (x, mean, logvar), nats, elementwise; `normal_log_density` for
            continuous data.

    Returns:
        Bound(prior, denoising, reconstruction), nats per example; `.total` is the sum.

    Raises:
        ValueError: fewer than two timesteps, or unknown `variance_type`.

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
    alpha_bars = [1.0] + [float(alphas_cumprod[t]) for t in range(alphas_cumprod.shape[0])]
    if len(alpha_bars) < 3:
        raise ValueError("the bound needs at least two steps")

    def nats(x: Array) -> Array:
        return xp.sum(xp.reshape(x, (x.shape[0], -1)), axis=1)

    def logvar(t: int) -> Array:
        variance = posterior_variance(alpha_bars[t + 1], alpha_bars[t], variance_type)
        return xp.full_like(x0, log(variance))

    x0_pred = predict_x0(q_sample(x0, alpha_bars[1], noise()), 0)
    decoder_logvar = logvar(1 if variance_type == "fixed_small" else 0)
    reconstruction = -nats(log_likelihood(x0, x0_pred, decoder_logvar))
    denoising = []
    for t in range(1, len(alpha_bars) - 1):
        x0_pred = predict_x0(q_sample(x0, alpha_bars[t + 1], noise()), t)
        kl = denoising_kl(x0, x0_pred, alpha_bars[t + 1], alpha_bars[t], logvar(t))
        denoising.append(nats(kl))
    return Bound(nats(prior_kl(x0, alpha_bars[-1])), xp.stack(denoising), reconstruction)
