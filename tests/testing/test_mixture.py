"""The analytic mixture against scipy, quadrature and derivatives at 50 digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import multivariate_normal

from ldmref.testing.mixture import Mixture, three_modes

mpmath.mp.dps = 50
PROBLEM = three_modes()
POINTS = hnp.arrays(np.float64, (3, 2), elements=st.floats(-4, 4))
SIGMAS = st.one_of(st.just(0.0), st.floats(0.05, 5))


def components(sigma):
    """(weight, frozen distribution) of each component at sigma."""
    for w, m, s in zip(PROBLEM.weights, PROBLEM.means, PROBLEM.stds, strict=True):
        yield w, multivariate_normal(m, (s**2 + sigma**2) * np.eye(2))


def log_density(x, y, sigma):
    """With mpmath, which can differentiate it."""
    total = mpmath.mpf(0)
    for w, m, s in zip(PROBLEM.weights, PROBLEM.means, PROBLEM.stds, strict=True):
        v = mpmath.mpf(s) ** 2 + mpmath.mpf(sigma) ** 2
        square = (x - mpmath.mpf(m[0])) ** 2 + (y - mpmath.mpf(m[1])) ** 2
        total += mpmath.mpf(w) * mpmath.exp(-square / (2 * v)) / (2 * mpmath.pi * v)
    return mpmath.log(total)


def derivative(point, order, sigma):
    x, y = map(mpmath.mpf, map(float, point))
    return float(mpmath.diff(lambda a, b: log_density(a, b, sigma), (x, y), order))


@given(POINTS, SIGMAS)
def test_density_and_posterior_equal_scipy(x, sigma):
    terms = np.stack([w * p.pdf(x) for w, p in components(sigma)], axis=1)
    total = terms.sum(axis=1)
    np.testing.assert_allclose(PROBLEM.density(x, sigma), total, rtol=1e-11)
    np.testing.assert_allclose(PROBLEM.log_density(x, sigma), np.log(total), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(PROBLEM.posterior(x, sigma), terms / total[:, None], rtol=1e-9)


def test_sigma_is_0_unless_given():
    x = np.asarray([[0.3, -0.7], [1.0, 2.0]])
    for name in (
        "log_density",
        "density",
        "posterior",
        "posterior_gradient",
        "score",
        "score_jacobian",
        "score_divergence",
    ):
        function = getattr(PROBLEM, name)
        np.testing.assert_array_equal(function(x), function(x, 0.0))


@pytest.mark.parametrize("sigma", [0.0, 0.4, 3.0])
def test_derivatives_equal_mpmath(sigma):
    x = np.asarray([[0.3, -0.7], [1.5, 0.2], [-2.0, 3.0]])
    first = [[derivative(p, k, sigma) for k in ((1, 0), (0, 1))] for p in x]
    mixed = [derivative(p, (1, 1), sigma) for p in x]
    second = [[derivative(p, k, sigma) for k in ((2, 0), (0, 2))] for p in x]
    hessian = np.asarray([[[a, m], [m, b]] for (a, b), m in zip(second, mixed, strict=True)])
    np.testing.assert_allclose(PROBLEM.score(x, sigma), first, rtol=1e-11)
    np.testing.assert_allclose(PROBLEM.score_jacobian(x, sigma), hessian, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(PROBLEM.score_divergence(x, sigma), np.sum(second, 1), rtol=1e-10)
    jacobian = np.eye(2) + sigma**2 * hessian
    np.testing.assert_allclose(PROBLEM.denoise_jacobian(x, sigma), jacobian, rtol=1e-9, atol=1e-12)
    trace = np.trace(jacobian, axis1=1, axis2=2)
    np.testing.assert_allclose(PROBLEM.denoise_divergence(x, sigma), trace, rtol=1e-9)


@given(POINTS, st.floats(0.05, 5))
def test_posterior_gradient_equals_differences(x, sigma):
    """Truncation, h^2 / 6 times the third derivative, is below 2e-8: that is at most about k^3 / 8,
    with k < 20 the largest difference of two component scores. Rounding: 100 eps / h < 3e-9.
    """
    h = 1e-5
    for axis in range(2):
        step = h * np.eye(2)[axis]
        slope = (PROBLEM.posterior(x + step, sigma) - PROBLEM.posterior(x - step, sigma)) / (2 * h)
        got = PROBLEM.posterior_gradient(x, sigma)[..., axis]
        np.testing.assert_allclose(got, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.3, 1.5])
def test_denoise_and_its_jacobian_are_moments_of_bayes_on_a_grid(sigma):
    axis = np.linspace(-6, 6, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    prior = sum(w * p.pdf(grid) for w, p in components(0.0))
    x = np.asarray([[0.3, -0.7], [1.5, 0.2]])
    for i, point in enumerate(x):
        weight = prior * np.exp(-((point - grid) ** 2).sum(axis=1) / (2 * sigma**2))
        weight /= weight.sum()
        mean = weight @ grid
        covariance = (weight[:, None] * (grid - mean)).T @ (grid - mean)
        np.testing.assert_allclose(PROBLEM.denoise(x, sigma)[i], mean, rtol=1e-9)
        got = PROBLEM.denoise_jacobian(x, sigma)[i]
        np.testing.assert_allclose(got, covariance / sigma**2, rtol=1e-8)


def test_far_from_all_modes_nothing_underflows():
    x = np.asarray([[300.0, -400.0]])
    assert np.isfinite(PROBLEM.log_density(x)).all() and PROBLEM.density(x) == 0
    np.testing.assert_allclose(PROBLEM.posterior(x).sum(axis=1), 1.0)
    np.testing.assert_allclose(PROBLEM.score(x), (PROBLEM.means[2] - x) / 0.36, rtol=1e-12)


def test_samples_have_the_mean_and_covariance_of_the_mixture():
    """Mean: Hotelling's T^2 within the 99.9 % quantile of chi^2 with 2 degrees of freedom.

    Covariance and posteriors: within 4 standard errors.
    """
    n = 40_000
    x = PROBLEM.sample(n, np.random.default_rng(3))
    assert x.shape == (n, 2)
    gap = x.mean(axis=0) - PROBLEM.mean()
    assert n * gap @ np.linalg.solve(PROBLEM.covariance(), gap) < 13.82
    centred = x - x.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    bound = 4 * products.std(axis=0) / np.sqrt(n)
    assert (abs(np.cov(x.T) - PROBLEM.covariance()) < bound).all()
    near = np.argmin(((x[:, None] - PROBLEM.means) ** 2).sum(-1) / PROBLEM.stds**2, axis=1)
    share = PROBLEM.posterior(x).mean(axis=0)
    np.testing.assert_allclose(share, PROBLEM.weights, atol=4 * 0.5 / np.sqrt(n))
    assert len(set(near)) == 3


@pytest.mark.parametrize("scale", [0.5, -2.0])
def test_scaled_is_the_density_of_the_scaled_variable(scale):
    x = np.asarray([[0.3, -0.7], [1.5, 0.2]])
    moved = PROBLEM.scaled(scale)
    assert (moved.stds > 0).all()
    np.testing.assert_allclose(moved.density(scale * x), PROBLEM.density(x) / scale**2, rtol=1e-12)
    np.testing.assert_array_equal(moved.weights, PROBLEM.weights)


def test_the_flow_of_one_gaussian_keeps_the_share_of_the_spread():
    one = Mixture(np.ones(1), np.asarray([[1.0, -2.0]]), np.asarray([0.6]))
    x = np.asarray([[1.0, -2.0], [3.0, 0.0]])
    moved = one.flow(x, 0.8, 0.0)
    np.testing.assert_allclose(moved, [[1.0, -2.0], [2.2, -0.8]], rtol=1e-14)  # 0.6 / 1.0
    np.testing.assert_allclose(one.flow(moved, 0.0, 0.8), x, rtol=1e-14)
    with pytest.raises(ValueError, match="needs 1 component, not 3"):
        PROBLEM.flow(x, 0.8, 0.0)
