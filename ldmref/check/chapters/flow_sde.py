"""Stochastic steps of flow models: transitions, densities, and chains on Gaussian data.

Also batches of images, and the gradients that reinforcement learning trains through.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
from scipy import stats

from ldmref.check.batches import NormalImages, PerExample, batch_law
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("flow_sde")


def pair(rng: RandomInputs) -> tuple[Array, Array, Array, Array, list[np.ndarray]]:
    """(x_s, its velocity, s, s' on the backend; x0, eps, s, s' on the host, of 3 examples)."""
    s = rng.numpy.uniform(0.5, 0.95, (3, 1))
    s_next = rng.numpy.uniform(0.1, 0.4, (3, 1))
    x0, eps = rng.numpy.standard_normal((2, 3, 4))
    arrays = [rng.array(a) for a in ((1 - s) * x0 + s * eps, eps - x0, s[:, 0], s_next[:, 0])]
    return *arrays, [x0, eps, s, s_next]  # type: ignore[return-value]


# Roundings: 2 of the inputs each, 12 of the drift of up to 30, times a step of up to 0.85; the std.
@chapter.identity("flow_sde_transition", "the reverse SDE by the score", 48, amplified=4)
def one_step_along_the_score(f: Functions, rng: RandomInputs) -> Comparison:
    """mu = x + (s' - s) (u - g^2 score / 2), where the score of one pair is -eps / s."""
    xs, u, s, s_next, (x0, eps, at, to) = pair(rng)
    g = rng.numpy.uniform(0.1, 1.5, (3, 1))
    mean, std = f.flow_sde_transition(xs, u, s, s_next, rng.array(g[:, 0]))
    score = ((1 - at) * x0 - ((1 - at) * x0 + at * eps)) / at**2
    expected = (1 - at) * x0 + at * eps - (at - to) * (eps - x0 - g**2 / 2 * score)
    return {"mean": mean, "std": std}, [expected, (g * np.sqrt(at - to))[:, 0]], 8.0


# Roundings: 4 of x_s, 5 of each term, of values up to 4; the root of s'^2 - q^2 amplifies by 2.
@chapter.identity("flow_renoise_transition", "the pair of data and noise", 24, amplified=2)
def pair_at_the_next_time_with_less_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """mu = (1 - s') x0 + s' cos(angle) eps and q = s' sin(angle)."""
    xs, u, s, s_next, (x0, eps, _, to) = pair(rng)
    angle = rng.numpy.uniform(0.1, 1.2, (3, 1))
    std = rng.array((to * np.sin(angle))[:, 0])
    mean, same = f.flow_renoise_transition(xs, u, s, s_next, std)
    expected = (1 - to) * x0 + to * np.cos(angle) * eps
    return {"mean": mean, "std": same}, [expected, to_host(std)], 4.0


# Roundings: 5 of the function, 1 - s amplifies by up to 20.
@chapter.identity("flow_grpo_diffusion", "rational arithmetic", 24, amplified=20)
@chapter.identity("flow_grpo_clamped_diffusion", "rational arithmetic", 24, amplified=20)
def square_is_the_noise_level_squared_times_sigma(f: Functions, rng: RandomInputs) -> Comparison:
    """g^2 / a^2 = s / (1 - s), with s_1 or s_max in the denominator at s = 1."""
    s = rng.array([[[*rng.numpy.uniform(0.01, 0.94, 3), 1.0]]])
    level = rng.number(0.2, 1.0)
    guard = 0.953125
    exact = [Fraction(v) for v in to_host(s).ravel().tolist()]
    squares = [v / (1 - (Fraction(guard) if v == 1 else v)) for v in exact]
    expected = np.reshape([level * math.sqrt(v) for v in squares], (1, 1, 4))
    got = [
        f.flow_grpo_diffusion(s, guard, level),
        f.flow_grpo_clamped_diffusion(s, guard, level),
    ]
    return got, [expected, expected]


# Roundings: 3 of the function.
@chapter.identity("cps_std", "trigonometry", 6)
def variance_by_the_double_angle(f: Functions, rng: RandomInputs) -> Comparison:
    """q^2 = s'^2 (1 - cos(a pi)) / 2."""
    s_next = rng.uniform(0.0, 1.0, 2, 1, 3)
    level = rng.number(0.2, 1.0)
    squares = to_host(s_next) ** 2 * (1 - math.cos(math.pi * level)) / 2
    return f.cps_std(s_next, level), np.sqrt(squares), 0.0


def bayes_variance(s: np.ndarray, s_next: np.ndarray) -> np.ndarray:
    """Return the variance of x_{s'} given x_s and x0, from the sum of two precisions."""
    gain = (1 - s) / (1 - s_next)
    added = s**2 - (gain * s_next) ** 2
    return 1 / (1 / s_next**2 + gain**2 / added)


def times(rng: RandomInputs) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """(s, s' on the backend, and on the host), (2, 1, 2)."""
    s = rng.uniform(0.5, 0.95, 2, 1, 2)
    s_next = rng.uniform(0.1, 0.4, 2, 1, 2)
    return s, s_next, to_host(s), to_host(s_next)


# Roundings: 8 of the function, 10 of Bayes' rule, 1 - s amplifies by up to 20.
@chapter.identity("flow_posterior_std", "Bayes' rule", 36, amplified=20)
def precisions_add(f: Functions, rng: RandomInputs) -> Comparison:
    """1/q^2 = 1/s'^2 + the precision of x_s about x_{s'}."""
    s, s_next, at, to = times(rng)
    return f.flow_posterior_std(s, s_next), np.sqrt(bayes_variance(at, to))


# Roundings: 12 of the function and 10 of the oracle, amplified as above.
@chapter.identity("precise_std", "logarithms of sigma", 36, amplified=20)
def kept_variance_is_a_power_of_the_ratio_of_sigmas(f: Functions, rng: RandomInputs) -> Comparison:
    """ln(1 - q^2 / s'^2) = eta^2 ln(sigma' / sigma)."""
    s, s_next, at, to = times(rng)
    eta = rng.number(0.3, 1.8)
    fall = np.log(to / (1 - to)) - np.log(at / (1 - at))
    return f.precise_std(s, s_next, eta), to * np.sqrt(-np.expm1(eta**2 * fall))


# Roundings: 12 of the function and 12 of the oracle, amplified as above.
@chapter.identity("ancestral_flow_std", "the ancestral step of sigma", 36, amplified=20)
def ancestral_noise_of_sigma_rescaled(f: Functions, rng: RandomInputs) -> Comparison:
    """In x0 + sigma eps the fresh noise has the variance sigma'^2 - sigma_d^2."""
    s, s_next, at, to = times(rng)
    eta = rng.number(0.3, 1.0)
    down = to - eta * to * (at - to) / at
    sigma, sigma_down = (t / (1 - t) for t in (to, down))
    return f.ancestral_flow_std(s, s_next, eta), (1 - to) * np.sqrt(sigma**2 - sigma_down**2)


# Roundings: 8 of the function, 6 of the oracle, of terms up to 60 in sums of 8.
@chapter.identity("transition_log_density", "scipy.stats.norm", 48, amplified=4)
def sum_and_mean_of_normal_log_densities(f: Functions, rng: RandomInputs) -> Comparison:
    x, mean = rng.normals(2, 3, 2, 4)
    std = rng.uniform(0.3, 1.5, 3)
    each = stats.norm.logpdf(to_host(x), to_host(mean), to_host(std)[:, None, None])
    rows = each.reshape(3, -1)
    got = {
        "sum": f.transition_log_density(x, mean, std),
        "mean": f.transition_log_density(x, mean, std, average=True),
    }
    return got, [rows.sum(axis=1), rows.mean(axis=1)], np.abs(rows).sum(axis=1) + 8.0


# Roundings: 10 of the function, 8 of the quadrature, of sums of 8 terms.
@chapter.identity(
    "transition_kl",
    "Gauss-Hermite quadrature",
    96,
    uses=("transition_log_density",),
    amplified=8,
)
def expected_difference_of_log_densities(f: Functions, rng: RandomInputs) -> Comparison:
    """KL = E[ln p - ln p'] under p; three nodes are exact for a quadratic."""
    mean, other = rng.normals(2, 3, 8)
    std = rng.uniform(0.5, 1.5, 3)
    other_std = rng.uniform(0.5, 1.5, 3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    expected = np.zeros(3)
    size = np.full(3, 8.0)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        x = rng.array(to_host(mean) + to_host(std)[:, None] * node)
        logs = [
            to_host(f.transition_log_density(x, m, q)) for m, q in ((mean, std), (other, other_std))
        ]
        expected += weight * (logs[0] - logs[1])
        size += weight * (np.abs(logs[0]) + np.abs(logs[1]))
    return f.transition_kl(mean, std, other, other_std), expected, 2 * size


# Roundings: 8 of the function, 4 of the oracle.
@chapter.identity("log_ratio_floor", "the variance of one rounding", 16)
def rounding_errors_of_two_means(f: Functions, rng: RandomInputs) -> Comparison:
    """2 D errors of the variance E[spacing^2] / 12, each times a normal number over q."""
    size = rng.uniform(0.5, 2.0, 2, 1, 2)
    std = rng.uniform(0.05, 1.0, 2, 1, 2)
    eps, count = 2.0**-8, 4096.0
    mantissa = (1 - 0.25) / (2 * math.log(2.0))  # the mean of m^-2, where ln m is uniform, 1 to 2
    variance = 2 * count * (eps * to_host(size)) ** 2 * mantissa / 12
    return f.log_ratio_floor(size, std, count, eps), np.sqrt(variance) / to_host(std), 0.0


# Roundings: 12 of each term, up to 30; 6 of the solution.
@chapter.identity("gaussian_flow_velocity", "linear regression", 32, amplified=8)
def regression_of_the_velocity_on_the_state(f: Functions, rng: RandomInputs) -> Comparison:
    """E[u | x] = E[u] + Cov(u, x) / Var(x) (x - E[x]), from the covariance of (x0, eps)."""
    xs = rng.normal(3, 4)
    s = rng.uniform(0.05, 0.95, 3)
    mean, variance = rng.number(-2.0, 2.0), rng.number(0.1, 3.0)
    rows = []
    for x, t in zip(to_host(xs), to_host(s), strict=True):
        maps = np.asarray([[1 - t, t], [-1.0, 1.0]])
        covariance = maps @ np.diag([variance, 1.0]) @ maps.T
        center = maps @ np.asarray([mean, 0.0])
        rows.append(center[1] + covariance[1, 0] / covariance[0, 0] * (x - center[0]))
    return f.gaussian_flow_velocity(xs, s, mean, variance), np.stack(rows), 16.0


# Roundings: 16 in each of 4 steps, of values up to 4.
@chapter.identity("flow_chain_moments", "Bayes' rule for the whole chain", 64, amplified=4)
def posterior_steps_given_the_expected_data(f: Functions, rng: RandomInputs) -> Comparison:
    """Take the DDPM posterior with E[x0 | x] in place of x0."""
    mean, variance = rng.number(-1.0, 1.0), rng.number(0.2, 2.0)
    at = [0.9, 0.7, 0.45, 0.2]

    def step(x: float, u: float, s: float, t: float) -> tuple[float, float]:
        std = math.sqrt(bayes_variance(np.asarray(s), np.asarray(t)).item())
        return (1 - t) * (x - s * u) + math.sqrt(t * t - std * std) * (x + (1 - s) * u), std

    state = np.asarray([0.0, 1.0, 1.0])  # (E[x], 1, Var x) of the start
    for s, t in pairwise(at):
        total = (1 - s) ** 2 * variance + s * s
        gain = (1 - s) * variance / total
        added = bayes_variance(np.asarray(s), np.asarray(t)).item()
        kept = math.sqrt(t * t - added)
        slope = (1 - t) * gain + kept * (1 - (1 - s) * gain) / s
        offset = ((1 - t) - kept * (1 - s) / s) * (mean - gain * (1 - s) * mean)
        state = np.asarray([slope * state[0] + offset, 1.0, slope**2 * state[2] + added])
    return [*f.flow_chain_moments(step, at, mean, variance)], [state[0], state[2]], 4.0


# Roundings: 4 of each side.
@chapter.identity("tempering_exponent", "half angles", 8)
def temperature_of_a_langevin_chain(f: Functions, rng: RandomInputs) -> Comparison:
    """Drift (1 - w) and variance 1 - w^2 per step: k = 2 drift / variance = 2 / (1 + w)."""
    level = rng.number(0.05, 1.0)
    kept = math.cos(level * math.pi / 2)
    return f.tempering_exponent(level), 2 * (1 - kept) / (1 - kept**2), 4.0 / (1 - kept)


# -- batches ---------------------------------------------------------------------------------------

image = NormalImages()
time = PerExample(0.5, 0.9)
next_time = PerExample(0.3, 0.4)
std = PerExample(0.1, 0.25)

# Roundings: 8 of each term up to 8, twice.
batch_law(
    chapter,
    "flow_sde_transition",
    40,
    size=16.0,
    xs=image,
    velocity=image,
    s=time,
    s_next=next_time,
    diffusion=PerExample(0.2, 1.0),
)
batch_law(
    chapter,
    "flow_renoise_transition",
    40,
    size=16.0,
    xs=image,
    velocity=image,
    s=time,
    s_next=next_time,
    std=std,
)
batch_law(
    chapter, "gaussian_flow_velocity", 40, size=16.0, xs=image, s=time, mean=0.5, variance=2.0
)
# Roundings: 10 of each of 16 terms up to 100, twice.
wide = PerExample(0.5, 1.5)
batch_law(chapter, "transition_log_density", 64, size=200.0, x_next=image, mean=image, std=wide)
batch_law(
    chapter,
    "transition_kl",
    64,
    size=200.0,
    mean=image,
    std=wide,
    other_mean=image,
    other_std=wide,
)


# -- gradients -------------------------------------------------------------------------------------


@chapter.gradient("transition_log_density", 24)
def a_gaussian_step(f: Functions, rng: RandomInputs) -> tuple:
    x_next, mean = rng.normals(2, 3, 4)
    std = rng.uniform(0.3, 1.5, 3)

    def formula(x_next, mean, std):
        z = (x_next - mean) / std[:, None]
        return (-0.5 * z * z - np.log(std[:, None]) - 0.5 * np.log(2 * np.pi)).sum(axis=1)

    return f.transition_log_density, {"x_next": x_next, "mean": mean, "std": std}, formula, 20.0


@chapter.gradient("transition_kl", 24)
def the_divergence_of_two_steps(f: Functions, rng: RandomInputs) -> tuple:
    mean, other_mean = rng.normals(2, 3, 4)
    std, other_std = (rng.uniform(0.5, 1.5, 3) for _ in range(2))

    def formula(mean, std, other_mean, other_std):
        z = (mean - other_mean) / other_std[:, None]
        ratio = (std / other_std)[:, None]
        return (0.5 * z * z + 0.5 * ratio * ratio - 0.5 - np.log(ratio)).sum(axis=1)

    inputs = {"mean": mean, "std": std, "other_mean": other_mean, "other_std": other_std}
    return f.transition_kl, inputs, formula, 40.0
