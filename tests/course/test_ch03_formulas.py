"""The formulas of chapter 3, computed in two ways: by quadrature, or with sympy."""

import numpy as np
import pytest
import sympy
from scipy.special import xlogy

A, NOISE, X = 2.0, 0.5, 1.5
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def log_normal(x, mean, variance):
    return -0.5 * (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance)


def test_evidence_and_posterior():
    """The evidence by an integral over z, and the posterior from Bayes' rule with it."""
    z, w = NODES, WEIGHTS
    evidence = w @ np.exp(log_normal(X, A * z, NOISE**2))
    total = A**2 + NOISE**2
    assert np.isclose(np.log(evidence), log_normal(X, 0.0, total))
    points = np.linspace(-1, 2, 7)
    bayes = log_normal(points, 0, 1) + log_normal(X, A * points, NOISE**2) - np.log(evidence)
    assert np.allclose(bayes, log_normal(points, A * X / total, NOISE**2 / total))


def test_second_moment_of_the_monte_carlo_terms():
    s = 0.3
    z = np.linspace(-12.0, 12.0, 200_001)
    dz = z[1] - z[0]
    prior = np.exp(log_normal(z, 0.0, 1.0))
    first, second = (np.sum(prior * np.exp(k * log_normal(1.0, z, s**2))) * dz for k in (1, 2))
    closed = (1 + s**2) / (s * np.sqrt(2 + s**2)) * np.exp(1 / (1 + s**2) - 1 / (2 + s**2))
    assert np.isclose(second / first**2, closed)
    assert round(closed, 1) == 3.9
    assert 2e9 < closed**16 < 4e9


def encoder():
    """Return samples of z with weights, log p(x, z) and log q(z|x), for a poor encoder."""
    mean, variance = 0.4, 0.2
    z = mean + np.sqrt(variance) * NODES
    joint = log_normal(z, 0.0, 1.0) + log_normal(X, A * z, NOISE**2)
    return z, WEIGHTS, joint, log_normal(z, mean, variance), mean, variance


def test_bound_line_by_line():
    z, w, joint, q, mean, variance = encoder()
    evidence = log_normal(X, 0.0, A**2 + NOISE**2)
    grid = np.linspace(-10, 10, 20_001)
    integrand = np.exp(log_normal(grid, 0.0, 1.0) + log_normal(X, A * grid, NOISE**2))
    assert np.isclose(np.log(integrand.sum() * (grid[1] - grid[0])), evidence)
    ratio_mean = np.log(w @ np.exp(joint - q))
    assert np.isclose(ratio_mean, evidence)
    jensen = w @ (joint - q)
    assert jensen < evidence
    split = w @ log_normal(X, A * z, NOISE**2) + w @ (log_normal(z, 0.0, 1.0) - q)
    assert np.isclose(split, jensen)
    divergence = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    assert np.isclose(w @ log_normal(X, A * z, NOISE**2) - divergence, jensen)


def test_elbo_identity():
    """The gap is the divergence from the posterior, for a poor encoder and for the posterior."""
    z, w, joint, q, *_ = encoder()
    total = A**2 + NOISE**2
    posterior = log_normal(z, A * X / total, NOISE**2 / total)
    evidence = log_normal(X, 0.0, total)
    assert np.allclose(joint - posterior, evidence)
    gap = w @ (q - posterior)
    assert gap > 0.1
    assert np.isclose(w @ (joint - q) + gap, evidence)


def test_kl_by_second_moments():
    """Every line of the derivation, with the moments of a Gaussian from sympy."""
    z, m, l = sympy.symbols("z m l", real=True)
    density = sympy.exp(-((z - m) ** 2) * sympy.exp(-l) / 2 - l / 2) / sympy.sqrt(2 * sympy.pi)

    def moment(f):
        return sympy.simplify(sympy.integrate(sympy.expand(f) * density, (z, -sympy.oo, sympy.oo)))

    assert sympy.simplify(moment((z - m) ** 2) - sympy.exp(l)) == 0
    assert sympy.simplify(moment(z**2) - m**2 - sympy.exp(l)) == 0
    expanded = -l / 2 - sympy.exp(-l) * moment((z - m) ** 2) / 2 + moment(z**2) / 2
    closed = (m**2 + sympy.exp(l) - 1 - l) / 2
    assert sympy.simplify(expanded - closed) == 0


def test_kl_sums_over_entries():
    """A joint density of two entries, by quadrature in the plane."""
    mean, logvar = np.asarray([0.4, -1.0]), np.asarray([-0.5, 0.3])
    z = mean[:, None] + np.exp(0.5 * logvar)[:, None] * NODES
    q = [log_normal(z[j], mean[j], np.exp(logvar[j])) for j in (0, 1)]
    p = [log_normal(z[j], 0.0, 1.0) for j in (0, 1)]
    difference = (q[0] - p[0])[:, None] + (q[1] - p[1])[None, :]
    joint = WEIGHTS @ difference @ WEIGHTS
    assert np.isclose(joint, np.sum(0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)))


@pytest.mark.parametrize(("logvar", "cost"), [(-5.0, 4.0), (5.0, 142.0)])
def test_costs_of_variances(logvar, cost):
    assert round(np.exp(logvar) - 1 - logvar, 0) == cost


def test_gradients_through_sampling():
    """Both estimators against differences of the expectation, for an h without symmetry."""
    m, logvar, step = 0.3, -0.7, 1e-5

    def h(z):
        return np.sin(z) + z**3

    def expectation(m, logvar):
        return WEIGHTS @ h(m + np.exp(0.5 * logvar) * NODES)

    by_m = (expectation(m + step, logvar) - expectation(m - step, logvar)) / (2 * step)
    by_l = (expectation(m, logvar + step) - expectation(m, logvar - step)) / (2 * step)
    z = m + np.exp(0.5 * logvar) * NODES
    slope = np.cos(z) + 3 * z**2
    assert np.isclose(WEIGHTS @ (h(z) * (z - m) * np.exp(-logvar)), by_m)
    assert np.isclose(WEIGHTS @ slope, by_m)
    assert np.isclose(WEIGHTS @ (slope * 0.5 * np.exp(0.5 * logvar) * NODES), by_l)


def test_gaussian_decoder_is_weighted_squared_error():
    """The product of densities, and the constant that remains of -2 s^2 ELBO."""
    rng = np.random.default_rng(0)
    x, decoded = rng.standard_normal((2, 5))
    s2, d, divergence = 0.3, 5, 0.8
    density = np.exp(-((x - decoded) ** 2) / (2 * s2)) / np.sqrt(2 * np.pi * s2)
    square = np.sum((x - decoded) ** 2)
    log_likelihood = -square / (2 * s2) - 0.5 * d * np.log(2 * np.pi * s2)
    assert np.isclose(np.log(np.prod(density)), log_likelihood)
    loss = -2 * s2 * (np.log(np.prod(density)) - divergence)
    assert np.isclose(loss - (square + 2 * s2 * divergence), s2 * d * np.log(2 * np.pi * s2))


def test_variance_of_a_batch():
    """All outcomes of a batch of two images with two samples each, counted."""
    g = np.asarray([[1.0, 3.0, 8.0], [-2.0, 0.5, 4.0]])  # two images, three noises
    means = []
    rows = range(2)
    for i in rows:
        for j in rows:
            for noise in np.ndindex(3, 3, 3, 3):
                taken = g[i, noise[0]] + g[i, noise[1]] + g[j, noise[2]] + g[j, noise[3]]
                means.append(taken / 4)
    closed = (g.mean(axis=1).var() + g.var(axis=1).mean() / 2) / 2
    assert np.isclose(np.var(means), closed)


def test_cross_entropy_is_entropy_plus_divergence():
    x, p = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0.05, 0.95, 7))
    cross = -(x * np.log(p) + (1 - x) * np.log(1 - p))
    entropy = -xlogy(x, x) - xlogy(1 - x, 1 - x)
    divergence = xlogy(x, x / p) + xlogy(1 - x, (1 - x) / (1 - p))
    np.testing.assert_allclose(cross, entropy + divergence, atol=1e-12)
    bits = (x == 0) | (x == 1)
    np.testing.assert_allclose(cross[bits], divergence[bits])
    np.testing.assert_allclose(cross[bits], -np.log(np.where(x == 1, p, 1 - p))[bits])
    # the text: curvature near the optimum, and a density that does not integrate to one
    close = 0.3 + 1e-3
    excess = -(0.3 * np.log(close) + 0.7 * np.log(1 - close)) + 0.3 * np.log(0.3)
    assert excess + 0.7 * np.log(0.7) == pytest.approx(1e-6 / (2 * 0.3 * 0.7), rel=1e-2)
    grey = np.linspace(0, 1, 1001)
    assert np.trapezoid(0.9**grey * 0.1 ** (1 - grey), grey) == pytest.approx(0.364, abs=1e-3)


def test_the_prior_has_no_axes():
    """A turned linear decoder has the same evidence, and a turned posterior the same bound."""
    rng = np.random.default_rng(4)
    a, noise = rng.standard_normal((5, 3)), 0.4
    u = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    z = rng.standard_normal((6, 3))
    np.testing.assert_allclose((z @ u.T) ** 2 @ np.ones(3), (z**2) @ np.ones(3))
    turned = a @ u.T
    np.testing.assert_allclose(turned @ turned.T, a @ a.T, atol=1e-12)  # so p(x) is the same
    precisions = [np.eye(3) + m.T @ m / noise**2 for m in (a, turned)]
    np.testing.assert_allclose(precisions[1], u @ precisions[0] @ u.T, atol=1e-12)
    off = precisions[1] - np.diag(np.diag(precisions[1]))
    assert np.abs(off).max() > 0.1  # a turned posterior has dependent entries
