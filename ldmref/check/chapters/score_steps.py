"""Steps of the score-based samplers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, spread, to_host
from ldmref.math.arrays import Array

chapter = Chapter("score")
Pair = tuple[float, float]


# Roundings: 4 of two states up to 8, times twice their difference, of a scale of 30.
@chapter.identity("euler_maruyama", "two-point noise", 6)
def moments_of_two_points(f: Functions, rng: RandomInputs) -> Comparison:
    """Noise of +-1 must give the mean x + b h and the variance g^2 |h|, forward and back."""
    (x, drift) = rng.normals(2, 3, 2)
    one = rng.array(np.ones((3, 2)))
    t = rng.uniform(0.0, 1.0, 3)
    t_next = rng.uniform(0.0, 1.0, 3)
    g = rng.number(0.5, 2.0)

    def step(noise: Array) -> Array:
        return f.euler_maruyama(lambda x, t: drift, lambda t: g + t, x, t, t_next, noise)

    up = step(one)
    down = step(-one)
    h = (to_host(t_next) - to_host(t))[:, None]
    variance = (g + to_host(t)[:, None]) ** 2 * abs(h) * np.ones((1, 2))
    got = [0.5 * (up + down), (0.5 * (up - down)) ** 2]
    return got, [to_host(x) + to_host(drift) * h, variance], 30.0


def interval(rng: RandomInputs) -> Pair:
    """(t, s): a step back in time from t to s."""
    t = rng.number(0.3, 1.0)
    return t, rng.number(0.0, 0.9) * t


# Roundings: 4 on each side, of terms up to 8 of a scale of 10.
@chapter.identity("reverse_diffusion_step", "algorithm 3 in plain numbers", 8, uses=("VPSDE",))
def predictor_of_ddpm(f: Functions, rng: RandomInputs) -> Comparison:
    """(2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z, with beta of one step of the chain."""
    low = rng.number(0.1, 1.0)
    high = rng.number(1.0, 4.0)
    (t, s) = interval(rng)
    x, score, noise = rng.normals(3, 3, 2)
    got = f.reverse_diffusion_step(f.VPSDE(low, high), lambda x, t: score, x, t, s, noise)
    beta = -math.expm1(-(t - s) * (low + (high - low) * (s + t) / 2))
    a, b, c = map(to_host, (x, score, noise))
    return got, (2 - math.sqrt(1 - beta)) * a + beta * b + math.sqrt(beta) * c, 10.0


def smld(f: Functions, rng: RandomInputs, step: str) -> tuple[Array, np.ndarray, np.ndarray, Pair]:
    """Return (result, x + (a - b) score, noise, (a, b)) with the squares a, b of two sigmas."""
    low = rng.number(0.1, 0.5)
    high = rng.number(2.0, 5.0)
    times = interval(rng)
    x, score, noise = rng.normals(3, 3, 2)
    got = getattr(f, step)(f.VESDE(low, high), lambda x, t: score, x, *times, noise)
    a, b = ((low * (high / low) ** u) ** 2 for u in times)
    return got, to_host(x) + (a - b) * to_host(score), to_host(noise), (a, b)


# Roundings: exponents up to 8: 30 of expm1 and a squared power; 14 in the oracle.
@chapter.identity(
    "reverse_diffusion_step", "algorithm 2 in plain numbers", 44, uses=("VESDE",), amplified=8
)
def predictor_of_smld(f: Functions, rng: RandomInputs) -> Comparison:
    """x + (a - b) score + sqrt(a - b) z with the squares a, b of two sigmas."""
    got, mean, noise, (a, b) = smld(f, rng, "reverse_diffusion_step")
    return got, mean + math.sqrt(a - b) * noise, 50.0


# Roundings: 10 of terms up to 27, of a scale of 30, here half.
@chapter.identity("ancestral_step", "q_posterior", 8, uses=("VPSDE", "q_posterior"))
def posterior_of_ddpm(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare with mean and variance of q(x_s | x_t, x_0), with x_0 from the score."""
    before = rng.number(0.3, 0.95)
    now = before * rng.number(0.3, 0.9)
    (x, score, noise) = rng.normals(3, 3, 2)
    # the times of constant beta = 1
    t = -math.log(now)
    s = -math.log(before)
    got = f.ancestral_step(f.VPSDE(1.0, 1.0), lambda x, t: score, x, t, s, noise)
    x0 = (x + (1 - now) * score) / math.sqrt(now)
    mean, variance = f.q_posterior(x0, x, now, before)
    return got, to_host(mean) + np.sqrt(spread(variance, x)) * to_host(noise), 30.0


# Roundings: exponents up to 8: 30 of expm1 and a squared power; 14 in the oracle.
@chapter.identity(
    "ancestral_step", "the printed formula in plain numbers", 44, uses=("VESDE",), amplified=8
)
def ancestral_sampling_of_smld(f: Functions, rng: RandomInputs) -> Comparison:
    """x + (a - b) score + sqrt(b (a - b) / a) z with the squares a, b of two sigmas."""
    got, mean, noise, (a, b) = smld(f, rng, "ancestral_step")
    return got, mean + math.sqrt(b * (a - b) / a) * noise, 50.0


# Roundings: 10 of values up to 2.5 of a scale of 5.
@chapter.identity("langevin_step", "the fixed point of the variance", 6)
def stationary_variance(f: Functions, rng: RandomInputs) -> Comparison:
    """For N(0, v), the variance v / (1 - step_size / (2 v)) is mapped to itself."""
    v = rng.number(0.5, 2.0)
    size = rng.uniform(0.01, 0.5, 3)
    one = rng.array(np.ones((3, 1)))
    state_factor = f.langevin_step(one, -one / v, 0.0 * one, size)
    noise_factor = f.langevin_step(0.0 * one, 0.0 * one, one, size)
    variance = v / (1.0 - to_host(size)[:, None] / (2 * v))
    return state_factor**2 * rng.array(variance) + noise_factor**2, variance, 5.0


# Roundings: 16 of the ratio, up to 1/2; 4 more in the oracle.
@chapter.identity("langevin_step_size", "numpy.linalg.norm", 12)
def requested_signal_to_noise_ratio(f: Functions, rng: RandomInputs) -> Comparison:
    """|step grad| / |sqrt(2 step) z| is r sqrt(alpha), per example or for the mean norms."""
    (gradient, noise) = rng.normals(2, 3, 4)
    alpha = rng.uniform(0.5, 1.0, 3)
    r = rng.number(0.05, 0.5)
    g, z = (np.linalg.norm(to_host(x), axis=1) for x in (gradient, noise))
    per_example = f.langevin_step_size(gradient, noise, r, alpha)
    together = f.langevin_step_size(gradient, noise, r, alpha, per_example=False)
    got = [
        np.sqrt(to_host(per_example) / 2) * g / z,
        np.sqrt(to_host(together) / 2) * g.mean() / z.mean(),
    ]
    return got, [r * np.sqrt(to_host(alpha))] * 2


# Roundings: 14 in predictor and corrector, twice, on each side half of that.
@chapter.identity("predictor_corrector", "the algorithm in a NumPy loop", 56, uses=("VESDE",))
def algorithm_in_a_loop(f: Functions, rng: RandomInputs) -> Comparison:
    """VE's predictor and corrector as printed, for the score of N(0, 1) data."""
    low = 0.5
    high = rng.number(2.0, 3.0)
    r = rng.number(0.1, 0.3)
    times = [1.0, rng.number(0.5, 0.8), rng.number(0.0, 0.4)]
    start = rng.normal(2, 3)
    noises = rng.normals(4, 2, 3)
    remaining = iter(noises)
    host_noises = map(to_host, noises)
    sde = f.VESDE(low, high)

    def score(x, t):
        return -x / (1.0 + (low * (high / low) ** t) ** 2)

    states = f.predictor_corrector(sde, score, start, times, lambda: next(remaining), snr=r)
    x = to_host(start)
    expected = []
    growth = 1.0
    for before, after in pairwise(low * (high / low) ** t for t in times):
        added = before**2 - after**2
        x = x - added * x / (1 + before**2) + math.sqrt(added) * next(host_noises)
        gradient = -x / (1 + after**2)
        z = next(host_noises)
        z_norm, gradient_norm = (np.linalg.norm(y, axis=1, keepdims=True) for y in (z, gradient))
        size = 2 * (r * z_norm / gradient_norm) ** 2
        # the step is size * gradient, and size has the square of a relative error of x
        growth *= 1 + 3 * float((size * gradient_norm / np.linalg.norm(x, axis=1)[:, None]).max())
        x = x + size * gradient + np.sqrt(2 * size) * z
        expected.append(x)
    return list(states), expected, 10.0 * growth
