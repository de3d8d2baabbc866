"""Diffusions in continuous time, their reversal and their probability flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array, along

chapter = Chapter("score")


def beta_range(rng: RandomInputs) -> tuple[float, float]:
    return rng.number(0.1, 1.0), rng.number(1.0, 4.0)


# Roundings: 5 on each side.
@chapter.identity("VPSDE", "the definition in plain Python", 10)
def definitions_of_the_paper(f: Functions, rng: RandomInputs) -> Comparison:
    """f, g, m, s from beta and its integral."""
    (low, high) = beta_range(rng)
    t = rng.uniform(0.05, 1.0, 3)
    sde = f.VPSDE(low, high)
    beta = low + to_host(t) * (high - low)
    alpha_bar = np.exp(-to_host(t) * (low + beta) / 2)
    names = ("drift_coefficient", "diffusion", "mean_coefficient", "std")
    got = {name: getattr(sde, name)(t) for name in names}
    return got, [-beta / 2, beta**0.5, alpha_bar**0.5, (1 - alpha_bar) ** 0.5]


# Roundings: 2 for each of 6 factors, 6 of their variances; 6 of alpha-bar.
@chapter.identity("VPSDE", "products of single steps", 24, uses=("alphas_cumprod",))
def ddpm_steps_between_any_times(f: Functions, rng: RandomInputs) -> Comparison:
    """Use the steps' variances as betas of a chain with the alpha-bars of the diffusion."""
    sde = f.VPSDE(*beta_range(rng))
    t = np.sort(rng.numpy.uniform(0.0, 1.0, 6))
    start = rng.array(np.append(0.0, t[:-1]))
    end = rng.array(t)
    mean_factor, variance = sde.transition(start, end)
    got = {"variance": f.alphas_cumprod(variance), "mean factor": mean_factor * mean_factor}
    return got, [sde.alpha_bar(end), 1.0 - variance]


# Roundings: 5 of sigma, doubled by its square; 6 of the inverse.
@chapter.identity("VPSDE", "its inverse", 16, uses=("SubVPSDE", "VESDE"))
def time_of_sigma_of_time(f: Functions, rng: RandomInputs) -> Comparison:
    betas = beta_range(rng)
    low = rng.number(0.02, 0.5)
    t = rng.uniform(0.05, 1.0, 3)
    sdes = (f.VPSDE(*betas), f.SubVPSDE(*betas), f.VESDE(low, 20.0))
    return [sde.time(sde.sigma(t)) for sde in sdes], [t, t, t]


# Roundings: 4 of m, four times in its fourth power and times beta, up to 4, where 1 is the
# scale; 8 here.
@chapter.identity("SubVPSDE", "VP's functions", 40, uses=("VPSDE",), amplified=16)
def variance_of_vp_as_standard_deviation(f: Functions, rng: RandomInputs) -> Comparison:
    """Check also g^2 = beta (1 - m^4), with VP's m."""
    betas = beta_range(rng)
    t = rng.uniform(0.05, 1.0, 3)
    sub = f.SubVPSDE(*betas)
    vp = f.VPSDE(*betas)
    got = {
        "std": sub.std(t),
        "diffusion": sub.diffusion(t) ** 2,
        "drift_coefficient": sub.drift_coefficient(t),
    }
    m = vp.mean_coefficient(t)
    return got, [vp.std(t) ** 2, vp.beta(t) * (1.0 - m**4), -0.5 * vp.beta(t)]


# Roundings: 11 of the two steps, 9 of the one.
@chapter.identity("SubVPSDE", "Chapman-Kolmogorov", 20)
def two_steps_make_one(f: Functions, rng: RandomInputs) -> Comparison:
    """a_2 a_1 = a and a_2^2 v_1 + v_2 = v; from time 0, v is the variance of the marginal."""
    start, middle, end = (rng.array([u]) for u in sorted(rng.number(0.0, 1.0) for _ in range(3)))
    sde = f.SubVPSDE(*beta_range(rng))
    (a1, v1) = sde.transition(start, middle)
    (a2, v2) = sde.transition(middle, end)
    _, marginal = sde.transition(0.0 * start, end)
    expected = [*sde.transition(start, end), sde.std(end) ** 2]
    got = {
        "mean factor": a1 * a2,
        "variance": a2 * a2 * v1 + v2,
        "variance from time 0": marginal,
    }
    return got, expected


# Roundings: exponents up to 6: 30 of expm1, 18 of squared powers, 12 of the times.
@chapter.identity("VESDE", "differences of geometric levels", 60, amplified=6)
def geometric_levels_of_smld(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that steps add differences of squared sigmas, and g^2 is the square's derivative."""
    low = rng.number(0.02, 0.5)
    high = rng.number(2.0, 8.0)
    n = rng.integer(3, 8)
    sigmas = low * (high / low) ** np.linspace(0, 1, n)
    t = rng.array(np.linspace(0, 1, n))
    sde = f.VESDE(low, high)
    mean_factor, variance = sde.transition(t[:-1], t[1:])
    got = {
        "mean factor": mean_factor,
        "variance": variance,
        "std": sde.std(t[1:]),
        "diffusion": sde.diffusion(t[1:]) ** 2,
    }
    slope = 2 * sigmas[1:] ** 2 * math.log(high / low)
    return got, [np.ones(n - 1), np.diff(sigmas**2), sigmas[1:], slope], high * high


# Roundings: at most 6, of the logarithm.
@chapter.identity("LinearSDE", "plain numbers", 6)
def functions_derived_by_the_base_class(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare the functions that the base class derives from m = 1 - t / 2 and s = t."""

    class CustomSDE(f.LinearSDE):
        def mean_coefficient(self, t: Array) -> Array:
            return 1.0 - 0.5 * t

        def std(self, t: Array) -> Array:
            return t

        def drift_coefficient(self, t: Array) -> Array:
            return -0.5 / (1.0 - 0.5 * t)

    t = rng.number(0.1, 0.9)
    (x, eps) = rng.normals(2, 1, 3)
    m = 1.0 - 0.5 * t
    sde = CustomSDE()
    (a, b) = (to_host(x), to_host(eps))
    got = {
        "sigma": sde.sigma(t),
        "alpha_bar": sde.alpha_bar(t),
        "q_sample": sde.q_sample(x, t, eps),
        "drift": sde.drift(x, t),
        "prior": sde.prior(x),
        "log_prior": sde.log_prior(x),
    }
    log_prior = -0.5 * (a * a).sum() - 1.5 * math.log(2 * math.pi)
    return got, [t / m, m * m / (m * m + t * t), m * a + t * b, -0.5 / m * a, a, [log_prior]], 10.0


def gaussian_under_vp(rng: RandomInputs, low: float, high: float) -> tuple[Array, ...]:
    """(x, t, beta, score, velocity of the flow) under VP for data N(mu, tau^2); t is (n,)."""
    x = rng.normal(3, 2)
    t = rng.uniform(0.1, 1.0, 3)
    mu = rng.number(-1.0, 1.0)
    tau = rng.number(0.3, 2.0)
    u = to_host(t)[:, None]
    beta = low + u * (high - low)
    alpha_bar = np.exp(-u * (low + beta) / 2)
    mean = mu * np.sqrt(alpha_bar)
    variance = tau**2 * alpha_bar + 1 - alpha_bar
    away = to_host(x) - mean
    # m' + (x - m) V' / (2 V) for the mean m and variance V of the marginal
    velocity = -beta / 2 * mean + beta * alpha_bar * (1 - tau**2) / (2 * variance) * away
    return x, t, beta, -away / variance, velocity


# Roundings: 6 of terms up to 20, of a scale of 10.
@chapter.identity("probability_flow", "a Gaussian's mean and variance in time", 12, uses=("VPSDE",))
def moving_quantiles_of_a_gaussian(f: Functions, rng: RandomInputs) -> Comparison:
    betas = beta_range(rng)
    x, t, _, score, velocity = gaussian_under_vp(rng, *betas)
    flow = f.probability_flow(f.VPSDE(*betas), lambda x, t: rng.array(score))
    return flow(x, t), velocity, 10.0


# Roundings: 8 of terms up to 20, of a scale of 30.
@chapter.identity("reverse_sde", "a Gaussian's mean and variance in time", 6, uses=("VPSDE",))
def drift_and_diffusion_of_a_gaussian(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that the drift is the Gaussian's flow - g^2 / 2 score."""
    betas = beta_range(rng)
    x, t, beta, score, velocity = gaussian_under_vp(rng, *betas)
    drift, diffusion = f.reverse_sde(f.VPSDE(*betas), lambda x, t: rng.array(score))
    got = {"drift": drift(x, t), "diffusion": diffusion(t) ** 2}
    return got, [velocity - beta / 2 * score, beta[:, 0]], 30.0


def gaussian_in_sigma(rng: RandomInputs) -> tuple[Array, ...]:
    """(x, sigma, denoised, score, velocity) for data N(mu, tau^2) and x = x0 + sigma eps."""
    x = rng.normal(3, 2)
    sigma = rng.uniform(0.3, 3.0, 3)
    mu = rng.number(-1.0, 1.0)
    tau = rng.number(0.3, 2.0)
    a = to_host(x)
    s = to_host(sigma)[:, None]
    score = (mu - a) / (tau**2 + s**2)
    return x, sigma, (tau**2 * a + s**2 * mu) / (tau**2 + s**2), score, -s * score


# Roundings: 3 of values up to 13, 5 of as many in the oracle, of a scale of 10.
@chapter.identity("sigma_flow", "the closed form of a Gaussian", 10)
def spread_growing_with_sigma(f: Functions, rng: RandomInputs) -> Comparison:
    """(x - mu) / sqrt(tau^2 + sigma^2) is constant along the flow."""
    x, sigma, denoised, _, velocity = gaussian_in_sigma(rng)
    return f.sigma_flow(lambda x, s: rng.array(denoised))(x, sigma), velocity, 10.0


# Roundings: 5 of values up to 5, 4 in the oracle, of a scale of 10.
@chapter.identity("denoised_from_score", "Bayes' rule for a Gaussian", 5)
def tweedies_formula(f: Functions, rng: RandomInputs) -> Comparison:
    x, sigma, denoised, score, _ = gaussian_in_sigma(rng)
    return f.denoised_from_score(x, rng.array(score), sigma), denoised, 10.0


# Roundings: 3 of values up to 44, 4 of values up to 28 in the oracle, of a scale of 10.
@chapter.identity("score_from_denoised", "the Gaussian's own score", 24, amplified=4.4)
def score_of_a_gaussian(f: Functions, rng: RandomInputs) -> Comparison:
    x, sigma, denoised, score, _ = gaussian_in_sigma(rng)
    return f.score_from_denoised(x, rng.array(denoised), sigma), score, 10.0


# Roundings: 10 here, of values up to 20, 8 in the oracle, of a scale of 10.
@chapter.identity("sde_score", "the Gaussian's own score", 30, uses=("VPSDE", "VESDE"), amplified=2)
def score_of_a_scaled_marginal(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare for data N(0, tau^2) with N(0, m^2 tau^2 + s^2), for VP and VE."""
    x = rng.normal(2, 3)
    t = rng.number(0.2, 1.0)
    v = rng.number(0.3, 2.0) ** 2
    sdes = (f.VPSDE(*beta_range(rng)), f.VESDE(0.1, 5.0))
    got = [f.sde_score(sde, lambda x, sigma: x * (v / (v + sigma**2)))(x, t) for sde in sdes]
    return got, [-x / (sde.mean_coefficient(t) ** 2 * v + sde.std(t) ** 2) for sde in sdes], 10.0


# -- mistakes --------------------------------------------------------------------------------------


def flow_with(factor: Callable[[Array], Array]) -> Callable[..., Any]:
    """Return the probability flow with another factor of the score, a function of g."""

    def make(sde: Any, score: Callable[..., Array]) -> Callable[..., Array]:
        return lambda x, t: sde.drift(x, t) - factor(along(sde.diffusion(t), x)) * score(x, t)

    return make


# fmt: off
chapter.known_mistakes("probability_flow", {
    "the score has the factor g^2, that of the reverse equation with noise; g^2 / 2 is meant":
        flow_with(lambda g: g**2),
    "the score has the factor g / 2; g^2 / 2 is meant": flow_with(lambda g: 0.5 * g),
})
# fmt: on
