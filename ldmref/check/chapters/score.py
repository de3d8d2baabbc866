"""Diffusions in continuous time, the ways back, and likelihoods along the flow."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

SIGNS = np.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))


def betas_of(draw: Draw) -> tuple[float, float]:
    return draw.number(0.1, 1.0), draw.number(1.0, 4.0)


def papers_definitions(f: Functions, draw: Draw):
    """f, g, m, s from beta and its integral, in plain Python."""
    (low, high), t = betas_of(draw), draw.uniform(0.05, 1.0, 3)
    sde, want = f.VPSDE(low, high), []
    for u in to_host(t):
        beta = low + u * (high - low)
        kept = math.exp(-u * (low + beta) / 2)
        want.append([-beta / 2, beta**0.5, kept**0.5, (1 - kept) ** 0.5])
    got = [sde.drift_coefficient(t), sde.diffusion(t), sde.mean_coefficient(t), sde.std(t)]
    return draw.xp.stack(got), np.asarray(want).T


def steps_of_ddpm_at_any_times(f: Functions, draw: Draw):
    """The variances of its steps are a chain's betas: their alpha-bars are the diffusion's."""
    sde = f.VPSDE(*betas_of(draw))
    t = np.sort(draw.stream.uniform(0.0, 1.0, 6))
    first, last = draw.array(np.append(0.0, t[:-1])), draw.array(t)
    a, v = sde.transition(first, last)
    levels = f.alphas_cumprod(v)
    return draw.xp.stack([levels, a * a]), draw.xp.stack([sde.alpha_bar(last), 1.0 - v])


def time_undone_by_sigma(f: Functions, draw: Draw):
    """For both clocks with the same betas, and the exploding one's."""
    betas, low, t = betas_of(draw), draw.number(0.02, 0.5), draw.uniform(0.05, 1.0, 3)
    all_of_them = [f.VPSDE(*betas), f.SubVPSDE(*betas), f.VESDE(low, 20.0)]
    got = [sde.time(sde.sigma(t)) for sde in all_of_them]
    return draw.xp.stack(got), draw.xp.stack([t] * 3)


def variance_of_vp_as_standard_deviation(f: Functions, draw: Draw):
    """And g^2 = beta (1 - m^4), with m that of VP."""
    betas, t = betas_of(draw), draw.uniform(0.05, 1.0, 3)
    sub, vp = f.SubVPSDE(*betas), f.VPSDE(*betas)
    got = [sub.std(t), sub.diffusion(t) ** 2, sub.drift_coefficient(t)]
    m = vp.mean_coefficient(t)
    want = [vp.std(t) ** 2, vp.beta(t) * (1.0 - m**4), -0.5 * vp.beta(t)]
    return draw.xp.stack(got), draw.xp.stack(want)


def two_steps_make_one(f: Functions, draw: Draw):
    """a_2 a_1 = a and a_2^2 v_1 + v_2 = v, and from the start to the marginal."""
    first, middle, last = sorted(draw.number(0.0, 1.0) for _ in range(3))
    sde = f.SubVPSDE(*betas_of(draw))
    t = [draw.array([u]) for u in (first, middle, last)]
    (a1, v1), (a2, v2) = sde.transition(t[0], t[1]), sde.transition(t[1], t[2])
    a, v = sde.transition(t[0], t[2])
    _, whole = sde.transition(0.0 * t[0], t[2])
    got, want = [a1 * a2, a2 * a2 * v1 + v2, whole], [a, v, sde.std(t[2]) ** 2]
    return draw.xp.stack(got), draw.xp.stack(want)


def geometric_levels_of_smld(f: Functions, draw: Draw):
    """Steps add the difference of two squared levels; g^2 is the derivative of the square."""
    low, high, n = draw.number(0.02, 0.5), draw.number(2.0, 8.0), draw.integer(3, 8)
    levels = [low * (high / low) ** (i / (n - 1)) for i in range(n)]
    t = draw.array(np.arange(n) / (n - 1))
    sde = f.VESDE(low, high)
    a, v = sde.transition(t[:-1], t[1:])
    slope = [2 * s**2 * math.log(high / low) for s in levels[1:]]
    want = [[1.0] * (n - 1), np.diff(np.square(levels)), levels[1:], slope]
    got = draw.xp.stack([a, v, sde.std(t[1:]), sde.diffusion(t[1:]) ** 2])
    return got, np.asarray(want), high * high


def a_process_with_its_own_functions(f: Functions, draw: Draw):
    """m = 1 - t / 2 and s = t: what is derived from them, in plain numbers."""

    class Own(f.LinearSDE):
        def mean_coefficient(self, t):
            return 1.0 - 0.5 * t

        def std(self, t):
            return t

        def drift_coefficient(self, t):
            return -0.5 / (1.0 - 0.5 * t)

    t, x, eps = draw.number(0.1, 0.9), draw.normal(1, 3), draw.normal(1, 3)
    m, sde, (a, b) = 1.0 - 0.5 * t, Own(), (to_host(x), to_host(eps))
    density = -0.5 * (a * a).sum() - 1.5 * math.log(2 * math.pi)
    scalars = draw.array([sde.sigma(t), sde.alpha_bar(t)])
    parts = [sde.q_sample(x, t, eps), sde.drift(x, t), sde.prior(x)]
    got = [draw.xp.reshape(z, (-1,)) for z in (scalars, *parts, sde.log_prior(x))]
    want = [[t / m, m * m / (m * m + t * t)], m * a + t * b, -0.5 / m * a, a, [density]]
    return draw.xp.concat(got), np.concatenate([np.ravel(z) for z in want]), 10.0


def gaussian(draw: Draw, low: float, high: float):
    """x at times t under VP, for data N(mu, tau^2); and beta, m, variance and its derivative."""
    x, t = draw.normal(3, 2), draw.uniform(0.1, 1.0, 3)
    mu, tau = draw.number(-1.0, 1.0), draw.number(0.3, 2.0)
    u = to_host(t)[:, None]
    beta = low + u * (high - low)
    kept = np.exp(-u * (low + beta) / 2)
    variance = tau**2 * kept + 1 - kept
    mean = mu * np.sqrt(kept)
    away = to_host(x) - mean
    flow = -beta / 2 * mean + beta * kept * (1 - tau**2) / (2 * variance) * away
    return x, t, beta, away / variance, flow


def moving_quantiles_of_a_gaussian(f: Functions, draw: Draw):
    """dx/dt = m' + (x - m) V' / (2 V) with mean m and variance V of the marginal."""
    betas = betas_of(draw)
    x, t, _, pull, flow = gaussian(draw, *betas)
    return f.probability_flow(f.VPSDE(*betas), lambda x, t: draw.array(-pull))(x, t), flow, 10.0


def spreading_that_the_flow_undoes(f: Functions, draw: Draw):
    """Its drift is the Gaussian's flow - g^2 / 2 score, for the noise to make up."""
    betas = betas_of(draw)
    x, t, beta, pull, flow = gaussian(draw, *betas)
    drift, diffusion = f.reverse_sde(f.VPSDE(*betas), lambda x, t: draw.array(-pull))
    got = draw.xp.concat([drift(x, t), draw.xp.reshape(diffusion(t) ** 2, (-1, 1))], axis=1)
    return got, np.concatenate([flow + beta / 2 * pull, beta], axis=1), 30.0


def in_sigma(draw: Draw):
    """x at levels sigma for data N(mu, tau^2): denoised, score, and velocity."""
    x, sigma = draw.normal(3, 2), draw.uniform(0.3, 3.0, 3)
    mu, tau = draw.number(-1.0, 1.0), draw.number(0.3, 2.0)
    a, s = to_host(x), to_host(sigma)[:, None]
    denoised = (tau**2 * a + s**2 * mu) / (tau**2 + s**2)
    return x, sigma, denoised, (mu - a) / (tau**2 + s**2), (a - mu) * s / (tau**2 + s**2)


def spread_growing_with_sigma(f: Functions, draw: Draw):
    """(x - mu) / sqrt(tau^2 + sigma^2) stays."""
    x, sigma, denoised, _, velocity = in_sigma(draw)
    return f.sigma_flow(lambda x, s: draw.array(denoised))(x, sigma), velocity, 10.0


def tweedies_formula(f: Functions, draw: Draw):
    x, sigma, denoised, score, _ = in_sigma(draw)
    return f.denoised_from_score(x, draw.array(score), sigma), denoised, 10.0


def score_of_a_gaussian(f: Functions, draw: Draw):
    x, sigma, denoised, score, _ = in_sigma(draw)
    return f.score_from_denoised(x, draw.array(denoised), sigma), score, 10.0


def score_of_a_scaled_marginal(f: Functions, draw: Draw):
    """Of data N(0, tau^2), that of N(0, m^2 tau^2 + s^2), for VP and VE."""
    x, t, tau, betas = (
        draw.normal(2, 3),
        draw.number(0.2, 1.0),
        draw.number(0.3, 2.0),
        betas_of(draw),
    )
    got, want = [], []
    for sde in (f.VPSDE(*betas), f.VESDE(0.1, 5.0)):
        score = f.sde_score(sde, lambda x, sigma: x * (tau**2 / (tau**2 + sigma**2)))
        got.append(score(x, t))
        want.append(-x / (sde.mean_coefficient(t) ** 2 * tau**2 + sde.std(t) ** 2))
    return draw.xp.stack(got), draw.xp.stack(want), 10.0


def exponential_series(f: Functions, draw: Draw):
    """One step of dx/dt = a x is 1 + z + z^2 / 2 + z^3 / 6 + z^4 / 24, for two unequal steps."""
    x, a, h, k = (
        draw.normal(3, 2),
        draw.number(-2.0, 2.0),
        draw.number(0.1, 1.0),
        draw.number(-1, 0),
    )
    got = f.integrate_rk4(lambda x, t: a * x, x, [0.5, 0.5 + h, 0.5 + h + k])
    factors = [sum((a * step) ** i / math.factorial(i) for i in range(5)) for step in (h, k)]
    return got, to_host(x) * factors[0] * factors[1], 10.0


def integral_of_a_cubic(f: Functions, draw: Draw):
    c, start, end = draw.stream.uniform(-1, 1, 4), draw.number(-1.0, 0.0), draw.number(0.0, 1.0)
    x = draw.normal(3)
    got = f.integrate_rk4(lambda x, t: float(np.polyval(c, t)) + 0.0 * x, x, [start, end])
    whole = np.polyint(c)
    return got, to_host(x) + np.polyval(whole, end) - np.polyval(whole, start), 5.0


def jacobian_of_a_quadratic(f: Functions, draw: Draw):
    """The difference is exact here: what remains is rounding over the step eps^(1/3)."""
    x, v, c, t = draw.uniform(-1, 1, 3, 2), draw.uniform(-1, 1, 3, 2), draw.normal(3, 2), 0.5
    got = f.directional_derivative(lambda x, t: t * x * x + c * x, x, t, v)
    h = float(draw.xp.finfo(draw.dtype).eps) ** (1.0 / 3.0)
    return got, (2.0 * t * x + c) * v, 4.0 / h


def matrix(draw: Draw):
    """A of u = A x, and J v for it with all digits, at (1, 3)."""
    a = draw.normal(3, 3)

    def derivative(velocity, x, t, v):
        return (0.0 * x + v) @ draw.xp.matrix_transpose(a)

    return to_host(a), a, derivative


def trace_of_a_matrix(f: Functions, draw: Draw):
    a, _, derivative = matrix(draw)
    return f.exact_divergence(None, draw.normal(1, 3), 0.0, derivative), [np.trace(a)], 5.0


def mean_over_all_signs(f: Functions, draw: Draw):
    a, _, derivative = matrix(draw)
    probes = draw.array(SIGNS[:, None, :])
    got = f.hutchinson_divergence(None, draw.normal(1, 3), 0.0, probes, derivative)
    return got, [np.trace(a)], 10.0


def spread_over_all_signs(f: Functions, draw: Draw):
    """And, for normal probes, over the nodes of a quadrature that is exact."""
    a, given, _ = matrix(draw)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weight = np.prod(list(itertools.product(weights / weights.sum(), repeat=3)), axis=1)
    want = []
    for v, w in ((np.asarray(list(itertools.product(nodes, repeat=3))), weight), (SIGNS, 1 / 8)):
        values = np.einsum("ki,ij,kj->k", v, a, v)
        want.append(np.sum(w * values**2) - np.sum(w * values) ** 2)
    got = [f.hutchinson_variance(given[None, ...], signs) for signs in (False, True)]
    return draw.xp.concat(got), want, 30.0


def stretched_normal_density(f: Functions, draw: Draw):
    """x' = a x multiplies by the integrator's own series: log N(P^2 x) + D a T."""
    x, a = draw.normal(3, 2), draw.number(-1.0, 1.0)
    nats, end = f.flow_log_likelihood(
        lambda x, t: a * x, lambda x, t: 0.0 * x[:, 0] + 2.0 * a, f.VPSDE().log_prior, x,
        [0.0, 0.25, 0.5],
    )  # fmt: skip
    factor = sum((0.25 * a) ** i / math.factorial(i) for i in range(5)) ** 2
    last = factor * to_host(x)
    want = -0.5 * (last**2).sum(axis=1) - math.log(2 * math.pi) + a
    got = draw.xp.concat([end, draw.xp.reshape(nats, (-1, 1))], axis=1)
    return got, np.concatenate([last, want[:, None]], axis=1), 20.0


IDENTITIES = [
    Identity("VPSDE", "the definition in plain Python", papers_definitions, 5),
    Identity("VPSDE", "products of single steps", steps_of_ddpm_at_any_times, 8,
             ("alphas_cumprod",)),
    Identity("VPSDE", "its inverse", time_undone_by_sigma, 8, ("SubVPSDE", "VESDE")),
    Identity("SubVPSDE", "VP's functions", variance_of_vp_as_standard_deviation, 14, ("VPSDE",)),
    Identity("SubVPSDE", "Chapman-Kolmogorov", two_steps_make_one, 6),
    Identity("VESDE", "differences of geometric levels", geometric_levels_of_smld, 20),
    Identity("LinearSDE", "plain numbers", a_process_with_its_own_functions, 3),
    Identity("probability_flow", "a Gaussian's mean and variance in time",
             moving_quantiles_of_a_gaussian, 5, ("VPSDE",)),
    Identity("reverse_sde", "a Gaussian's mean and variance in time",
             spreading_that_the_flow_undoes, 2, ("VPSDE",)),
    Identity("sigma_flow", "the closed form of a Gaussian", spread_growing_with_sigma, 2),
    Identity("denoised_from_score", "Bayes' rule for a Gaussian", tweedies_formula, 2),
    Identity("score_from_denoised", "the Gaussian's own score", score_of_a_gaussian, 5),
    Identity("sde_score", "the Gaussian's own score", score_of_a_scaled_marginal, 15,
             ("VPSDE", "VESDE")),
    Identity("integrate_rk4", "the exponential series", exponential_series, 7),
    Identity("integrate_rk4", "the antiderivative", integral_of_a_cubic, 2),
    Identity("directional_derivative", "the derivative of a quadratic", jacobian_of_a_quadratic,
             2),
    Identity("exact_divergence", "numpy.trace", trace_of_a_matrix, 3),
    Identity("hutchinson_divergence", "all probes there are", mean_over_all_signs, 2),
    Identity("hutchinson_variance", "all probes there are, and Gauss-Hermite quadrature",
             spread_over_all_signs, 15),
    Identity("flow_log_likelihood", "the density of a stretched normal variable",
             stretched_normal_density, 7, ("VPSDE",)),
]  # fmt: skip
