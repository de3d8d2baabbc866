"""The displayed formulas of chapter 8, guidance."""

import numpy as np
import pytest
import sympy

from ldmref.math import classifier_free_guidance, x0_from_eps
from ldmref.testing import Mixture, three_modes


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_three_scores_are_one(sigma):
    """The score of the class, and of x in the joint density, is the sum of two scores."""
    problem = three_modes()
    y = 1
    one = Mixture(np.ones(1), problem.means[y : y + 1], problem.stds[y : y + 1])
    x = np.random.default_rng(0).standard_normal((6, 2))
    classifier = (
        problem.posterior_gradient(x, sigma)[:, y] / problem.posterior(x, sigma)[:, y, None]
    )
    score = problem.score(x, sigma) + classifier
    np.testing.assert_allclose(one.score(x, sigma), score, atol=1e-9)

    def log_joint(points):
        return np.log(problem.weights[y]) + one.log_density(points, sigma)

    h = 1e-5
    steps = np.eye(2) * h
    central = np.stack([(log_joint(x + s) - log_joint(x - s)) / (2 * h) for s in steps], axis=1)
    np.testing.assert_allclose(central, score, atol=1e-7)


def test_a_tilted_gaussian_moves_by_the_variance():
    x, mean, gradient, w = sympy.symbols("x mu g w", real=True)
    variance = sympy.symbols("Sigma", positive=True)
    tilted = -((x - mean) ** 2) / (2 * variance) + w * gradient * x
    moved = -((x - mean - w * variance * gradient) ** 2) / (2 * variance)
    assert sympy.simplify(sympy.diff(tilted - moved, x)) == 0


def test_weighting_and_noising_do_not_commute():
    r, w, noise = sympy.symbols("r w s2", positive=True)
    weighted_first = 1 / (w / r + 1 - w) + noise
    noised_first = 1 / (w / (r + noise) + (1 - w) / (1 + noise))
    gap = sympy.factor(sympy.together(weighted_first - noised_first))
    for agreement in ((w, 0), (w, 1), (noise, 0)):
        assert sympy.simplify(gap.subs(*agreement)) == 0
    # no other zero for 0 < r < 1, w > 1
    numerator = sympy.factor(sympy.numer(gap) / (w * (w - 1) * noise * (r - 1) ** 2))
    assert numerator.is_number or not numerator.free_symbols & {w}
    value = gap.subs({r: 0.25, w: 3, noise: 0.5})
    assert abs(value) > 0.01
    # both sides as products and convolutions of densities on a grid
    grid = np.linspace(-12, 12, 2401)

    def normal(v):
        return np.exp(-0.5 * grid**2 / v) / np.sqrt(2 * np.pi * v)

    def variance_of(density):
        return np.sum(density * grid**2) / density.sum()

    weighted = normal(0.25) ** 3 * normal(1.0) ** -2
    blurred = np.convolve(weighted, normal(0.5), "same")
    numbers = {r: 0.25, w: 3, noise: 0.5}
    assert variance_of(blurred) == pytest.approx(float(weighted_first.subs(numbers)), rel=1e-6)
    other = normal(0.75) ** 3 * normal(1.5) ** -2
    assert variance_of(other) == pytest.approx(float(noised_first.subs(numbers)), rel=1e-6)


def test_every_prediction_can_be_guided():
    rng = np.random.default_rng(0)
    x, uncond, cond = rng.standard_normal((3, 2, 5))
    of_eps = x0_from_eps(x, classifier_free_guidance(uncond, cond, 4.0), 0.4)
    of_x0 = classifier_free_guidance(x0_from_eps(x, uncond, 0.4), x0_from_eps(x, cond, 0.4), 4.0)
    np.testing.assert_allclose(of_eps, of_x0, atol=1e-12)
