"""The displayed formulas of docs/course/11-editing.md, computed in a second way."""

import math

import numpy as np
import sympy as sp

from ldmref.samplers import SAMPLERS, implicit, invert, sample
from ldmref.testing.mixture import three_modes


def test_share_that_survives():
    b, variance, sigma, x0, eps = sp.symbols("b Sigma sigma x0 epsilon", positive=True)
    # the mean of the square: x0^2 -> Sigma, eps^2 -> 1, x0 eps -> 0
    square = sp.Poly(sp.expand((x0 - b * (x0 + sigma * eps)) ** 2), x0, eps)
    moments = {(2, 0): variance, (0, 2): 1, (1, 1): 0}
    error = sum(factor * moments[powers] for powers, factor in square.terms())
    assert sp.simplify(error - ((1 - b) ** 2 * variance + b**2 * sigma**2)) == 0
    (best,) = sp.solve(sp.diff(error, b), b)
    assert sp.simplify(best - variance / (variance + sigma**2)) == 0


def test_score_of_the_unknown_part():
    """For a joint normal density, against the conditional normal density's own score."""
    u, k = sp.symbols("u k", real=True)
    r, sigma = sp.Rational(9, 10), sp.Rational(1, 2)
    covariance = sp.Matrix([[1 + sigma**2, r], [r, 1 + sigma**2]])
    x = sp.Matrix([u, k])
    joint = -(x.T * covariance.inv() * x)[0] / 2
    mean = r / (1 + sigma**2) * k
    variance = 1 + sigma**2 - r**2 / (1 + sigma**2)
    assert sp.simplify(sp.diff(joint, u) + (u - mean) / variance) == 0


def test_implicit_step_returns():
    """A converged implicit step up, followed by a DDIM step down, is the identity."""
    problem = three_modes()
    x = problem.sample(20, np.random.default_rng(0))
    up = list(invert(problem.denoise, x, [0.5, 0.6], implicit(60)))[-1].x
    slope = (up - problem.denoise(up, 0.6)) / 0.6
    np.testing.assert_allclose(up, x + (0.6 - 0.5) * slope, atol=1e-12)
    down = list(sample(problem.denoise, up, [0.6, 0.5], SAMPLERS["ddim"].make(0.0)))[-1].x
    np.testing.assert_allclose(down, x, atol=1e-12)
    np.testing.assert_allclose(up + (0.5 - 0.6) * slope, x, atol=1e-12)


def test_length_of_noise():
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    mean = weights @ nodes**2
    variance = weights @ nodes**4 - mean**2
    assert math.isclose(mean, 1.0) and math.isclose(variance, 2.0)  # of each of d independent terms


def test_length_of_a_lerp():
    r, a, b = sp.symbols("r a b")
    square = sp.Poly(sp.expand(((1 - r) * a + r * b) ** 2), a, b)
    moments = {(2, 0): 1, (0, 2): 1, (1, 1): 0}
    mean = sum(factor * moments[powers] for powers, factor in square.terms())
    assert sp.simplify(mean - ((1 - r) ** 2 + r**2)) == 0
    assert mean.subs(r, sp.Rational(1, 2)) == sp.Rational(1, 2)
    # 4096 numbers: the midpoint is about 27 standard deviations of the length too short
    deviation = math.sqrt(2 * 4096) / (2 * 64)
    assert 26 < (64 - math.sqrt(2048)) / deviation < 27


def test_repaints_jump_is_the_forward_step():
    s, t, x0, eps, fresh = sp.symbols("sigma sigma_next x0 epsilon fresh", positive=True)
    now, after = 1 / (1 + s**2), 1 / (1 + t**2)
    beta = 1 - after / now
    step = sp.sqrt(1 - beta) * sp.sqrt(now) * (x0 + s * eps) + sp.sqrt(beta) * fresh
    jump = sp.sqrt(after) * (x0 + s * eps + sp.sqrt(t**2 - s**2) * fresh)
    values = {s: 0.7, t: 1.9, x0: 0.3, eps: 1.1, fresh: 0.4}
    assert abs((step - jump).subs(values).evalf()) < 1e-12


def test_great_circle():
    r, angle = sp.symbols("r varpi", positive=True)
    first = sp.cos(r * angle) - sp.sin(r * angle) * sp.cos(angle) / sp.sin(angle)
    assert sp.simplify(first - sp.sin((1 - r) * angle) / sp.sin(angle)) == 0
    a = np.array([3.0, 4.0, 0.0])
    b = np.array([0.0, 3.0, 4.0])
    omega = math.acos(12 / 25)
    perpendicular = (b - math.cos(omega) * a) / math.sin(omega)
    assert abs(perpendicular @ a) < 1e-12 and math.isclose(np.linalg.norm(perpendicular), 5.0)
    for share in (0.2, 0.5):
        left, right = (math.sin(u * omega) / math.sin(omega) for u in (1 - share, share))
        mixed = left * a + right * b
        circle = math.cos(share * omega) * a + math.sin(share * omega) * perpendicular
        np.testing.assert_allclose(mixed, circle, rtol=1e-12)
        assert math.isclose(np.linalg.norm(mixed), 5.0)
