"""Likelihoods along the probability flow: integration, derivatives and divergence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("score")
SIGNS = np.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))


def exponential_of_rk4(z: float) -> float:
    """Return one Runge-Kutta step of x' = a x, z = a h: the exponential series to order 4."""
    return sum(z**i / math.factorial(i) for i in range(5))


# Roundings: 12 in each of two steps, 6 in the oracle.
@chapter.identity("integrate_rk4", "the exponential series", 30)
def exponential_series(f: Functions, rng: RandomInputs) -> Comparison:
    """Take two unequal steps, forward and back."""
    x = rng.normal(3, 2)
    a = rng.number(-2.0, 2.0)
    h = rng.number(0.1, 1.0)
    k = rng.number(-1, 0)
    got = f.integrate_rk4(lambda x, t: a * x, x, [0.5, 0.5 + h, 0.5 + h + k])
    return got, to_host(x) * exponential_of_rk4(a * h) * exponential_of_rk4(a * k), 10.0


# Roundings: 6 on each side, of values up to 4 of a scale of 5.
@chapter.identity("integrate_rk4", "the antiderivative", 8)
def integral_of_a_cubic(f: Functions, rng: RandomInputs) -> Comparison:
    c = rng.numpy.uniform(-1, 1, 4)
    start = rng.number(-1.0, 0.0)
    end = rng.number(0.0, 1.0)
    x = rng.normal(3)
    got = f.integrate_rk4(lambda x, t: float(np.polyval(c, t)) + 0.0 * x, x, [start, end])
    increase = np.diff(np.polyval(np.polyint(c), [start, end]))
    return got, to_host(x) + increase, 5.0


# Roundings: 3 of two values up to 4.5, and of the points, over twice the step.
@chapter.identity("directional_derivative", "the derivative of a quadratic", 6)
def jacobian_of_a_quadratic(f: Functions, rng: RandomInputs) -> Comparison:
    """Use a function whose difference is exact: only rounding over the step eps^(1/3) remains."""
    x = rng.uniform(-1, 1, 3, 2)
    v = rng.uniform(-1, 1, 3, 2)
    c = rng.normal(3, 2)
    t = 0.5
    got = f.directional_derivative(lambda x, t: t * x * x + c * x, x, t, v)
    h = float(rng.xp.finfo(rng.dtype).eps) ** (1.0 / 3.0)
    return got, (2.0 * t * x + c) * v, 4.0 / h


def linear_field(rng: RandomInputs) -> tuple[Array, Callable[..., Array]]:
    """Return the matrix A of u = A x, and the exact J v as `derivative(velocity, x, t, v)`."""
    a = rng.normal(3, 3)
    return a, lambda velocity, x, t, v: (0.0 * x + v) @ rng.xp.matrix_transpose(a)


# Roundings: sums of 3 on each side.
@chapter.identity("exact_divergence", "numpy.trace", 6)
def trace_of_a_matrix(f: Functions, rng: RandomInputs) -> Comparison:
    a, derivative = linear_field(rng)
    got = f.exact_divergence(None, rng.normal(1, 3), 0.0, derivative)
    return got, [np.trace(to_host(a))], 5.0


# Roundings: each a sum of 9 terms near 1, of a scale of 10; the mean.
@chapter.identity("hutchinson_divergence", "all sign vectors", 10)
def mean_over_all_signs(f: Functions, rng: RandomInputs) -> Comparison:
    (a, derivative) = linear_field(rng)
    probes = rng.array(SIGNS[:, None, :])
    got = f.hutchinson_divergence(None, rng.normal(1, 3), 0.0, probes, derivative)
    return got, [np.trace(to_host(a))], 10.0


# Roundings: 12 of squares up to 700, of weight 1/7, of a scale of 30; as many are subtracted.
@chapter.identity(
    "hutchinson_variance", "all sign vectors, and Gauss-Hermite quadrature", 60, amplified=3
)
def spread_over_all_signs(f: Functions, rng: RandomInputs) -> Comparison:
    """Use the nodes of an exact quadrature for normal probes."""
    a = rng.normal(3, 3)
    expected = []
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weight = np.prod(list(itertools.product(weights / weights.sum(), repeat=3)), axis=1)
    for v, w in ((np.asarray(list(itertools.product(nodes, repeat=3))), weight), (SIGNS, 1 / 8)):
        values = np.einsum("ki,ij,kj->k", v, to_host(a), v)
        expected.append([np.sum(w * values**2) - np.sum(w * values) ** 2])
    return [f.hutchinson_variance(a[None, ...], signs) for signs in (False, True)], expected, 30.0


# Roundings: 12 in each of two steps, doubled by the square; 2 of the sum.
@chapter.identity(
    "flow_log_likelihood",
    "the density of a stretched normal variable",
    50,
    uses=("VPSDE",),
    amplified=2,
)
def stretched_normal_density(f: Functions, rng: RandomInputs) -> Comparison:
    """x' = a x multiplies by the integrator's own series P: log N(P^2 x) + D a T."""
    x = rng.normal(3, 2)
    a = rng.number(-1.0, 1.0)
    functions = lambda x, t: a * x, lambda x, t: 0.0 * x[:, 0] + 2.0 * a, f.VPSDE().log_prior
    nats, end = f.flow_log_likelihood(*functions, x, [0.0, 0.25, 0.5])
    last = exponential_of_rk4(0.25 * a) ** 2 * to_host(x)
    log_density = -0.5 * (last**2).sum(axis=1) - math.log(2 * math.pi) + a
    return {"state": end, "log-density": nats}, [last, log_density], 20.0


# -- mistakes --------------------------------------------------------------------------------------


def from_squares_of_the_matrix(jacobian: Array, rademacher: bool = True) -> Array:
    """Take the squares of J in place of those of its symmetric part."""
    others = 1.0 - np.eye(jacobian.shape[-1]) if rademacher else 1.0
    return 2.0 * np.sum(jacobian**2 * others, axis=(1, 2))


chapter.known_mistakes(
    "hutchinson_variance",
    {"the squares are those of J; of its symmetric part is meant": from_squares_of_the_matrix},
)
