"""Gradients of the losses that train the denoiser, and of the terms of its bound."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfc, log_ndtr

from ldmref.check.chapters.autoencoders_gradients import log_density
from ldmref.check.chapters.objective import TYPES, two_alpha_bars
from ldmref.check.identity import Chapter, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("objective")

# Roundings of function and oracle: about three times as many as in the values, since each result is
# used in two products.


@chapter.gradient("simple_loss", 12)
def the_mean_of_squares(f: Functions, rng: RandomInputs) -> tuple:
    prediction, target = rng.normals(2, 3, 2, 4)

    def formula(prediction, target):
        return ((prediction - target) ** 2).mean(axis=(1, 2))

    return f.simple_loss, {"prediction": prediction, "target": target}, formula


@chapter.gradient("hybrid_loss", 4)
def the_weighted_sum(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"simple": rng.uniform(0, 2, 4), "bound": rng.uniform(0, 100, 4)}
    return f.hybrid_loss, inputs, lambda simple, bound: simple + bound / 1000


@chapter.gradient("training_loss", 24)
def the_loss_for_the_network(f: Functions, rng: RandomInputs) -> tuple:
    """Differentiate for the weights a of the network a x_t, with a random prediction type."""
    (x0, eps) = rng.normals(2, 3, 4)
    alpha_bars = rng.uniform(0.05, 0.95, 5)
    kind = TYPES[rng.integer(0, 2)]
    steps = [rng.integer(0, 4) for _ in range(3)]
    t = rng.xp.asarray(steps, dtype=rng.xp.int64, device=rng.device)
    alpha_bar = to_host(alpha_bars)[steps][:, None]
    signal = np.sqrt(alpha_bar)
    noise = np.sqrt(1 - alpha_bar)
    clean = to_host(x0)
    e = to_host(eps)
    xt = signal * clean + noise * e
    target = {"x0": clean, "eps": e, "v": signal * e - noise * clean}[kind]

    def call(a: Array) -> Array:
        return f.training_loss(lambda xt, t: a * xt, x0, t, eps, alpha_bars, kind)

    def formula(a):
        return ((a * xt - target) ** 2).mean(axis=1)

    return call, {"weights": rng.normal(3, 4)}, formula, 20.0


@chapter.gradient("prior_kl", 12)
def the_prior_term(f: Functions, rng: RandomInputs) -> tuple:
    alpha_bar = rng.number(0.0, 0.9)

    def formula(x0):
        return 0.5 * alpha_bar * (x0 * x0 - 1) - 0.5 * math.log(1 - alpha_bar)

    return lambda x0: f.prior_kl(x0, alpha_bar), {"x0": rng.normal(4)}, formula


@chapter.gradient("denoising_kl", 40)
def the_divergence_for_mean_and_variance(f: Functions, rng: RandomInputs) -> tuple:
    (x0, guess) = rng.normals(2, 3, 4)
    (now, before) = two_alpha_bars(rng)
    inputs = {"x0_pred": guess, "logvar": rng.uniform(-2, 1, 3, 4)}
    clean = to_host(x0)
    beta = 1 - now / before
    small = beta * (1 - before) / (1 - now)
    gain = math.sqrt(before) * beta / (1 - now)

    def formula(guess: np.ndarray, logvar: np.ndarray) -> np.ndarray:
        gap = gain * (clean - guess)
        return 0.5 * (logvar - math.log(small) - 1 + (small + gap**2) * np.exp(-logvar))

    def call(guess, logvar):
        return f.denoising_kl(x0, guess, now, before, logvar)

    return call, inputs, formula, 10.0


@chapter.gradient("learned_range_logvar", 16)
def the_interpolation(f: Functions, rng: RandomInputs) -> tuple:
    lower = rng.number(1e-3, 0.1)
    ratio = rng.number(1.0, 3.0)

    def formula(v):
        return math.log(lower) + (v + 1) / 2 * math.log(ratio)

    def call(v):
        return f.learned_range_logvar(v, lower * ratio, lower)

    return call, {"v": rng.uniform(-1.5, 1.5, 2, 3)}, formula, 7.0


@chapter.gradient("bound_term", 40, uses=("normal_log_density",))
def the_terms_for_mean_and_variance(f: Functions, rng: RandomInputs) -> tuple:
    """Every timestep, also the first, with a learned variance."""
    (x0, guess) = rng.normals(2, 4, 2)
    betas = rng.betas(4)
    alpha_bars = np.cumprod(1 - betas)[:, None]
    clean = to_host(x0)
    t = rng.xp.asarray([0, 1, 2, 3], dtype=rng.xp.int64, device=rng.device)
    before = np.append(np.ones((1, 1)), alpha_bars[:-1], axis=0)
    upper = 1 - alpha_bars / before
    small = upper * (1 - before) / (1 - alpha_bars)
    gain = np.sqrt(before) * upper / (1 - alpha_bars)
    lower = np.append(small[1:2], small[1:], axis=0)

    def formula(guess: np.ndarray, v: np.ndarray) -> np.ndarray:
        logvar = np.log(lower) + (v + 1) / 2 * np.log(upper / lower)
        square = (small + (gain * (clean - guess)) ** 2) * np.exp(-logvar)
        kl = 0.5 * (logvar - np.log(lower) - 1 + square)
        first = np.arange(4)[:, None] == 0
        return np.where(first, -log_density(clean, guess, logvar), kl)

    def call(guess: Array, v: Array) -> Array:
        arguments = (rng.array(alpha_bars[:, 0]), "learned_range", v, f.normal_log_density)
        return f.bound_term(x0, guess, t, *arguments)

    inputs = {"x0_pred": guess, "v": rng.uniform(-1.5, 1.5, 4, 2)}
    return call, inputs, formula, 20 / betas.min()


@chapter.gradient("discretized_gaussian_log_likelihood", 100)
def the_log_probability_of_a_bin(f: Functions, rng: RandomInputs) -> tuple:
    """Take the difference of two tails on the side where both are small."""
    bins = rng.integer(2, 8)
    host = 2 * np.arange(bins) / (bins - 1) - 1
    x = rng.array(host)
    half = 1 / (bins - 1)
    low = np.where(host < half - 1, -np.inf, host - half)
    high = np.where(host > 1 - half, np.inf, host + half)

    def formula(mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
        probabilities = []
        for a, b, m, v in zip(low, high, mean, np.exp(0.5 * logvar) * math.sqrt(2), strict=True):
            a, b = (a - m, b - m) if a > m.real else (m - b, m - a)
            upper = 0.5 * erfc(a / v) if np.isfinite(a) else 1.0
            probabilities.append(upper - (0.5 * erfc(b / v) if np.isfinite(b) else 0.0))
        return np.log(np.asarray(probabilities))

    inputs = {"mean": rng.uniform(-1, 1, bins), "logvar": rng.uniform(-1, 2, bins)}

    def call(mean, logvar):
        return f.discretized_gaussian_log_likelihood(x, mean, logvar, bins)

    return call, inputs, formula, 4.0


# Roundings: 18 of the sum and 10 of the pole, whose derivatives are up to 12.5 each and cancel.
@chapter.gradient("erfc", 28)
def the_complementary_error_function(f: Functions, rng: RandomInputs) -> tuple:
    return f.erfc, {"x": rng.uniform(-3, 3, 8)}, erfc, 12.5


# Roundings: as of erfc.
@chapter.gradient("log_ndtr", 28)
def the_logarithm_of_the_distribution(f: Functions, rng: RandomInputs) -> tuple:
    return f.log_ndtr, {"x": rng.uniform(-6, 3, 8)}, log_ndtr, 12.5
