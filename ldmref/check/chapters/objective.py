"""DDPM's objective: variances of the steps, weights of the losses, the bound and its terms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, spread, to_host
from ldmref.math.arrays import Array

chapter = Chapter("objective")
TYPES = ("x0", "eps", "v")


def two_alpha_bars(rng: RandomInputs) -> tuple[float, float]:
    """(alpha-bar at t, alpha-bar at s) for s < t."""
    before = rng.number(0.2, 0.95)
    return before * rng.number(0.5, 0.95), before


# Roundings: 4 on each side, of variances below 1/2, and of the inputs.
@chapter.identity("posterior_variance", "Bayes' rule: precisions", 8)
def precisions_of_a_product_add(f: Functions, rng: RandomInputs) -> Comparison:
    """q(x_s|x_0) q(x_t|x_s) is Gaussian in x_s; beta is the variance of q(x_t|x_s)."""
    now, before = two_alpha_bars(rng)
    alpha = now / before
    arrays = (rng.array([now]), rng.array([before]))
    small = 1 / (1 / (1 - before) + alpha / (1 - alpha))
    got = {
        "fixed_small": f.posterior_variance(*arrays),
        "fixed_large": f.posterior_variance(*arrays, "fixed_large"),
    }
    return got, [[small], [1 - alpha]]


# Roundings: each 1 - alpha-bar_t loses 2 / beta_min on each side; 2 of the logarithm.
@chapter.identity("posterior_logvar_clipped", "the recursion", 10)
def a_recursion_on_the_host(f: Functions, rng: RandomInputs) -> Comparison:
    betas = rng.betas(rng.integer(2, 8))
    alpha_bar = 1.0
    variances = []
    for beta in betas:
        before = alpha_bar
        alpha_bar = alpha_bar * (1 - beta)
        variances.append(beta * (1 - before) / (1 - alpha_bar))
    variances[0] = variances[1]
    # 1 - alpha_bar has lost digits where alpha_bar is close to 1
    return f.posterior_logvar_clipped(rng.array(betas)), np.log(variances), 1 / betas.min()


# Roundings: 9 of logarithms, weighted by up to 1.25; 5 in the oracle.
@chapter.identity("learned_range_logvar", "powers", 16)
def a_geometric_mean_of_two_variances(f: Functions, rng: RandomInputs) -> Comparison:
    v = rng.uniform(-1.5, 1.5, 2, 3)
    lower = rng.number(1e-3, 0.1)
    ratio = rng.number(1.0, 3.0)
    expected = np.log(lower * ratio ** ((to_host(v) + 1) / 2))
    return f.learned_range_logvar(v, lower * ratio, lower), expected


# Roundings: 14 as half the difference of two ratios, one of them up to twice the result; 1 in
# the oracle.
@chapter.identity("elbo_weight", "exact fractions", 16)
def half_of_the_snr_that_a_step_loses(f: Functions, rng: RandomInputs) -> Comparison:
    alpha_bars = [rng.array([a]) for a in two_alpha_bars(rng)]
    now, before = (Fraction(float(to_host(a)[0])) for a in alpha_bars)
    weight = (before / (1 - before) - now / (1 - now)) / 2
    expected = [weight, weight * (1 - now) / now, weight * (1 - now)]
    got = {k: f.elbo_weight(*alpha_bars, k) for k in TYPES}
    return got, [[float(w)] for w in expected]


# Roundings: 4 of means up to 4, times twice their difference, up to 2.
@chapter.identity(
    "eps_weight", "the divergence of Gaussians", 64, uses=("ddpm_step", "kl_normal"), amplified=16
)
def divergence_of_two_ddpm_steps(f: Functions, rng: RandomInputs) -> Comparison:
    """Use two predictions of eps and one variance: the weight times their squared distance."""
    now, before = two_alpha_bars(rng)
    beta = 1 - now / before
    variance = rng.number(0.05, 1.0)
    xt, eps1, eps2 = rng.normals(3, 2, 3)
    mean1, mean2 = (f.ddpm_step(xt, eps, beta, now) for eps in (eps1, eps2))
    logvar = rng.xp.full_like(xt, math.log(variance))
    expected = f.kl_normal(mean1, logvar, mean2, logvar)
    return f.eps_weight(beta, variance, now) * (eps1 - eps2) ** 2, expected, 1 / variance


# Roundings: 10 by way of the ratio of two roots; 3 in the oracle.
@chapter.identity("min_snr_weight", "numpy.minimum", 14)
def the_smaller_of_snr_and_gamma(f: Functions, rng: RandomInputs) -> Comparison:
    alpha_bar = rng.uniform(0.05, 0.95, 6)
    gamma = rng.number(0.5, 10.0)
    a = to_host(alpha_bar)
    capped = np.minimum(a / (1 - a), gamma)
    expected = [capped, capped * (1 - a) / a, capped * (1 - a)]
    return {k: f.min_snr_weight(alpha_bar, k, gamma) for k in TYPES}, expected


# Roundings: 3 and a sum of 8 on each side.
@chapter.identity("simple_loss", "numpy.mean", 22)
def mean_of_squares_on_the_host(f: Functions, rng: RandomInputs) -> Comparison:
    prediction, target = rng.normals(2, 3, 2, 4)
    expected = [np.mean(row) for row in (to_host(prediction) - to_host(target)) ** 2]
    return f.simple_loss(prediction, target), expected


# Roundings: 4 on each side, as 1/1000 is rounded.
@chapter.identity("hybrid_loss", "the definition", 8)
def a_thousandth_of_the_bound_is_added(f: Functions, rng: RandomInputs) -> Comparison:
    simple = rng.uniform(0.0, 2.0, 3, 2, 2)
    bound = rng.uniform(0.0, 100.0, 3, 2, 2)
    return f.hybrid_loss(simple, bound), (1000 * to_host(simple) + to_host(bound)) / 1000


# Roundings: 12 here, of terms up to 1.5 of the sum; 8 in the oracle.
@chapter.identity("prior_kl", "Gauss-Hermite quadrature", 20)
def prior_term_by_gauss_hermite(f: Functions, rng: RandomInputs) -> Comparison:
    """E_q[log q(x_T|x_0) - log p(x_T)], exactly: the integrand is a polynomial of degree two."""
    x0 = rng.normal(4)
    alpha_bar = rng.number(0.0, 0.9)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x = math.sqrt(alpha_bar) * to_host(x0)[:, None] + math.sqrt(1 - alpha_bar) * nodes
    log_ratio = 0.5 * (x**2 - nodes**2 - math.log(1 - alpha_bar))
    return f.prior_kl(x0, alpha_bar), log_ratio @ weights / weights.sum()


# Roundings: 10 of the squared gap, 20 of the exponential of a logarithm up to 6; 4 in the
# oracle.
@chapter.identity("denoising_kl", "the SNR form", 34, amplified=6)
def snr_weighted_squared_error(f: Functions, rng: RandomInputs) -> Comparison:
    (x0, guess) = rng.normals(2, 3, 4)
    (now, before) = two_alpha_bars(rng)
    snr_loss = before / (1 - before) - now / (1 - now)
    expected = 0.5 * snr_loss * (to_host(x0) - to_host(guess)) ** 2
    return f.denoising_kl(x0, guess, now, before), expected, 1 + expected


# Roundings: 6 of two means up to 4; 8 of the variance.
@chapter.identity("denoising_kl", "the KL form", 56, uses=("q_posterior", "kl_normal"), amplified=8)
def divergence_of_the_two_posteriors(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare with the definition, with x_t in both means and any variance."""
    (x0, guess, xt) = rng.normals(3, 3, 4)
    (now, before) = two_alpha_bars(rng)
    logvar = rng.xp.full_like(x0, rng.number(-2.0, 1.0))
    (mean1, variance), (mean2, _) = (f.q_posterior(z, xt, now, before) for z in (x0, guess))
    true_logvar = rng.array(np.log(spread(variance, x0)))
    expected = f.kl_normal(mean1, true_logvar, mean2, logvar)
    scale = 1 + to_host(rng.xp.exp(-logvar)) * (1 + np.abs(to_host(mean1 - mean2)))
    return f.denoising_kl(x0, guess, now, before, logvar), expected, scale


# Roundings: each 1 - alpha-bar loses up to 1 / beta_min: 4 on each side.
@chapter.identity("bound_term", "the SNR form", 8, uses=("normal_log_density",))
def one_term_for_each_example(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare each fixed variance, and both as the ends of a learned one (v = -1 and v = 1)."""
    x0, guess = rng.normals(2, 4, 2)
    alpha_bars = np.cumprod(1 - rng.betas(4))
    t = rng.xp.asarray([0, 1, 2, 3], dtype=rng.xp.int64, device=rng.device)
    square = (to_host(x0) - to_host(guess)) ** 2
    snr = alpha_bars / (1 - alpha_bars)
    beta = 1 - alpha_bars / np.append(1, alpha_bars[:-1])
    ratio = np.append(1, (1 - alpha_bars[:-1]) / (1 - alpha_bars[1:]))[:, None]
    small = 0.5 * np.append(0, snr[:-1] - snr[1:])[:, None] * square
    large = small * ratio + 0.5 * (ratio - 1 - np.log(ratio))
    for terms, variance in ((small, beta[1] * ratio[1, 0]), (large, beta[0])):
        terms[0] = 0.5 * (np.log(2 * np.pi * variance) + square[0] / variance)
    one = rng.xp.ones_like(x0)
    got = []
    for kind, v in (
        ("fixed_small", None),
        ("learned_range", -one),
        ("fixed_large", None),
        ("learned_range", one),
    ):
        arguments = (x0, guess, t, rng.array(alpha_bars), kind, v, f.normal_log_density)
        got.append(f.bound_term(*arguments))
    expected = [small, small, large, large]
    return got, expected, (1 + np.abs(small) + np.abs(large)) / beta.min()


# Roundings: 8 on each side, of terms up to the first, 1 / (1 - alpha-bar).
@chapter.identity(
    "variational_bound", "expectations in closed form", 16, uses=("normal_log_density",)
)
def closed_form_for_gaussian_data(f: Functions, rng: RandomInputs) -> Comparison:
    """All terms are quadratic in x_0 and eps, so three Gauss-Hermite nodes give expectations."""
    mean = rng.number(-1.0, 1.0)
    std = rng.number(0.3, 1.5)
    alpha_bars = np.sort(rng.numpy.uniform(0.05, 0.95, 4))[::-1]
    snr = alpha_bars / (1 - alpha_bars)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x0, eps = (rng.array(z.reshape(9, 1)) for z in np.meshgrid(mean + std * nodes, nodes))
    error = 1 / (1 / std**2 + snr)  # of the exact denoiser, squared

    def denoise(xt: Array, t: int) -> Array:
        gain = float(math.sqrt(alpha_bars[t]) / (1 - alpha_bars[t]))
        return (gain * xt + mean / std**2) * float(error[t])

    bound = f.variational_bound(
        x0, alpha_bars, denoise, lambda: eps, "fixed_large", f.normal_log_density
    )
    joint_weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    got = {
        "prior": to_host(bound.prior) @ joint_weights,
        "denoising": to_host(bound.denoising) @ joint_weights,
        "reconstruction": to_host(bound.reconstruction) @ joint_weights,
    }
    prior = alpha_bars[-1] * (mean**2 + std**2 - 1) - math.log(1 - alpha_bars[-1])
    ratio = (1 - alpha_bars[:-1]) / (1 - alpha_bars[1:])  # of beta-tilde and beta
    denoising = (snr[:-1] - snr[1:]) * error[1:] * ratio + ratio - 1 - np.log(ratio)
    first = math.log(2 * math.pi * (1 - alpha_bars[0])) + error[0] / (1 - alpha_bars[0])
    return got, [0.5 * prior, 0.5 * denoising, 0.5 * first], 1 / (1 - alpha_bars[0])
