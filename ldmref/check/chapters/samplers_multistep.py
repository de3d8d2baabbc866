"""Multistep samplers: each weight against an integral, or the published fraction or formula."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.chapters.samplers import end, levels
from ldmref.check.identity import Draw, Functions, Identity, to_host

PAGE = "samplers"
GAUSS = np.polynomial.legendre.leggauss(80)


def _slopes(values):
    """A denoiser whose slope at its i-th call is values[i], whatever x is."""
    stream = iter(values)
    return lambda x, sigma: x - sigma * next(stream)


def _integral(function, low: float, high: float):
    """By Gauss-Legendre quadrature of 80 points."""
    nodes, weights = GAUSS
    points = 0.5 * (high - low) * nodes + 0.5 * (high + low)
    return (
        0.5
        * (high - low)
        * sum(w * function(s) for w, s in zip(weights.tolist(), points.tolist(), strict=True))
    )


def _through(places, values):
    """The polynomial through (place, value), by Lagrange's formula."""

    def polynomial(r):
        total = 0.0
        for j, value in enumerate(values):
            others = [p for i, p in enumerate(places) if i != j]
            total = total + math.prod((r - p) / (places[j] - p) for p in others) * value
        return total

    return polynomial


def integral_of_the_polynomial_in_log_sigma(f: Functions, draw: Draw):
    order, grid, x = draw.integer(1, 4), levels(draw, 5), draw.normal(3, 2)
    slopes = [draw.normal(3, 2) for _ in grid]
    want = to_host(x)
    for n in range(5):
        last = range(n, max(-1, n - order), -1)
        curve = _through([math.log(grid[j]) for j in last], [to_host(slopes[j]) for j in last])
        want = want + _integral(lambda s, c=curve: c(math.log(s)), grid[n], grid[n + 1])
    return end(f.deis(order, "euler"), _slopes(slopes), x, grid), want, 10.0


def fractions_of_equal_steps(f: Functions, draw: Draw):
    """(1, 1)/2 by Heun, then (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24."""
    rows = ((3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    grid, x, slopes = levels(draw, 5), draw.normal(3, 2), [draw.normal(3, 2) for _ in range(6)]
    e = [to_host(slope) for slope in slopes]
    want = to_host(x) + 0.5 * (grid[1] - grid[0]) * (e[0] + e[1])
    known = [e[0]]
    for n in range(1, 5):
        known.insert(0, e[n + 1])
        row = rows[min(n, 3) - 1]
        want = want + (grid[n + 1] - grid[n]) * sum(w * k for w, k in zip(row, known, strict=False))
    return end(f.pndm(), _slopes(slopes), x, grid), want, 10.0


def _adams(draw: Draw, make, eta: float, order: int, weight):
    """Walk of predictions that do not depend on x: exact decay, plus `weight` of differences."""
    grid, x = levels(draw, 4), draw.normal(3, 2)
    x0s, noises = [draw.normal(3, 2) for _ in "1234"], [draw.normal(3, 2) for _ in "1234"]
    want, logs, stream = to_host(x), [-math.log(s) for s in grid], iter(x0s)
    wide = [to_host(y) for y in x0s]
    for n in range(4):
        h = logs[n + 1] - logs[n]
        k = (1.0 + eta) * h
        want = math.exp(-k) * want - math.expm1(-k) * wide[n]
        if n:
            want = want + weight(logs, wide, n, k, min(order, n + 1))
        want = want + grid[n + 1] * math.sqrt(-math.expm1(-2.0 * eta * h)) * to_host(noises[n])
    return end(make(eta), lambda y, sigma: next(stream), x, grid, noises), want, 10.0


def algorithm_2_and_its_integral_form(f: Functions, draw: Draw):
    """`midpoint` as published; `heun` is the integral of the line through two predictions."""
    solver, eta = ("midpoint", "heun")[draw.integer(0, 1)], draw.number(0.0, 1.0)

    def weight(logs, x0s, n, k, order):
        r = (logs[n] - logs[n - 1]) / (logs[n + 1] - logs[n])
        line = _integral(lambda u: k * math.exp(-k * (1.0 - u)) * u, 0.0, 1.0)
        half = -0.5 * math.expm1(-k)
        return (half if solver == "midpoint" else line) / r * (x0s[n] - x0s[n - 1])

    return _adams(draw, lambda eta: f.dpmpp_2m(eta, solver), eta, 2, weight)


def phi_functions_of_the_published_code(f: Functions, draw: Draw):
    """phi_2 = (e^-k - 1) / k + 1 and phi_3 = phi_2 / k - 1/2, on divided differences."""

    def weight(logs, x0s, n, k, order):
        h, phi2 = logs[n + 1] - logs[n], math.expm1(-k) / k + 1.0
        d1 = (x0s[n] - x0s[n - 1]) * h / (logs[n] - logs[n - 1])
        if order == 2:
            return phi2 * d1
        r0, r1 = (logs[n] - logs[n - 1]) / h, (logs[n - 1] - logs[n - 2]) / h
        d2 = (d1 - (x0s[n - 1] - x0s[n - 2]) / r1) / (r0 + r1)
        return phi2 * (d1 + d2 * r0) - (phi2 / k - 0.5) * d2

    return _adams(draw, f.dpmpp_3m, draw.number(0.0, 1.0), 3, weight)


def noise_prediction_of_the_published_code(f: Functions, draw: Draw):
    """In variance-preserving coordinates with alpha, sigma and lambda; the SDE form doubles."""
    solver, sde = ("midpoint", "heun")[draw.integer(0, 1)], draw.integer(0, 1)
    order = draw.integer(1, 2 if sde else 3)
    grid, x = levels(draw, 4), draw.normal(3, 2)
    slopes, noises = [draw.normal(3, 2) for _ in "1234"], [draw.normal(3, 2) for _ in "1234"]
    e = [to_host(slope) for slope in slopes]
    alphas = [1.0 / math.hypot(1.0, s) for s in grid]
    logs = [math.log(a) - math.log(s * a) for a, s in zip(alphas, grid, strict=True)]
    y = alphas[0] * to_host(x)
    for n in range(4):
        h, sigma, here = logs[n + 1] - logs[n], grid[n + 1] * alphas[n + 1], min(order, n + 1)
        b = sigma * (math.exp(h) - 1.0)
        move = b * e[n]
        if here > 1:
            r0 = (logs[n] - logs[n - 1]) / h
            d1 = (e[n] - e[n - 1]) / r0
            c1 = 0.5 * b if solver == "midpoint" and here == 2 else b / h - sigma
            if here == 3:
                r1 = (logs[n - 1] - logs[n - 2]) / h
                gap = d1 - (e[n - 1] - e[n - 2]) / r1
                d1 = d1 + r0 / (r0 + r1) * gap
                move = move + sigma * ((math.exp(h) - 1.0 - h) / h**2 - 0.5) / (r0 + r1) * gap
            move = move + c1 * d1
        y = alphas[n + 1] / alphas[n] * y - (1 + sde) * move
        if sde:
            y = y + sigma * math.sqrt(math.exp(2.0 * h) - 1.0) * to_host(noises[n])
    step = f.dpm_solver_multistep(order, float(sde), solver)
    return end(step, _slopes(slopes), x, grid, noises), y / alphas[-1], 10.0


def integrals_of_both_polynomials(f: Functions, draw: Draw):
    """Predictor and corrector through their predictions; B(h) / 2 where the paper has it."""
    order, variant = draw.integer(1, 3), ("bh1", "bh2")[draw.integer(0, 1)]
    grid, x, x0s = levels(draw, 5), draw.normal(3, 2), [draw.normal(3, 2) for _ in "12345"]
    logs, wide, stream = [-math.log(s) for s in grid], [to_host(y) for y in x0s], iter(x0s)

    def advance(y, n, nodes, half):
        h = logs[n + 1] - logs[n]
        y = math.exp(-h) * y
        if half:
            (j,) = (j for j in nodes if j != n)
            b = h if variant == "bh1" else -math.expm1(-h)
            r = (logs[j] - logs[n]) / h
            return y - math.expm1(-h) * wide[n] + 0.5 * b / r * (wide[j] - wide[n])
        curve = _through([logs[j] for j in nodes], [wide[j] for j in nodes])
        return y + _integral(lambda u: math.exp(u - logs[n + 1]) * curve(u), logs[n], logs[n + 1])

    point, want = to_host(x), to_host(x)
    for n in range(5):
        if n:  # point is the (corrected) start of the last step
            p = min(order, n)
            point = advance(point, n - 1, range(n - p, n + 1), p == 1)
        p = min(order, n + 1)
        want = advance(point, n, range(n - p + 1, n + 1), p == 2)
    return end(f.unipc(order, variant), lambda y, s: next(stream), x, grid), want, 10.0


QUADRATURE = "Gauss-Legendre quadrature"

IDENTITIES = [
    Identity("deis", QUADRATURE, integral_of_the_polynomial_in_log_sigma, 40),
    Identity("pndm", "published fractions", fractions_of_equal_steps, 8),
    Identity("dpmpp_2m", QUADRATURE, algorithm_2_and_its_integral_form, 20),
    Identity("dpmpp_3m", "k-diffusion's form", phi_functions_of_the_published_code, 60),
    Identity(
        "dpm_solver_multistep", "the published form", noise_prediction_of_the_published_code, 60
    ),
    Identity("unipc", QUADRATURE, integrals_of_both_polynomials, 40),
]
