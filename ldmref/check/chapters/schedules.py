"""Noise schedules: betas, alpha-bars, signal-to-noise ratios, and the sigmas of samplers."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
from scipy.special import betainc

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("schedules")


# Roundings: 4 roundings on each side.
@chapter.identity("linear_betas", "the definition in plain Python", 8)
def steps_are_even(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(2, 50)
    start = rng.number(1e-4, 0.1)
    end = rng.number(0.1, 0.9)
    return f.linear_betas(n, start, end), [start + (end - start) * i / (n - 1) for i in range(n)]


# Roundings: a root and 4 roundings, doubled by the square: 13 here, 9 in the oracle.
@chapter.identity("scaled_linear_betas", "the definition in plain Python", 22)
def roots_are_even(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(2, 50)
    a = rng.number(1e-4, 0.1) ** 0.5
    b = rng.number(0.1, 0.9) ** 0.5
    expected = [(a + (b - a) * i / (n - 1)) ** 2 for i in range(n)]
    return f.scaled_linear_betas(n, a**2, b**2), expected


def products_and_last(betas: Array) -> np.ndarray:
    """Return the cumulative products of 1 - beta except the last, then the last (capped) beta."""
    host = to_host(betas)
    return np.append(np.cumprod(1.0 - host)[:-1], host[-1])


# Roundings: 2 for each of up to 60 factors, of which at most 22 count (k alpha-bar_k); 6 of the
# betas.
@chapter.identity("cosine_betas", "the cosine, telescoped", 50)
def product_is_a_squared_cosine(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(5, 60)
    s = rng.number(0.0, 0.1)

    def alpha_bar(t: int) -> float:
        return math.cos((t / n + s) / (1 + s) * math.pi / 2) ** 2

    expected = [alpha_bar(t + 1) / alpha_bar(0) for t in range(n - 1)]
    return products_and_last(f.cosine_betas(n, s)), [*expected, 0.999]


# Roundings: 2 for each of up to 60 factors, of which at most 30 count (k alpha-bar_k); 10 of the
# betas.
@chapter.identity("sigmoid_betas", "hyperbolic tangents, telescoped", 70)
def product_is_a_logistic_curve(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(10, 60)
    start = rng.number(-4.0, -1.0)
    end = rng.number(1.0, 4.0)
    tau = rng.number(0.5, 2.0)

    def curve(t: int) -> float:
        return -math.tanh(0.5 * (start + (end - start) * t / n) / tau)

    expected = [(curve(t + 1) - curve(n)) / (curve(0) - curve(n)) for t in range(n - 1)]
    return products_and_last(f.sigmoid_betas(n, start, end, tau)), [*expected, 0.999]


# Roundings: relative: 2 for each of up to 12 factors, 4 in the oracle.
@chapter.identity("alphas_cumprod", "sums of logarithms", 28)
def logarithms_add_up(f: Functions, rng: RandomInputs) -> Comparison:
    betas = rng.array(rng.betas(rng.integer(2, 12)))
    logs = [math.log1p(-b) for b in to_host(betas)]
    expected = [math.exp(math.fsum(logs[: t + 1])) for t in range(len(logs))]
    return f.alphas_cumprod(betas), expected, 0.0


# fmt: off
# Roundings: up to 8 by way of the roots of alpha-bar and 1 - alpha-bar, as diffusers computes them;
# 1 of a fraction in the oracle; acos amplifies one unit 6 times.
chapter.elementwise("snr", "signal over noise without rounding", "rational arithmetic", 9,
                    (0.05, 0.95), lambda a: float(Fraction(a) / (1 - Fraction(a))))
chapter.elementwise("log_snr", "logarithm of the exact ratio", "rational arithmetic", 14,
                    (0.02, 0.98), lambda a: math.log(Fraction(a) / (1 - Fraction(a))))
chapter.elementwise("alpha_bar_from_log_snr", "half a hyperbolic tangent", "hyperbolic tangent", 10,
                    (-12.0, 12.0), lambda log_snr: 0.5 + 0.5 * math.tanh(0.5 * log_snr))
chapter.elementwise("sigma_from_alpha_bar", "tangent of the angle of noise", "trigonometry", 20,
                    (0.05, 0.95), lambda a: math.tan(math.acos(math.sqrt(a))))
chapter.elementwise("alpha_bar_from_sigma", "squared cosine of the angle of noise", "trigonometry",
                    10, (0.0, 20.0), lambda sigma: math.cos(math.atan(sigma)) ** 2)
# fmt: on


# Roundings: 12 in each of three products of 12 factors, 4 more; a difference of roots divides by
# the gap.
@chapter.identity("rescale_zero_terminal_snr", "invariants of an affine map", 40)
def keeps_the_first_and_ends_in_zero(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that shifted and scaled roots keep the ratios of their differences."""
    betas = rng.betas(rng.integer(3, 12))
    rescaled = to_host(f.rescale_zero_terminal_snr(betas))
    before, after = (np.cumprod(1.0 - b) for b in (betas, rescaled))
    roots = np.sqrt(np.maximum(after, 0.0)), np.sqrt(before)
    ratios = [np.diff(root) / (root[0] - root[-1]) for root in roots]
    gap = roots[1][0] - roots[1][-1]
    return [after[0], after[-1], ratios[0]], [before[0], 0.0, ratios[1]], 1.0 / gap


# Roundings: 8 in each root: 4 of linspace, two powers; their differences are multiplied by n -
# 1.
@chapter.identity("karras_sigmas", "differences after the inverse map", 16)
def even_in_sigma_to_one_over_rho(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(3, 30)
    low = rng.number(0.01, 1.0)
    high = rng.number(2.0, 80.0)
    rho = rng.number(1.0, 9.0)
    sigmas = to_host(f.karras_sigmas(n, low, high, rho))
    steps = np.diff(sigmas ** (1 / rho)) * (n - 1)
    root = high ** (1 / rho)
    expected = [*[low ** (1 / rho) - root] * (n - 1), high]
    return np.append(steps, sigmas[0]), expected, (n - 1) * root


# Roundings: 8 in each logarithm: 4 of linspace, exp and log; differences are multiplied by n -
# 1.
@chapter.identity("exponential_sigmas", "differences of logarithms", 16)
def even_in_log_sigma(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(3, 30)
    low = rng.number(0.01, 1.0)
    high = rng.number(2.0, 80.0)
    steps = np.diff(np.log(to_host(f.exponential_sigmas(n, low, high)))) * (n - 1)
    largest = max(1.0, -math.log(low), math.log(high))
    return steps, [math.log(low / high)] * (n - 1), (n - 1) * largest


# Roundings: 8 in each of two angles, 2 of arctan, 4 of linspace and 2 of tan, whose error is one of
# the angle too; 6 of the product and the angle here; differences are multiplied by n - 1.
@chapter.identity("kl_optimal_sigmas", "differences of angles", 22)
def even_in_the_angle_of_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """Take the angle of x + i y of both sigmas at once, without an arctangent of one."""
    n = rng.integer(3, 30)
    low = rng.number(0.01, 1.0)
    high = rng.number(2.0, 80.0)
    sigmas = to_host(f.kl_optimal_sigmas(n, low, high))
    turns = np.angle((1.0 + 1j * sigmas[:-1]) * (1.0 - 1j * sigmas[1:])) * (n - 1)
    expected = [math.atan2(high - low, 1.0 + high * low)] * (n - 1)
    return turns, expected, (n - 1) * math.pi / 2


# Roundings: 4 of the timestep, 4 of scipy; the density times t is at most 8 there.
@chapter.identity("beta_timesteps", "scipy's distribution function", 8)
def beta_distribution_at_the_timesteps_is_even(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(1, 30)
    total = rng.integer(100, 1000)
    a = rng.number(0.5, 2.0)
    b = rng.number(0.5, 2.0)
    t = to_host(f.beta_timesteps(n, total, a, b))
    return betainc(a, b, t / (total - 1)), [1.0 - i / n for i in range(n)], 8.0


# Roundings: 6 of sigma, 4 of scipy; the density times the fraction is at most 8.
@chapter.identity("beta_sigmas", "scipy's distribution function", 10)
def beta_distribution_at_the_sigmas_is_even(f: Functions, rng: RandomInputs) -> Comparison:
    n = rng.integer(2, 30)
    low = rng.number(0.01, 0.1)
    high = rng.number(2.0, 80.0)
    a = rng.number(0.5, 2.0)
    b = rng.number(0.5, 2.0)
    fraction = (to_host(f.beta_sigmas(n, low, high, a, b)) - low) / (high - low)
    # rounding may leave [0, 1], where betainc is undefined; a larger error must not pass
    inside = abs(fraction - 0.5) < 0.5 + 1e-12
    fraction = np.where(inside, np.clip(fraction, 0.0, 1.0), np.nan)
    return betainc(a, b, fraction), [1.0 - i / (n - 1) for i in range(n)], 8.0


PUBLISHED_SIGMAS = {  # the same table in sigmas, as ComfyUI lists it
    "sd": (14.6146, 6.47458, 3.86367, 2.69462, 1.88419, 1.39438, 0.964258, 0.652369, 0.397746,
           0.151523),
    "sdxl": (14.6146, 6.31845, 3.76818, 2.18115, 1.34052, 0.862072, 0.555069, 0.379854, 0.233236,
             0.111419),
}  # fmt: skip


@chapter.identity("align_your_steps_timesteps", "the same table in sigmas", 0)
def timesteps_are_nearest_to_the_published_sigmas(f: Functions, rng: RandomInputs) -> Comparison:
    model = ("sd", "sdxl")[rng.integer(0, 1)]
    alpha_bar = np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    log_sigma = 0.5 * np.log(1.0 / alpha_bar - 1.0)
    nearest = [int(np.argmin(abs(log_sigma - math.log(s)))) for s in PUBLISHED_SIGMAS[model]]
    return f.align_your_steps_timesteps(model), nearest


# Roundings: 2 of the positions, up to 5, times slopes up to 5; 20 of the exponents; 10 in the
# oracle.
@chapter.identity("log_linear_sigmas", "powers", 80, amplified=25)
def weighted_geometric_means_of_neighbours(f: Functions, rng: RandomInputs) -> Comparison:
    table = np.sort(rng.numpy.uniform(0.1, 15.0, rng.integer(2, 6)))[::-1]
    n = rng.integer(2, 5)  # subdivisions of each interval
    expected = [a ** (1 - i / n) * b ** (i / n) for a, b in pairwise(table) for i in range(n)]
    return f.log_linear_sigmas(table, n * (len(table) - 1) + 1), [*expected, table[-1]]


# -- mistakes --------------------------------------------------------------------------------------


def betas_of_a_cosine(n: int, s: float = 0.008, max_beta: float = 0.999, power: int = 2) -> Array:
    """Return the betas of a power of the cosine."""
    kept = np.cos((np.arange(n + 1) / n + s) / (1 + s) * math.pi / 2) ** power
    return np.minimum(1 - kept[1:] / kept[:-1], max_beta)


def rescaled(
    betas: Array, power: float = 0.5, first: float = 1.0, *, restored: bool = True
) -> Array:
    """Shift a power of alpha-bar to end at 0; the first ratio is that to `first`."""
    kept = np.cumprod(1 - betas) ** power
    factor = kept[0] / (kept[0] - kept[-1]) if restored else 1.0
    products = ((kept - kept[-1]) * factor) ** (1 / power)
    return 1 - products / np.concatenate([[first or products[0]], products[:-1]])


# fmt: off
chapter.known_mistakes("cosine_betas", {
    "the cosine is not squared": lambda n, s=0.008, max_beta=0.999:
        betas_of_a_cosine(n, s, max_beta, 1),
    "max_beta does not limit the betas": lambda n, s=0.008, max_beta=0.999:
        betas_of_a_cosine(n, s, np.inf),
})
chapter.known_mistakes("rescale_zero_terminal_snr", {
    "the variances are shifted; their roots are meant": lambda betas: rescaled(betas, 1.0),
    "the first amplitude is not restored by a factor":
        lambda betas: rescaled(betas, restored=False),
    "the first ratio is that of the first alpha-bar to itself; alpha-bar before it is 1":
        lambda betas: rescaled(betas, first=0.0),
})
# fmt: on
