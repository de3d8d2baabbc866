"""Multistep samplers: each weight against an integral, or the published fraction or formula."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ldmref.check.chapters.samplers import decreasing_sigmas, final_state, vp_scales
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, Step

chapter = Chapter("samplers")
QUADRATURE = "Gauss-Legendre quadrature"

# Weights of multistep methods are made of ratios of differences of log sigma. The logarithms are up
# to 3 in size, their differences down to 0.22: one rounding becomes up to 13.


def denoiser_with_slopes(slopes: Sequence[Array]) -> Denoiser:
    """Return a denoiser whose slope at its i-th call is slopes[i], whatever x is."""
    remaining = iter(slopes)
    return lambda x, sigma: x - sigma * next(remaining)


def denoiser_with_predictions(x0s: Sequence[Array]) -> Denoiser:
    """Return a denoiser that returns x0s[i] at its i-th call, whatever x is."""
    remaining = iter(x0s)
    return lambda x, sigma: next(remaining)


@functools.cache
def legendre() -> tuple[list[float], list[float]]:
    """Return the 80 nodes in [-1, 1] and their weights, which take milliseconds to compute."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    return nodes.tolist(), weights.tolist()


def integral(function: Callable[[float], Array], low: float, high: float) -> Array:
    """Integrate by Gauss-Legendre quadrature with 80 nodes."""
    half = 0.5 * (high - low)
    middle = 0.5 * (high + low)
    nodes, weights = legendre()
    pairs = zip(nodes, weights, strict=True)
    return half * sum(weight * function(half * node + middle) for node, weight in pairs)


def lagrange(nodes: Sequence[float], values: Sequence[Array]) -> Callable[[float], Array]:
    """Return the polynomial through (node, value), by Lagrange's formula."""

    def basis(j: int, r: float) -> float:
        return math.prod((r - p) / (nodes[j] - p) for i, p in enumerate(nodes) if i != j)

    return lambda r: sum(basis(j, r) * value for j, value in enumerate(values))


# Roundings: 13 of each ratio of logarithms (see above), of slopes extrapolated to 8 times the
# scale, in the last 3 steps.
@chapter.identity("deis", QUADRATURE, 312, amplified=104)
def integral_of_the_polynomial_in_log_sigma(f: Functions, rng: RandomInputs) -> Comparison:
    order = rng.integer(1, 4)
    sigmas = decreasing_sigmas(rng, 5)
    x, *slopes = rng.normals(7, 3, 2, 1, 2)
    expected = to_host(x)
    host_slopes = [to_host(slope) for slope in slopes]
    for n in range(5):
        last = range(n, max(-1, n - order), -1)
        curve = lagrange([math.log(sigmas[j]) for j in last], [host_slopes[j] for j in last])
        expected = expected + integral(lambda s, c=curve: c(math.log(s)), sigmas[n], sigmas[n + 1])
    got = final_state(f.deis(order, "euler"), denoiser_with_slopes(slopes), x, sigmas)
    return got, expected, 10.0


# Roundings: 6 of each weight, a product of three ratios of differences of sigmas, which amplify 2
# times each, of slopes extrapolated to 8 times the scale, on each side of the last 4 steps.
@chapter.identity("lms", QUADRATURE, 48, amplified=16)
def integral_of_the_polynomial_in_sigma(f: Functions, rng: RandomInputs) -> Comparison:
    """With k-diffusion's start: the orders 1, 2, 3 first, and the polynomial up to sigma = 0."""
    order = rng.integer(1, 4)
    sigmas = [*decreasing_sigmas(rng, 4), 0.0]
    x, *slopes = rng.normals(6, 3, 2, 1, 2)
    expected = to_host(x)
    host_slopes = [to_host(slope) for slope in slopes]
    for n in range(5):
        last = range(n, max(-1, n - order), -1)
        curve = lagrange([sigmas[j] for j in last], [host_slopes[j] for j in last])
        expected = expected + integral(curve, sigmas[n], sigmas[n + 1])
    got = final_state(f.lms(order, "euler"), denoiser_with_slopes(slopes), x, sigmas)
    return got, expected, 10.0


# Roundings: weights up to 7 in all, 4 roundings of 27 over the scale, on each side.
@chapter.identity("pndm", "published fractions", 24, amplified=2.7)
def fractions_of_equal_steps(f: Functions, rng: RandomInputs) -> Comparison:
    """(1, 1)/2 by Heun, then (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24."""
    rows = ((3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    sigmas = decreasing_sigmas(rng, 5)
    x, *slopes = rng.normals(7, 3, 2, 1, 2)
    e = [to_host(slope) for slope in slopes]
    expected = to_host(x) + 0.5 * (sigmas[1] - sigmas[0]) * (e[0] + e[1])
    del e[1]  # of Heun's second stage
    for n in range(1, 5):
        row = rows[min(n, 3) - 1]
        slope = sum(w * e[n - i] for i, w in enumerate(row))
        expected += (sigmas[n + 1] - sigmas[n]) * slope
    return final_state(f.pndm(), denoiser_with_slopes(slopes), x, sigmas), expected, 10.0


# Roundings: as `pndm`.
@chapter.identity("ipndm", "published fractions", 24, amplified=2.7)
def fractions_of_equal_steps_after_euler(f: Functions, rng: RandomInputs) -> Comparison:
    """1, then (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24."""
    rows = (
        (1.0,),
        (3 / 2, -1 / 2),
        (23 / 12, -16 / 12, 5 / 12),
        (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    )
    sigmas = decreasing_sigmas(rng, 5)
    x, *slopes = rng.normals(6, 3, 2, 1, 2)
    expected = to_host(x)
    e = [to_host(slope) for slope in slopes]
    for n in range(5):
        slope = sum(w * e[n - i] for i, w in enumerate(rows[min(n, 3)]))
        expected = expected + (sigmas[n + 1] - sigmas[n]) * slope
    return final_state(f.ipndm(), denoiser_with_slopes(slopes), x, sigmas), expected, 10.0


# Roundings: 7 on each side of each of 3 steps.
@chapter.identity("gradient_estimation", "slopes", 42)
def slope_moved_on_by_its_change(f: Functions, rng: RandomInputs) -> Comparison:
    gamma = rng.number(0.5, 2.5)
    sigmas = decreasing_sigmas(rng, 3)
    x, *slopes = rng.normals(4, 3, 2, 1, 2)
    expected = to_host(x)
    e = [to_host(slope) for slope in slopes]
    for n in range(3):
        slope = e[n] + (gamma - 1.0) * (e[n] - e[max(0, n - 1)])
        expected = expected + (sigmas[n + 1] - sigmas[n]) * slope
    step = f.gradient_estimation(gamma)
    return final_state(step, denoiser_with_slopes(slopes), x, sigmas), expected, 10.0


# Roundings: 13 of each of three ratios of logarithms, of predictions extrapolated to 6 times the
# scale.
@chapter.identity("dpmpp_singlestep", QUADRATURE, 240, amplified=78)
def parabola_from_the_start_of_the_block(f: Functions, rng: RandomInputs) -> Comparison:
    """Integrate exactly from the first state, through the line or the parabola (`heun`)."""
    order = rng.integer(2, 3)
    sigmas = decreasing_sigmas(rng, 3)
    sigmas = sigmas[: order + 1]
    x, *x0s = rng.normals(order + 1, 3, 2, 1, 2)
    nodes = [-math.log(s) for s in sigmas]
    curve = lagrange(nodes[:order], [to_host(x0) for x0 in x0s])
    expected = sigmas[-1] / sigmas[0] * to_host(x) + integral(
        lambda u: math.exp(u - nodes[-1]) * curve(u), nodes[0], nodes[-1]
    )
    step = f.dpmpp_singlestep(order, "heun")
    return final_state(step, denoiser_with_predictions(x0s), x, sigmas), expected, 10.0


# correction(-log sigmas, predictions on the host, n, k = (1 + eta) h)
Correction = Callable[[list[float], Sequence[Array], int, float], Array]


def adams(rng: RandomInputs, step: Step, eta: float, correction: Correction) -> Comparison:
    """Predictions that do not depend on x: exact decay, plus a correction by their differences."""
    sigmas = decreasing_sigmas(rng, 4)
    x = rng.normal(3, 2, 1, 2)
    x0s = rng.normals(4, 3, 2, 1, 2)
    noises = rng.normals(4, 3, 2, 1, 2)
    expected = to_host(x)
    host_x0s = [*map(to_host, x0s)]
    logs = [-math.log(s) for s in sigmas]
    for n in range(4):
        h = logs[n + 1] - logs[n]
        k = (1.0 + eta) * h
        expected = math.exp(-k) * expected - math.expm1(-k) * host_x0s[n]
        if n:
            expected += correction(logs, host_x0s, n, k)
        expected += sigmas[n + 1] * math.sqrt(-math.expm1(-2.0 * eta * h)) * to_host(noises[n])
    got = final_state(step, denoiser_with_predictions(x0s), x, sigmas, noises)
    return got, expected, 10.0


# Roundings: in each of 4 steps 10 of a correction up to 16, 10 of noise up to 24, over the
# scale.
@chapter.identity("dpmpp_2m", QUADRATURE, 80, amplified=2.4)
def algorithm_2_and_its_integral_form(f: Functions, rng: RandomInputs) -> Comparison:
    """`midpoint` as published; `heun` integrates the line through two predictions."""
    solver = ("midpoint", "heun")[rng.integer(0, 1)]
    eta = rng.number(0.0, 1.0)

    def correction(logs: list[float], x0s: Sequence[Array], n: int, k: float) -> Array:
        r = (logs[n] - logs[n - 1]) / (logs[n + 1] - logs[n])
        linear = integral(lambda u: k * math.exp(-k * (1.0 - u)) * u, 0.0, 1.0)
        weight = -0.5 * math.expm1(-k) if solver == "midpoint" else linear
        return weight / r * (x0s[n] - x0s[n - 1])

    return adams(rng, f.dpmpp_2m(eta, solver), eta, correction)


def phi(order: int, k: float) -> float:
    """(e^k - 1 - k - ...) / k^order, by its series, in which nothing cancels."""
    return sum(k**j / math.factorial(j + order) for j in range(1, 30))


# Roundings: 13 of each ratio of logarithms (see above), of corrections up to 4 times the scale,
# in the last 3 steps; 40 of noise.
@chapter.identity("dpmpp_3m", "k-diffusion's form", 200, amplified=52)
def phi_functions_of_the_published_code(f: Functions, rng: RandomInputs) -> Comparison:
    """phi_2 = (e^-k - 1) / k + 1 and phi_3 = phi_2 / k - 1/2, on divided differences.

    Both are summed as series in the oracle, since the differences lose digits for small k.
    """
    eta = rng.number(0.0, 1.0)

    def correction(logs: list[float], x0s: Sequence[Array], n: int, k: float) -> Array:
        h = logs[n + 1] - logs[n]
        phi2 = -phi(1, -k)
        d1 = (x0s[n] - x0s[n - 1]) * h / (logs[n] - logs[n - 1])
        if n == 1:
            return phi2 * d1
        r0 = (logs[n] - logs[n - 1]) / h
        r1 = (logs[n - 1] - logs[n - 2]) / h
        d2 = (d1 - (x0s[n - 1] - x0s[n - 2]) / r1) / (r0 + r1)
        return phi2 * (d1 + d2 * r0) - phi(2, -k) * d2

    return adams(rng, f.dpmpp_3m(eta), eta, correction)


# Roundings: 13 of each ratio of logarithms (see above), of corrections up to 4 times the scale,
# in the last 3 steps; 40 of noise.
@chapter.identity("dpm_solver_multistep", "the published form", 200, amplified=52)
def noise_prediction_of_the_published_code(f: Functions, rng: RandomInputs) -> Comparison:
    """Use variance-preserving coordinates with alpha, sigma and lambda; the SDE form doubles."""
    solver = ("midpoint", "heun")[rng.integer(0, 1)]
    sde = rng.integer(0, 1)
    order = rng.integer(1, 2 if sde else 3)
    sigmas = decreasing_sigmas(rng, 4)
    x = rng.normal(3, 2, 1, 2)
    slopes = rng.normals(4, 3, 2, 1, 2)
    noises = rng.normals(4, 3, 2, 1, 2)
    e = [to_host(slope) for slope in slopes]
    alphas, vp_sigmas = zip(*map(vp_scales, sigmas), strict=True)
    logs = [math.log(a) - math.log(s) for a, s in zip(alphas, vp_sigmas, strict=True)]
    y = alphas[0] * to_host(x)
    for n in range(4):
        h = logs[n + 1] - logs[n]
        sigma = vp_sigmas[n + 1]
        current_order = min(order, n + 1)
        b = sigma * math.expm1(h)
        change = b * e[n]
        if current_order > 1:
            r0 = (logs[n] - logs[n - 1]) / h
            d1 = (e[n] - e[n - 1]) / r0
            c1 = 0.5 * b if solver == "midpoint" and current_order == 2 else sigma * phi(1, h)
            if current_order == 3:
                r1 = (logs[n - 1] - logs[n - 2]) / h
                gap = d1 - (e[n - 1] - e[n - 2]) / r1
                d1 = d1 + r0 / (r0 + r1) * gap
                change = change + sigma * phi(2, h) / (r0 + r1) * gap
            change = change + c1 * d1
        y = alphas[n + 1] / alphas[n] * y - (1 + sde) * change
        if sde:
            y = y + sigma * math.sqrt(math.expm1(2.0 * h)) * to_host(noises[n])
    step = f.dpm_solver_multistep(order, float(sde), solver)
    denoise = denoiser_with_slopes(slopes)
    return final_state(step, denoise, x, sigmas, noises), y / alphas[-1], 10.0


# Roundings: 13 of each ratio of logarithms (see above), of predictions extrapolated to 6 times
# the scale, in the last 3 steps.
@chapter.identity("unipc", QUADRATURE, 240, amplified=78)
def integrals_of_both_polynomials(f: Functions, rng: RandomInputs) -> Comparison:
    """Predictor and corrector through their predictions; B(h) / 2 where the paper has it."""
    order = rng.integer(1, 3)
    variant = ("bh1", "bh2")[rng.integer(0, 1)]
    sigmas = decreasing_sigmas(rng, 5)
    x, *x0s = rng.normals(6, 3, 2, 1, 2)
    logs = [-math.log(s) for s in sigmas]
    host_x0s = [to_host(x0) for x0 in x0s]

    def advance(y: np.ndarray, n: int, nodes: range, halved: bool) -> np.ndarray:
        h = logs[n + 1] - logs[n]
        y = math.exp(-h) * y
        if halved:
            (j,) = (j for j in nodes if j != n)
            b = h if variant == "bh1" else -math.expm1(-h)
            r = (logs[j] - logs[n]) / h
            return y - math.expm1(-h) * host_x0s[n] + 0.5 * b / r * (host_x0s[j] - host_x0s[n])
        curve = lagrange([logs[j] for j in nodes], [host_x0s[j] for j in nodes])
        return y + integral(lambda u: math.exp(u - logs[n + 1]) * curve(u), logs[n], logs[n + 1])

    corrected = expected = to_host(x)  # corrected: the start of the last step
    for n in range(5):
        if n:
            p = min(order, n)
            corrected = advance(corrected, n - 1, range(n - p, n + 1), p == 1)
        p = min(order, n + 1)
        expected = advance(corrected, n, range(n - p + 1, n + 1), p == 2)
    got = final_state(f.unipc(order, variant), denoiser_with_predictions(x0s), x, sigmas)
    return got, expected, 10.0


# -- mistakes --------------------------------------------------------------------------------------

DifferenceWeight = Callable[[float, float, float, str], float]


def multistep(eta: float, solver: str, weight: DifferenceWeight) -> Step:
    """Return the step of dpmpp_2m with `weight(h, h_last, k, solver)` times the last difference."""

    def step(denoise, x, interval, history, noise):
        x0 = denoise(x, interval.sigma)
        if interval.sigma_next == 0:
            return x0, x0, ()
        h = math.log(interval.sigma / interval.sigma_next)
        k = (1 + eta) * h
        x_next = x0 + math.exp(-k) * (x - x0)
        if history:
            x_next = x_next + weight(h, history[1], k, solver) * (x0 - history[0])
        if eta > 0:
            x_next = x_next + interval.sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise()
        return x_next, x0, (x0, h)

    return step


def exact_weight(k: float, solver: str) -> float:
    """Return the weight of the difference over a step as long as the last one."""
    return -math.expm1(-k) / 2 if solver == "midpoint" else 1 + math.expm1(-k) / k


# fmt: off
chapter.known_mistakes("dpmpp_2m", {
    "h / h_last is missing, as if all steps were equally long":
        lambda eta=0.0, solver="midpoint": multistep(
            eta, solver, lambda h, last, k, solver: exact_weight(k, solver)),
    "h stands for k = (1 + eta) h in the correction, as if there were no noise":
        lambda eta=0.0, solver="midpoint": multistep(
            eta, solver, lambda h, last, k, solver: h / last * exact_weight(h, solver)),
    "k stands for h as well: h / h_last is a ratio of lengths without eta":
        lambda eta=0.0, solver="midpoint": multistep(
            eta, solver, lambda h, last, k, solver: k / last * exact_weight(k, solver)),
})
# fmt: on
