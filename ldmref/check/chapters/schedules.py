"""Schedules, noise levels, and the grids of levels that samplers walk."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host


def exact_ratios(level) -> list[Fraction]:
    """alpha_bar / (1 - alpha_bar) without rounding."""
    return [Fraction(a) / (1 - Fraction(a)) for a in map(float, to_host(level))]


def steps_are_even(f: Functions, draw: Draw):
    n, start, end = draw.integer(2, 50), draw.number(1e-4, 0.1), draw.number(0.1, 0.9)
    return f.linear_betas(n, start, end), [start + (end - start) * i / (n - 1) for i in range(n)]


def roots_are_even(f: Functions, draw: Draw):
    n, start, end = draw.integer(2, 50), draw.number(1e-4, 0.1), draw.number(0.1, 0.9)
    a, b = math.sqrt(start), math.sqrt(end)
    want = [(a + (b - a) * i / (n - 1)) ** 2 for i in range(n)]
    return f.scaled_linear_betas(n, start, end), want


def product_is_a_squared_cosine(f: Functions, draw: Draw):
    n, s = draw.integer(5, 60), draw.number(0.0, 0.1)

    def level(t: int) -> float:
        return math.cos((t / n + s) / (1 + s) * math.pi / 2) ** 2

    betas = np.asarray(f.cosine_betas(n, s))
    want = [level(t + 1) / level(0) for t in range(n - 1)]
    return np.append(np.cumprod(1.0 - betas)[:-1], betas[-1]), [*want, 0.999]


def product_is_a_logistic_curve(f: Functions, draw: Draw):
    n, start, end = draw.integer(10, 60), draw.number(-4.0, -1.0), draw.number(1.0, 4.0)
    tau = draw.number(0.5, 2.0)

    def level(t: int) -> float:
        return -math.tanh(0.5 * (start + (end - start) * t / n) / tau)

    betas = np.asarray(f.sigmoid_betas(n, start, end, tau))
    want = [(level(t + 1) - level(n)) / (level(0) - level(n)) for t in range(n - 1)]
    return np.append(np.cumprod(1.0 - betas)[:-1], betas[-1]), [*want, 0.999]


def logarithms_add_up(f: Functions, draw: Draw):
    betas = draw.array(draw.betas(draw.integer(2, 12)))
    logs = [math.log1p(-b) for b in to_host(betas)]
    return f.alphas_cumprod(betas), [math.exp(math.fsum(logs[: t + 1])) for t in range(len(logs))]


def signal_over_noise_without_rounding(f: Functions, draw: Draw):
    level = draw.uniform(0.05, 0.95, 5)
    return f.snr(level), [float(r) for r in exact_ratios(level)]


def logarithm_of_the_exact_ratio(f: Functions, draw: Draw):
    level = draw.uniform(0.02, 0.98, 5)
    return f.log_snr(level), [math.log(r) for r in exact_ratios(level)]


def half_a_hyperbolic_tangent(f: Functions, draw: Draw):
    nats = draw.uniform(-12.0, 12.0, 5)
    return f.alpha_bar_from_log_snr(nats), [0.5 + 0.5 * math.tanh(0.5 * v) for v in to_host(nats)]


def tangent_of_the_angle_of_noise(f: Functions, draw: Draw):
    level = draw.uniform(0.05, 0.95, 5)
    want = [math.tan(math.acos(math.sqrt(a))) for a in to_host(level)]
    return f.sigma_from_alpha_bar(level), want


def squared_cosine_of_the_angle_of_noise(f: Functions, draw: Draw):
    sigma = draw.uniform(0.0, 20.0, 5)
    return f.alpha_bar_from_sigma(sigma), [math.cos(math.atan(s)) ** 2 for s in to_host(sigma)]


def keeps_the_first_and_ends_in_zero(f: Functions, draw: Draw):
    betas = draw.betas(draw.integer(3, 12))
    before = np.cumprod(1.0 - betas)
    after = np.cumprod(1.0 - np.asarray(f.rescale_zero_terminal_snr(betas)))
    # the roots were shifted and stretched: ratios of their differences stay
    a, b = np.sqrt(before), np.sqrt(np.maximum(after, 0.0))
    got = np.concatenate([after[[0, -1]], np.diff(b) / (b[0] - b[-1])])
    return got, np.concatenate([[before[0], 0.0], np.diff(a) / (a[0] - a[-1])])


def even_in_sigma_to_one_over_rho(f: Functions, draw: Draw):
    n, low, high = draw.integer(3, 30), draw.number(0.01, 1.0), draw.number(2.0, 80.0)
    rho = draw.number(1.0, 9.0)
    grid = np.asarray(f.karras_sigmas(n, low, high, rho))
    steps = np.diff(grid ** (1 / rho)) * (n - 1)
    return np.append(steps, grid[0]), [*[low ** (1 / rho) - high ** (1 / rho)] * (n - 1), high]


def even_in_log_sigma(f: Functions, draw: Draw):
    n, low, high = draw.integer(3, 30), draw.number(0.01, 1.0), draw.number(2.0, 80.0)
    steps = np.diff(np.log(np.asarray(f.exponential_sigmas(n, low, high)))) * (n - 1)
    return steps, [math.log(low / high)] * (n - 1)


def shares_of_the_beta_distribution_are_even(f: Functions, draw: Draw):
    from scipy.special import betainc

    n, total = draw.integer(1, 30), draw.integer(100, 1000)
    a, b = draw.number(0.5, 2.0), draw.number(0.5, 2.0)
    t = np.asarray(f.beta_timesteps(n, total, a, b))
    return betainc(a, b, t / (total - 1)), [1.0 - i / n for i in range(n)]


def shares_of_the_beta_distribution_reach_both_ends(f: Functions, draw: Draw):
    from scipy.special import betainc

    n, low, high = draw.integer(2, 30), draw.number(0.01, 0.1), draw.number(2.0, 80.0)
    a, b = draw.number(0.5, 2.0), draw.number(0.5, 2.0)
    part = (np.asarray(f.beta_sigmas(n, low, high, a, b)) - low) / (high - low)
    # outside [0, 1] by rounding at most; further out the share would have no value
    part = np.where(abs(part - 0.5) < 0.5 + 1e-12, np.clip(part, 0.0, 1.0), np.nan)
    return betainc(a, b, part), [1.0 - i / (n - 1) for i in range(n)]


PUBLISHED = {  # the same levels as sigmas, as ComfyUI lists them
    "sd": (14.6146, 6.47458, 3.86367, 2.69462, 1.88419, 1.39438, 0.964258, 0.652369, 0.397746,
           0.151523),
    "sdxl": (14.6146, 6.31845, 3.76818, 2.18115, 1.34052, 0.862072, 0.555069, 0.379854, 0.233236,
             0.111419),
}  # fmt: skip


def timesteps_are_nearest_to_the_published_sigmas(f: Functions, draw: Draw):
    model = ("sd", "sdxl")[draw.integer(0, 1)]
    alpha_bar = np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    log_sigma = 0.5 * np.log(1.0 / alpha_bar - 1.0)
    nearest = [int(np.argmin(abs(log_sigma - math.log(s)))) for s in PUBLISHED[model]]
    return f.align_your_steps_timesteps(model), nearest


def weighted_geometric_means_of_neighbours(f: Functions, draw: Draw):
    table = np.sort(draw.stream.uniform(0.1, 15.0, draw.integer(2, 6)))[::-1]
    n = draw.integer(2, 5)  # parts of each interval
    want = [a ** (1 - i / n) * b ** (i / n) for a, b in pairwise(table) for i in range(n)]
    return f.log_linear_sigmas(table, n * (len(table) - 1) + 1), [*want, table[-1]]


IDENTITIES = [
    Identity("linear_betas", "the definition in plain Python", steps_are_even, 4),
    Identity("scaled_linear_betas", "the definition in plain Python", roots_are_even, 8),
    Identity("cosine_betas", "the cosine, telescoped", product_is_a_squared_cosine, 12),
    Identity("sigmoid_betas", "hyperbolic tangents, telescoped", product_is_a_logistic_curve, 12),
    Identity("alphas_cumprod", "sums of logarithms", logarithms_add_up, 4),
    Identity("snr", "rational arithmetic", signal_over_noise_without_rounding, 3),
    Identity("log_snr", "rational arithmetic", logarithm_of_the_exact_ratio, 5),
    Identity("alpha_bar_from_log_snr", "hyperbolic tangent", half_a_hyperbolic_tangent, 4),
    Identity("sigma_from_alpha_bar", "trigonometry", tangent_of_the_angle_of_noise, 10),
    Identity("alpha_bar_from_sigma", "trigonometry", squared_cosine_of_the_angle_of_noise, 4),
    Identity("rescale_zero_terminal_snr", "what an affine map keeps",
             keeps_the_first_and_ends_in_zero, 8),
    Identity("karras_sigmas", "differences after the inverse map", even_in_sigma_to_one_over_rho,
             192),
    Identity("exponential_sigmas", "differences of logarithms", even_in_log_sigma, 128),
    Identity("beta_timesteps", "scipy's distribution function",
             shares_of_the_beta_distribution_are_even, 24),
    Identity("beta_sigmas", "scipy's distribution function",
             shares_of_the_beta_distribution_reach_both_ends, 24),
    Identity("align_your_steps_timesteps", "the same table in sigmas",
             timesteps_are_nearest_to_the_published_sigmas, 0),
    Identity("log_linear_sigmas", "powers", weighted_geometric_means_of_neighbours, 32),
]  # fmt: skip
