"""The displayed formulas of docs/course/12-how-good-is-it.md, computed in a second way."""

import math

import numpy as np
import sympy as sp
from scipy.integrate import quad
from scipy.stats import norm

from ldmref.testing.mixture import Mixture


def test_density_of_scaled_data():
    """For a normal density in d = 3, whose scaled density is known."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(3)
    gamma = 0.18215
    plain = norm.logpdf(x, 0.3, 2.0).sum()
    scaled = norm.logpdf(gamma * x, gamma * 0.3, gamma * 2.0).sum()
    assert math.isclose(-scaled, -plain + 3 * math.log(gamma), rel_tol=1e-12)
    assert round(math.log2(127.5)) == 7 and round(-math.log(gamma), 1) == 1.7


def test_bound_of_a_latent_model():
    """Bound minus exact value is the divergence of the encoder from the posterior, so >= 0."""
    latents = Mixture(np.array([0.6, 0.4]), np.array([[1.0], [-1.2]]), np.array([0.3, 0.4]))
    size, x = 0.2, 0.7

    def prior(z):
        return float(latents.density(np.array([[z]]))[0])

    def joint(z):
        return norm.pdf(x, z, size) * prior(z)

    exact = -math.log(quad(joint, -3, 3, points=[x], epsabs=1e-12)[0])
    for mean, deviation in ((0.7, 0.2), (0.8, 0.17)):
        q = norm(mean, deviation)
        low, high = mean - 8 * deviation, mean + 8 * deviation

        def over_q(value, q=q, low=low, high=high):
            return quad(lambda z: q.pdf(z) * value(z), low, high, epsabs=1e-12)[0]

        decoder = over_q(lambda z: -norm.logpdf(x, z, size))
        entropy = over_q(lambda z, q=q: q.logpdf(z))
        third = over_q(lambda z: -math.log(prior(z)))
        gap = over_q(lambda z, q=q: q.logpdf(z) - math.log(joint(z)) - exact)
        bound = decoder + entropy + third
        assert bound > exact
        assert math.isclose(bound - exact, gap, rel_tol=1e-6)


def test_likelihood_of_a_mostly_broken_model():
    for p, noise in ((1e-3, 1e-9), (5.0, 0.1), (1e-8, 3.0)):
        assert -math.log(0.01 * p + 0.99 * noise) <= -math.log(p) + math.log(100)
    assert round(math.log(100), 1) == 4.6
    bits = math.log(100) / (128 * 128 * 3 * math.log(2))
    assert round(bits, 4) == 0.0001


def test_frechet_in_one_dimension():
    m1, m2, s1, s2, eps = sp.symbols("mu1 mu2 sigma1 sigma2 epsilon")
    square = sp.Poly(sp.expand((m1 - m2 + (s1 - s2) * eps) ** 2), eps)
    moments = {0: 1, 1: 0, 2: 1}
    mean = sum(factor * moments[power] for (power,), factor in square.terms())
    assert sp.simplify(mean - ((m1 - m2) ** 2 + (s1 - s2) ** 2)) == 0
    # no other way of moving is cheaper: sorted samples are the best pairs
    rng = np.random.default_rng(0)
    a, b = np.sort(rng.standard_normal((2, 7)), axis=1)
    cheapest = np.sum((a - b) ** 2)
    for _ in range(200):
        assert np.sum((a - rng.permutation(b)) ** 2) >= cheapest


def test_bias_of_the_means():
    """All samples of n = 2 from two equally likely points, so the expectation is a sum."""
    points = np.array([-1.0, 3.0])  # variance 4
    pairs = [(p + q) / 2 for p in points for q in points]
    expected = np.mean([(a - b) ** 2 for a in pairs for b in pairs])
    assert math.isclose(expected, 2 * 4.0 / 2)
