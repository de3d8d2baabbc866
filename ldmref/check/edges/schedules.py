"""Edges of schedules: alpha-bar near 0, 1/2 and 1, first timesteps, neighbouring alpha-bars."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np

from ldmref.check.comparison import Comparison, spread, to_host
from ldmref.check.edges.exact import DIGITS, cosine, exact, exacts, logistic, pi
from ldmref.check.identity import Chapter, Functions
from ldmref.check.random_inputs import FormatLimits, RandomInputs

chapter = Chapter("schedules")


def near(limits: FormatLimits) -> float:
    """Return a small number that next to 1 keeps a third to a half of the digits."""
    return 1e-9 if limits.eps < 1e-10 else 1e-5


def ends(limits: FormatLimits) -> dict[str, float]:
    """Return alpha-bars near 0 and 1."""
    small = near(limits)
    return {
        f"alpha_bar = 1 - {small:g}": 1.0 - small,
        f"alpha_bar = 1 - {small / 50:g}": 1.0 - small / 50,
        f"alpha_bar = {small:g}": small,
        "alpha_bar = 1e-30": 1e-30,
    }


def with_middle(limits: FormatLimits) -> dict[str, float]:
    """Return alpha-bars near 0, 1/2 and 1; near 1/2 the logarithms of both sides cancel."""
    small = near(limits)
    middle = {
        f"alpha_bar = 1/2 + {small:g}": 0.5 + small,
        f"alpha_bar = 1/2 - {50 * small:g}": 0.5 - 50 * small,
    }
    return ends(limits) | middle


# Roundings: 4 of either logarithm, and 2 of ratio or difference, over a result of at least 2/3 of
# their size; up to 4 of atanh near 1/2.
@chapter.hard("log_snr", "logarithms with 60 digits", 10, with_middle)
def digits_of_the_exact_logarithm(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    alpha_bar = rng.array([edge])
    a = exact(alpha_bar)
    with localcontext(prec=DIGITS):
        expected = a.ln() - (1 - a).ln()
    return f.log_snr(alpha_bar), [float(expected)], 0.0


# Roundings: up to 8 by way of the roots of alpha-bar and 1 - alpha-bar.
@chapter.hard("snr", "a ratio with 60 digits", 8, ends)
def digits_of_the_exact_ratio(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    alpha_bar = rng.array([edge])
    a = exact(alpha_bar)
    with localcontext(prec=DIGITS):
        expected = a / (1 - a)
    return f.snr(alpha_bar), [float(expected)], 0.0


# Roundings: up to 8 by way of the roots of alpha-bar and 1 - alpha-bar.
@chapter.hard("sigma_from_alpha_bar", "a root with 60 digits", 8, ends)
def digits_of_the_exact_root(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    alpha_bar = rng.array([edge])
    a = exact(alpha_bar)
    with localcontext(prec=DIGITS):
        expected = ((1 - a) / a).sqrt()
    return f.sigma_from_alpha_bar(alpha_bar), [float(expected)], 0.0


def log_ratios(limits: FormatLimits) -> dict[str, float]:
    """Return log-SNRs whose alpha-bar is near 0 or 1."""
    values = [-40.0, -80.0, 40.0, 80.0, *([-700.0, 800.0] if limits.tiny < 1e-300 else [])]
    return {f"log_snr = {value:g}": value for value in values}


# Roundings: 8, and for negative ones |log_snr| / 2 of an argument that is rounded.
@chapter.hard("alpha_bar_from_log_snr", "an exponential with 60 digits", 8, log_ratios)
def digits_of_the_exact_logistic(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    log_snr = rng.array([edge])
    expected = float(logistic(exact(log_snr)))
    return f.alpha_bar_from_log_snr(log_snr), [expected], expected * (1 + max(-edge, 0.0) / 4)


def levels(limits: FormatLimits) -> dict[str, float]:
    """Return noise levels that are large or small."""
    return {f"sigma = {value:g}": value for value in (1e3, 1e6, 1e12, 1e-3)}


# Roundings: 2 of the square, 2 of sum and ratio, 2 more by way of a root.
@chapter.hard("alpha_bar_from_sigma", "a ratio with 60 digits", 6, levels)
def digits_of_the_exact_fraction(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    sigma = rng.array([edge])
    s = exact(sigma)
    with localcontext(prec=DIGITS):
        expected = 1 / (1 + s * s)
    return f.alpha_bar_from_sigma(sigma), [float(expected)], 0.0


def cosine_schedules(limits: FormatLimits) -> dict[str, tuple[int, float]]:
    """Return long cosine schedules, whose first betas are small."""
    return {
        "beta_1 of n = 1000, s = 0.008": (1000, 0.008),
        "beta_1 of n = 1000, s = 0": (1000, 0.0),
        "beta_1 of n = 10000, s = 0": (10_000, 0.0),
    }


# Roundings: 8; and 6 of angles near pi, amplified by pi over their distance from it.
@chapter.hard("cosine_betas", "the definition with 60 digits", 8, cosine_schedules)
def digits_of_small_betas(f: Functions, rng: RandomInputs, edge: tuple[int, float]) -> Comparison:
    n, s = edge
    offset = exact(s)
    indices = np.array([0, 1, 2, n // 20, n // 2])
    with localcontext(prec=DIGITS):

        def alpha_bar(t: int) -> Decimal:
            return cosine((Decimal(t) / n + offset) / (1 + offset) * pi() / 2) ** 2

        expected = [float(1 - alpha_bar(int(t) + 1) / alpha_bar(int(t))) for t in indices]
    distance = s / (1 + s) + (2 * indices + 1) / (2 * n * (1 + s))  # over pi
    return to_host(f.cosine_betas(n, s))[indices], expected, np.array(expected) * (1 + 1 / distance)


def logistic_schedules(limits: FormatLimits) -> dict[str, tuple[int, float]]:
    """Return logistic schedules that are saturated at their ends."""
    return {f"beta_1 of n = 1000, tau = {tau:g}": (1000, tau) for tau in (1.0, 0.3, 0.1)}


# Roundings: 16 and 4 (|start| + |end|) / tau, of which 16 count, in units of 1 + 1.5 / tau.
@chapter.hard("sigmoid_betas", "the definition with 60 digits", 16, logistic_schedules)
def digits_of_saturated_betas(
    f: Functions, rng: RandomInputs, edge: tuple[int, float]
) -> Comparison:
    n, tau = edge
    indices = np.array([0, 1, n // 20, n // 2])
    with localcontext(prec=DIGITS):

        def curve(t: int) -> Decimal:
            return logistic((-3 + 6 * Decimal(t) / n) / exact(tau))

        def ratio(t: int) -> Decimal:
            return (curve(n) - curve(t + 1)) / (curve(n) - curve(t))

        expected = [float(1 - ratio(int(t))) for t in indices]
    got = to_host(f.sigmoid_betas(n, -3.0, 3.0, tau))[indices]
    return got, expected, np.array(expected) * (1 + 1.5 / tau)


def neighbours(limits: FormatLimits) -> dict[str, tuple[float, float]]:
    """Return pairs (alpha_bar, alpha_bar_prev) of neighbouring timesteps, and of the first."""
    small = near(limits)
    return {
        f"alpha_bar_prev = alpha_bar + {small:g}": (0.5 - small, 0.5),
        f"alpha_bar_prev = 1 - {small:g}": (1.0 - 3 * small, 1.0 - small),
        f"alpha_bar = {small:g}": (small, 2 * small),
        "alpha_bar_prev = 1": (0.9, 1.0),
    }


# Roundings: 8 of each coefficient, whose differences of neighbours are exact.
@chapter.hard("q_posterior", "the coefficients with 60 digits", 16, neighbours)
def digits_of_both_coefficients(
    f: Functions, rng: RandomInputs, edge: tuple[float, float]
) -> Comparison:
    now, before = (rng.array([value]) for value in edge)
    one, zero = rng.array([[1.0]]), rng.array([[0.0]])
    of_x0, variance = f.q_posterior(one, zero, now, before)
    of_xt, _ = f.q_posterior(zero, one, now, before)
    a, p = exact(now), exact(before)
    with localcontext(prec=DIGITS):
        beta = 1 - a / p
        left = 1 - a
        coefficients = p.sqrt() * beta / left, (a / p).sqrt() * (1 - p) / left
        expected = [*coefficients, beta * (1 - p) / left]
    got: dict[str, Any] = {"coefficient of x0": of_x0, "coefficient of xt": of_xt}
    got["variance"] = spread(variance, one)
    return got, [[[float(value)]] for value in expected], 0.0


def nearly_noise(limits: FormatLimits) -> dict[str, float]:
    """Return alpha-bars near 0 and 0 itself, where x_t has no signal to divide by."""
    return {f"alpha_bar = {value:g}": value for value in (1e-6, 1e-12, 1e-30, 0.0)}


# Roundings: 3 of the coefficients, 3 of the products and the sum.
@chapter.hard("x0_from_v", "the rotation with 60 digits", 8, nearly_noise)
def data_in_v_where_no_signal_is_left(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    """Near pure noise x_0 is -v: nothing is divided by the root of alpha-bar."""
    alpha_bar = rng.array([edge])
    xt, v = rng.normals(2, 1, 3)
    a = exact(alpha_bar)
    with localcontext(prec=DIGITS):
        pairs = zip(exacts(xt), exacts(v), strict=True)
        expected = [[float(a.sqrt() * x - (1 - a).sqrt() * y) for x, y in pairs]]
    return f.x0_from_v(xt, v, alpha_bar), expected, 4.0


def first_neighbours(limits: FormatLimits) -> dict[str, tuple[float, float]]:
    """Return pairs of neighbouring timesteps that are not at 1."""
    return {name: pair for name, pair in neighbours(limits).items() if pair[1] < 1.0}


# Roundings: 8; the differences of neighbours are exact, and 1 - alpha-bar is rounded twice.
@chapter.hard("elbo_weight", "the signal-to-noise ratios with 60 digits", 12, first_neighbours)
def digits_of_a_small_difference(
    f: Functions, rng: RandomInputs, edge: tuple[float, float]
) -> Comparison:
    now, before = (rng.array([value]) for value in edge)
    (a,), (p,) = exacts(now), exacts(before)
    with localcontext(prec=DIGITS):
        expected = (p / (1 - p) - a / (1 - a)) / 2
    return f.elbo_weight(now, before), [float(expected)], 0.0
