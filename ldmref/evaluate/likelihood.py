"""The likelihood of data under a diffusion model: the chain's bound, and the flow's exact one.

Both take clean data (n, ...) in the coordinates in which the model diffuses. They use only the
model's predictions, so they can also be computed for an analytic model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ldmref.math.arrays import Array
from ldmref.math.bound import bound_term, prior_kl
from ldmref.math.forward import q_sample
from ldmref.math.likelihood import Derivative, flow_log_likelihood, hutchinson_divergence
from ldmref.math.reverse import sigma_flow
from ldmref.math.snr import log_snr
from ldmref.math.variational import normal_log_density
from ldmref.samplers.interfaces import Denoiser

# (xt, t) -> the prediction of x0 and, if the variance is learned, v of `learned_range_logvar`
Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def chain_bound(
    x0: np.ndarray,
    alphas_cumprod: np.ndarray,
    predict: Predict,
    variance_type: str,
    timesteps: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    r"""Return unbiased estimates of the terms of the variational bound on -log p(x0).

    .. math:: -\log p(x_0) \le L_T + \sum_{t=1}^{T-1} E[\text{term}_t] + L_0

    The sum is estimated from `timesteps` of its terms, weighted by their inverse probability. They
    are stratified in log-SNR, because terms are of about equal size per unit of log-SNR. p is the
    density of the ancestral chain over all T training timesteps.

    Args:
        x0: Clean data, (n, ...).
        alphas_cumprod: Products of alphas by timestep, (T,) float64.
        predict: `predict(xt, t)` returns the prediction of x0, shape of `x0`, and None or v of
            a learned variance; xt is in variance-preserving scale and t, (n,), counts timesteps
            from 0.
        variance_type: Variance of the reverse steps, see `bound_term`.
        timesteps: Number of terms, >= 1; with T - 1 or more each term is computed once.
        rng: Generator of timesteps and noise.

    Returns:
        Nats for each example, (n,): "prior" L_T, "denoising", "first step" L_0.

    >>> import numpy as np
    >>> from ldmref.evaluate import chain_bound
    >>> from ldmref.math import alphas_cumprod, linear_betas
    >>> alpha_bar = alphas_cumprod(linear_betas(50))
    >>> def predict(xt, t):  # the exact denoiser of standard normal data
    ...     return np.sqrt(alpha_bar[t])[:, None] * xt, None
    >>> rng = np.random.default_rng(0)
    >>> x0 = rng.standard_normal((4, 2))
    >>> terms = chain_bound(x0, alpha_bar, predict, "fixed_small", 49, rng)
    >>> sorted(terms), terms["prior"].shape
    (['denoising', 'first step', 'prior'], (4,))
    """
    n = len(x0)
    total = len(alphas_cumprod) - 1
    probability = -np.diff(log_snr(alphas_cumprod))  # of t = 1 .. T-1
    probability /= probability.sum()
    ends = np.cumsum(probability)

    def term(t: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal(x0.shape)
        x0_pred, v = predict(q_sample(x0, alphas_cumprod[t], noise), t)
        arguments = alphas_cumprod, variance_type, v, normal_log_density
        return sum_per_example(bound_term(x0, x0_pred, t, *arguments))

    denoising = np.zeros(n)
    for k in range(min(timesteps, total)):
        if timesteps >= total:
            denoising += term(np.full(n, k + 1))
        else:
            u = (k + rng.random(n)) / timesteps
            i = np.minimum(np.searchsorted(ends, u), total - 1)
            denoising += term(i + 1) / (timesteps * probability[i])
    first = term(np.zeros(n, np.int64))
    prior = sum_per_example(prior_kl(x0, float(alphas_cumprod[-1])))
    return {"prior": prior, "denoising": denoising, "first step": first}


def flow_nats(
    x0: np.ndarray,
    denoise: Denoiser,
    sigmas: tuple[float, float],
    steps: int,
    probes: int,
    rng: np.random.Generator,
    derivative: Derivative,
) -> np.ndarray:
    """Return -log p(x0) under the probability flow of a denoiser, nats per example.

    The flow is integrated by RK4 in even steps of log sigma, from the lowest to the highest sigma,
    at which x is assumed to be N(0, 1 + sigma^2). p is the density of data with noise of the lowest
    sigma.

    Args:
        x0: Clean data, (n, ...), in float32 for networks in float32.
        denoise: `denoise(x, sigma) -> x0` with x = x0 + sigma eps.
        sigmas: The lowest and the highest sigma, > 0.
        steps: Number of integration steps, >= 1; each takes 4 (1 + 2 probes) evaluations.
        probes: Random sign vectors of the Skilling-Hutchinson estimate, the same at all times.
        rng: Generator of the probes.
        derivative: The product J v, such as `ldmref.math.directional_derivative`.

    Returns:
        (n,) float64; unbiased except for the errors of integration and of `derivative`.

    >>> import numpy as np
    >>> from ldmref.evaluate import flow_nats
    >>> from ldmref.math import directional_derivative
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> x0 = np.asarray([[0.0], [2.0]])
    >>> rng = np.random.default_rng(0)
    >>> nats = flow_nats(x0, denoise, (0.01, 10.0), 20, 1, rng, directional_derivative)
    >>> nats.round(2)  # x^2 / 2 + log(2 pi) / 2
    array([0.92, 2.92])
    """
    velocity = sigma_flow(denoise)
    signs = (2.0 * rng.integers(0, 2, (probes, *x0.shape)) - 1.0).astype(x0.dtype)
    low, high = sigmas

    # in s = log sigma: dx/ds = sigma dx/dsigma, and the same for the divergence
    def field(x: np.ndarray, s: float) -> Array:
        return math.exp(s) * velocity(x, math.exp(s))

    def divergence(x: np.ndarray, s: float) -> np.ndarray:
        return hutchinson_divergence(field, x, s, signs, derivative)

    def log_prior(x: np.ndarray) -> np.ndarray:
        logvar = np.full_like(x, math.log1p(high**2))
        return sum_per_example(normal_log_density(x, np.zeros_like(x), logvar))

    times = np.linspace(math.log(low), math.log(high), steps + 1).tolist()
    nats, _ = flow_log_likelihood(field, divergence, log_prior, x0, times)
    return -np.asarray(nats, np.float64)


def sum_per_example(x: np.ndarray) -> np.ndarray:
    """Return the sum over the elements of each example, (n,) float64."""
    return x.reshape(len(x), -1).sum(axis=1, dtype=np.float64)
