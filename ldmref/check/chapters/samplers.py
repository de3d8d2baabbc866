"""Samplers: each step against its published formula, in another form than the step computes it."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host
from ldmref.samplers import sample
from ldmref.samplers.runge_kutta import RK4


def levels(draw: Draw, steps: int) -> list[float]:
    """Decreasing levels, no two ratios alike."""
    sigmas = [draw.number(2.0, 6.0)]
    for _ in range(steps):
        sigmas.append(sigmas[-1] * draw.number(0.4, 0.8))
    return sigmas


def _model(draw: Draw):
    """(denoiser, the same on the host): linear in x."""
    gain, shift = draw.number(0.1, 0.9), draw.normal(3, 2)
    wide = to_host(shift)
    return (
        lambda x, sigma: (gain / (1.0 + sigma)) * x + shift,
        lambda x, sigma: (gain / (1.0 + sigma)) * x + wide,
    )


def end(step, denoise, x, grid, noises=()):
    """Where a walk ends; it takes the noises in turn."""
    stream = iter(noises)
    return list(sample(denoise, x, grid, step, noise=lambda: next(stream)))[-1].x


def _vp(sigma: float) -> tuple[float, float]:
    """(alpha, sigma) of the variance-preserving process: their squares sum to 1."""
    alpha = 1.0 / math.hypot(1.0, sigma)
    return alpha, sigma * alpha


def eta_one_is_the_posterior_of_ddpm(f: Functions, draw: Draw):
    (s, t), x0, xt, eps = levels(draw, 1), draw.normal(3, 2), draw.normal(3, 2), draw.normal(3, 2)
    now, before = _vp(s)[0] ** 2, _vp(t)[0] ** 2
    mean, variance = f.q_posterior(x0, xt, now, before)
    got = end(f.ancestral(1.0), lambda x, sigma: x0, xt / now**0.5, [s, t], [eps])
    return got, (mean + float(variance) ** 0.5 * eps) / before**0.5, 10.0


def _ddim(draw: Draw, make):
    """Equation 12 in alpha-bar, divided by its root."""
    eta, (s, t) = draw.number(0.0, 1.0), levels(draw, 1)
    x0, x, eps = draw.normal(3, 2), draw.normal(3, 2), draw.normal(3, 2)
    (a, b), (ap, bp) = _vp(s), _vp(t)
    up = eta * (bp / b) * math.sqrt(1 - (a / ap) ** 2)
    noise = (a * to_host(x) - a * to_host(x0)) / b
    want = to_host(x0) + (math.sqrt(bp**2 - up**2) * noise + up * to_host(eps)) / ap
    return end(make(eta), lambda y, sigma: x0, x, [s, t], [eps]), want, 4.0


def equation_12_of_ddim_for_any_eta(f: Functions, draw: Draw):
    return _ddim(draw, f.ancestral)


def straight_line_becomes_ddim_for_any_eta(f: Functions, draw: Draw):
    return _ddim(draw, lambda eta: f.with_noise(f.ancestral(0.0), eta))


def usual_form_in_slopes(f: Functions, draw: Draw, name: str):
    (s, t), x, (denoise, wide) = levels(draw, 1), draw.normal(3, 2), _model(draw)
    start, h = to_host(x), t - s

    def slope(y, sigma):
        return (y - wide(y, sigma)) / sigma

    first = slope(start, s)
    if name == "heun":
        want = start + 0.5 * h * (first + slope(start + h * first, t))
    else:
        want = start + h * slope(start + 0.5 * h * first, 0.5 * (s + t))
    return end(getattr(f, name)(), denoise, x, [s, t]), want, 4.0


def usual_form_of_heun_in_slopes(f: Functions, draw: Draw):
    return usual_form_in_slopes(f, draw, "heun")


def usual_form_of_midpoint_in_slopes(f: Functions, draw: Draw):
    return usual_form_in_slopes(f, draw, "midpoint")


def _polynomial_slope(draw: Draw, step, degree: int, grid):
    """A slope that is a polynomial in sigma: the walk adds its antiderivative."""
    x, c = draw.normal(3, 2), [draw.normal(3, 2) for _ in range(degree + 1)]
    top = grid[0]  # in units of which the polynomial is taken

    def denoise(y, sigma):
        return y - sigma * sum((sigma / top) ** k * a for k, a in enumerate(c))

    change = [top * ((grid[-1] / top) ** (k + 1) - 1) / (k + 1) for k in range(degree + 1)]
    want = to_host(x) + sum(d * to_host(a) for d, a in zip(change, c, strict=True))
    return end(step, denoise, x, grid), want, 4.0 * top


def classical_method_is_exact_for_cubic_slopes(f: Functions, draw: Draw):
    return _polynomial_slope(draw, f.runge_kutta(RK4), 3, levels(draw, 2))


def simpsons_rule_for_cubic_slopes(f: Functions, draw: Draw):
    return _polynomial_slope(draw, f.rk4(), 3, levels(draw, 2))


def exact_for_slopes_of_degree_four(f: Functions, draw: Draw):
    return _polynomial_slope(draw, f.rk45(), 4, levels(draw, 2))


def exact_for_cubic_slopes(f: Functions, draw: Draw):
    return _polynomial_slope(draw, f.lms(), 3, levels(draw, 6))


def algorithms_in_the_noise_prediction(f: Functions, draw: Draw):
    """DPM-Solver-2 and -3 in variance-preserving coordinates, as the paper writes them."""
    (s, t), x, (denoise, wide) = levels(draw, 1), draw.normal(3, 2), _model(draw)
    h = math.log(s / t)

    def eps(y, sigma):
        return (y / _vp(sigma)[0] - wide(y / _vp(sigma)[0], sigma)) / sigma

    def move(y, slope, low):
        (a, _), (ap, bp) = _vp(s), _vp(low)
        return (ap / a) * y - bp * math.expm1(math.log(s / low)) * slope

    def bend(r):
        return math.expm1(r * h) / (r * h) - 1.0

    y = _vp(s)[0] * to_host(x)
    first, half, s1, s2 = eps(y, s), s * math.exp(-h / 2), s * math.exp(-h / 3), t * math.exp(h / 3)
    second = move(y, eps(move(y, first, half), half), t)
    d1 = eps(move(y, first, s1), s1) - first
    u2 = move(y, first, s2) - 2.0 * _vp(s2)[1] * bend(2 / 3) * d1
    third = move(y, first, t) - 1.5 * _vp(t)[1] * bend(1.0) * (eps(u2, s2) - first)
    got = [end(f.dpm_solver(order), denoise, x, [s, t]) for order in (2, 3)]
    return draw.xp.stack(got), np.stack([second, third]) / _vp(t)[0], 10.0


def _data_move(y, s: float, t: float, x0):
    """(sigma'/sigma) x - alpha' (e^-h - 1) x0, with the sigmas of the VP process."""
    (_, b), (ap, bp) = _vp(s), _vp(t)
    return (bp / b) * y - ap * math.expm1(-math.log(s / t)) * x0


def algorithm_1_in_the_data_prediction(f: Functions, draw: Draw):
    (s, t), x, (denoise, wide) = levels(draw, 1), draw.normal(3, 2), _model(draw)
    y, middle = _vp(s)[0] * to_host(x), math.sqrt(s * t)
    x0 = wide(to_host(x), s)
    u = _data_move(y, s, middle, x0) / _vp(middle)[0]
    want = _data_move(y, s, t, wide(u, middle)) / _vp(t)[0]  # with r = 1/2, x0 drops out
    return end(f.dpmpp_2s(), denoise, x, [s, t]), want, 4.0


def two_noises_as_in_k_diffusion(f: Functions, draw: Draw):
    eta, r, (s, t) = draw.number(0.0, 1.0), draw.number(0.3, 1.0), levels(draw, 1)
    x, noises, (denoise, wide) = draw.normal(3, 2), [draw.normal(3, 2) for _ in "12"], _model(draw)
    start, middle, want = to_host(x), s * (t / s) ** r, np.zeros(())
    x0 = mixed = wide(start, s)
    for level, noise in zip((middle, t), noises, strict=True):
        up = min(level, eta * math.sqrt(level**2 * (s**2 - level**2) / s**2))
        down = math.sqrt(level**2 - up**2)
        want = (down / s) * start + (1.0 - down / s) * mixed + up * to_host(noise)
        mixed = (1.0 - 0.5 / r) * x0 + (0.5 / r) * wide(want, middle)
    return end(f.dpmpp_sde(eta, r), denoise, x, [s, t], noises), want, 10.0


def jump_is_the_forward_process(f: Functions, draw: Draw):
    (s, t), x0, eps = levels(draw, 1), draw.normal(3, 2), draw.normal(3, 2)
    level = _vp(t)[0] ** 2
    got = end(f.lcm(), lambda x, sigma: x0, draw.normal(3, 2), [s, t], [eps])
    return got, f.q_sample(x0, level, eps) / level**0.5, 4.0


def constant_slope_is_followed_up(f: Functions, draw: Draw):
    grid, x, eps = levels(draw, 4)[::-1], draw.normal(3, 2), draw.normal(3, 2)
    got = list(f.invert(lambda y, sigma: y - sigma * eps, x, grid))[-1].x
    return got, to_host(x) + (grid[-1] - grid[0]) * to_host(eps), 10.0


BAYES, POLYNOMIAL = "Bayes' rule", "antiderivatives"

IDENTITIES = [
    Identity("ancestral", BAYES, eta_one_is_the_posterior_of_ddpm, 8, ("q_posterior",)),
    Identity("ancestral", "the paper's form", equation_12_of_ddim_for_any_eta, 8),
    Identity("with_noise", "DDIM", straight_line_becomes_ddim_for_any_eta, 10, ("ancestral",)),
    Identity("heun", "slopes", usual_form_of_heun_in_slopes, 4),
    Identity("midpoint", "slopes", usual_form_of_midpoint_in_slopes, 4),
    Identity("runge_kutta", POLYNOMIAL, classical_method_is_exact_for_cubic_slopes, 8),
    Identity("rk4", POLYNOMIAL, simpsons_rule_for_cubic_slopes, 8),
    Identity("rk45", POLYNOMIAL, exact_for_slopes_of_degree_four, 10),
    Identity("lms", POLYNOMIAL, exact_for_cubic_slopes, 10),
    Identity("dpm_solver", "the paper's form", algorithms_in_the_noise_prediction, 2),
    Identity("dpmpp_2s", "the paper's form", algorithm_1_in_the_data_prediction, 4),
    Identity("dpmpp_sde", "k-diffusion's form", two_noises_as_in_k_diffusion, 4),
    Identity("lcm", "the forward process", jump_is_the_forward_process, 8, ("q_sample",)),
    Identity("invert", "a straight path", constant_slope_is_followed_up, 8),
]
