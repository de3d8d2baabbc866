"""Samplers that follow a published code: each against the paper's variance-preserving form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ldmref.check.chapters.samplers import (
    decreasing_sigmas,
    final_state,
    linear_denoiser,
    vp_scales,
)
from ldmref.check.chapters.samplers_multistep import denoiser_with_predictions, denoiser_with_slopes
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("samplers")
PAPER = "the paper's form"


def phi_1(k: float) -> float:
    """(1 - e^-k) / k, by its series, in which nothing cancels."""
    return sum((-k) ** j / math.factorial(j + 1) for j in range(40))


def phi_2(k: float) -> float:
    """(k - 1 + e^-k) / k^2, by its series."""
    return sum((-k) ** j / math.factorial(j + 2) for j in range(40))


class SeedsStages:
    """The nodes of a step of SEEDS, in (alpha, sigma, lambda) of the variance-preserving process.

    Noise is added for each part between two nodes by itself, with its exact variance at the end.
    """

    def __init__(self, s: float, t: float, eta: float, noises: list[Array]):
        self.h = math.log(s / t)
        self.s = s
        self.eta = eta
        self.noises = [to_host(noise) for noise in noises]

    def node(self, r: float) -> float:
        """Return the noise level at r."""
        return self.s * math.exp(-r * self.h)

    def move(self, y: Array, r: float, x0s: list[tuple[float, Array]], nodes: list[float]) -> Array:
        """Return x at r: decay, predictions with weights of h, noise of the `nodes` so far."""
        alpha, sigma = vp_scales(self.s)
        alpha_r, sigma_r = vp_scales(self.node(r))
        y = sigma_r / sigma * math.exp(-self.eta * r * self.h) * alpha * y
        y = y + alpha_r * (1.0 + self.eta) * self.h * sum(w * x0 for w, x0 in x0s)
        ends = [0.0, *nodes]
        for noise, a, b in zip(self.noises, ends[:-1], ends[1:], strict=False):
            # the integral of e^(-eta (r - u) h) over the part from a to b
            rate = 2.0 * self.eta * self.h
            variance = math.exp(-rate * (r - b)) - math.exp(-rate * (r - a))
            y = y + sigma_r * math.sqrt(max(0.0, variance)) * noise
        return y / alpha_r


# Roundings: 30 on each side, of states and noises up to 24.
@chapter.identity("seeds_2", PAPER, 60, amplified=2.4)
def two_stages_in_the_variance_preserving_process(f: Functions, rng: RandomInputs) -> Comparison:
    eta = rng.number(0.1, 1.0)
    r = rng.number(0.3, 0.9)
    solver = ("phi_1", "phi_2")[rng.integer(0, 1)]
    s, t = decreasing_sigmas(rng, 1)
    x, *noises = rng.normals(3, 3, 2, 1, 2)
    denoise, on_host = linear_denoiser(rng)
    stages = SeedsStages(s, t, eta, noises)
    k = (1.0 + eta) * stages.h
    start = to_host(x)
    x0 = on_host(start, s)
    u = stages.move(start, r, [(r * phi_1(r * k), x0)], [r])
    second = (0.5 * phi_1(k) if solver == "phi_1" else phi_2(k)) / r
    x0_u = on_host(u, stages.node(r))
    expected = stages.move(start, 1.0, [(phi_1(k) - second, x0), (second, x0_u)], [r, 1.0])
    return final_state(f.seeds_2(eta, r, solver), denoise, x, [s, t], noises), expected, 10.0


# Roundings: 45 on each side, of states and noises up to 24.
@chapter.identity("seeds_3", PAPER, 90, amplified=2.4)
def three_stages_in_the_variance_preserving_process(f: Functions, rng: RandomInputs) -> Comparison:
    eta = rng.number(0.1, 1.0)
    s, t = decreasing_sigmas(rng, 1)
    x, *noises = rng.normals(4, 3, 2, 1, 2)
    denoise, on_host = linear_denoiser(rng)
    stages = SeedsStages(s, t, eta, noises)
    k = (1.0 + eta) * stages.h
    a, b = 1.0 / 3.0, 2.0 / 3.0
    start = to_host(x)
    x0 = on_host(start, s)
    u = stages.move(start, a, [(a * phi_1(a * k), x0)], [a])
    x0_u = on_host(u, stages.node(a))
    weight = b * b / a * phi_2(b * k)
    u = stages.move(start, b, [(b * phi_1(b * k) - weight, x0), (weight, x0_u)], [a, b])
    weight = phi_2(k) / b
    last = [(phi_1(k) - weight, x0), (weight, on_host(u, stages.node(b)))]
    expected = stages.move(start, 1.0, last, [a, b, 1.0])
    return final_state(f.seeds_3(eta), denoise, x, [s, t], noises), expected, 10.0


# Roundings: 20 in each of 4 steps, of sums of 200 terms up to 40 in the float64 of both sides.
@chapter.identity("er_sde", PAPER, 80, amplified=5.0)
def taylor_terms_of_er_sde(f: Functions, rng: RandomInputs) -> Comparison:
    """Phi is a power of sigma; the published sums over 200 parts, in the paper's lambda."""
    order = rng.integer(1, 3)
    power = rng.number(1.0, 2.0)
    sigmas = decreasing_sigmas(rng, 4)
    x = rng.normal(3, 2, 1, 2)
    x0s = rng.normals(4, 3, 2, 1, 2)
    noises = rng.normals(4, 3, 2, 1, 2)
    known = [to_host(x0) for x0 in x0s]
    y = to_host(x)
    first = 0.0 * y
    for n, (s, t) in enumerate(pairwise(sigmas)):
        ratio = (t / s) ** power
        parts = [t + (s - t) * j / 200 for j in range(200)]
        y = ratio * y + (1.0 - ratio) * known[n]
        if n >= 1 and order >= 2:
            first = (known[n] - known[n - 1]) / (s - sigmas[n - 1])
            zeroth = (s - t) / 200 * sum((t / p) ** power for p in parts)
            y = y + (t - s + zeroth) * first
        if n >= 2 and order == 3:
            before = (known[n - 1] - known[n - 2]) / (sigmas[n - 1] - sigmas[n - 2])
            second = 2.0 * (first - before) / (s - sigmas[n - 2])
            moment = (s - t) / 200 * sum((t / p) ** power * (p - s) for p in parts)
            y = y + (0.5 * (s - t) ** 2 + moment) * second
        y = y + t * math.sqrt(max(0.0, 1.0 - (t / s) ** (2.0 * power - 2.0))) * to_host(noises[n])
    step = f.er_sde(order, lambda sigma: sigma**power)
    return final_state(step, denoiser_with_predictions(x0s), x, sigmas, noises), y, 10.0


# Roundings: 12 on each side of each of 4 steps.
@chapter.identity("heunpp2", "slopes", 96)
def three_slopes_with_fading_weights(f: Functions, rng: RandomInputs) -> Comparison:
    sigmas = decreasing_sigmas(rng, 4)
    x = rng.normal(3, 2, 1, 2)
    denoise, on_host = linear_denoiser(rng)
    y = to_host(x)

    def slope(y: Array, sigma: float) -> Array:
        return (y - on_host(y, sigma)) / sigma

    for n in range(4):
        used = min(3, 4 - n)
        z = y
        slopes = []
        for j in range(used):
            slopes.append(slope(z, sigmas[n + j]))
            if j + 1 < used:
                z = z + (sigmas[n + j + 1] - sigmas[n + j]) * slopes[-1]
        fading = [sigmas[n + j] / (used * sigmas[0]) for j in range(1, used)]
        mean = (1.0 - sum(fading)) * slopes[0]
        mean = mean + sum(w * e for w, e in zip(fading, slopes[1:], strict=True))
        y = y + (sigmas[n + 1] - sigmas[n]) * mean
    return final_state(f.heunpp2(), denoise, x, sigmas), y, 10.0


# Roundings: 12 in each weight, of slopes extrapolated to 8 times the scale, in 5 steps.
@chapter.identity("ipndm_v", "the published form", 60, amplified=10.0)
def coefficients_of_the_published_code(f: Functions, rng: RandomInputs) -> Comparison:
    """Divided differences of the slopes, with the published bracket and ratio."""
    sigmas = decreasing_sigmas(rng, 5)
    x, *slopes = rng.normals(6, 3, 2, 1, 2)
    e = [to_host(slope) for slope in slopes]
    y = to_host(x)
    for n in range(5):
        h = [sigmas[n + 1 - j] - sigmas[n - j] for j in range(min(n, 3) + 1)]
        mean = e[n]
        bend = 0.0 * mean
        if n >= 1:
            mean = mean + h[0] / h[1] / 2 * (e[n] - e[n - 1])
        if n >= 2:
            right = (h[0] + h[1]) * h[0] / ((h[1] + h[2]) * h[1])
            c = 0.5 - h[0] / (h[0] + h[1]) / 6 * right
            bend = (e[n] - e[n - 1]) - h[1] / h[2] * (e[n - 1] - e[n - 2])
            mean = mean + c * bend
        if n >= 3:
            two, three = h[0] + h[1], h[0] + h[1] + h[2]
            c = 0.5 - h[0] / two / 6 + h[0] / three / 6 - h[0] ** 2 / (12 * two * three)
            c *= h[0] * two * three / (h[1] * (h[1] + h[2]) * (h[1] + h[2] + h[3]))
            wide = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]))
            older = (1.0 + h[2] / h[3]) * e[n - 2] - e[n - 1] - h[1] / h[2] * e[n - 3]
            mean = mean + c * (bend + wide * older)
        y = y + h[0] * mean
    return final_state(f.ipndm_v(), denoiser_with_slopes(slopes), x, sigmas), y, 10.0


# Roundings: 6 here, of noise up to 6; 16 in the oracle, of alpha-bar and its ratios.
@chapter.identity("tcd", PAPER, 24, amplified=2.0)
def jump_along_the_path_then_the_forward_process(f: Functions, rng: RandomInputs) -> Comparison:
    """Return to timestep s by DDIM, then take the forward process from s to t'."""
    eta = rng.number(0.1, 0.9)
    table = np.geomspace(0.05, 8.0, 50)
    t = rng.integer(10, 40)
    start, end = float(table[t + 9]), float(table[t])
    below = float(table[int(np.float32(1.0 - eta) * np.float32(t))])
    x0, x, eps = rng.normals(3, 3, 2, 1, 2)
    a, b = vp_scales(start)
    slope = (a * to_host(x) - a * to_host(x0)) / b
    a_s, b_s = vp_scales(below)
    jumped = a_s * to_host(x0) + b_s * slope
    alpha = vp_scales(end)[0]
    kept = (alpha / a_s) ** 2  # of the variance, from s to t'
    forward = math.sqrt(kept) * jumped + math.sqrt(1.0 - kept) * to_host(eps)
    got = final_state(f.tcd(eta, table), lambda y, sigma: x0, x, [start, end], [eps])
    return got, forward / alpha, 4.0
