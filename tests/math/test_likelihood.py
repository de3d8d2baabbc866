"""Divergences against traces and all probes there are; likelihoods against known densities."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ldmref.math import (
    VESDE,
    VPSDE,
    SubVPSDE,
    bits_per_dimension,
    directional_derivative,
    exact_divergence,
    flow_log_likelihood,
    hutchinson_divergence,
    hutchinson_variance,
    integrate_rk4,
    probability_flow,
    sigma_flow,
)
from ldmref.testing import strategies
from ldmref.testing.mixture import three_modes

PROBLEM = three_modes()
POINTS = np.random.default_rng(0).normal(0, 1.5, (12, 2))
SDES = {"vp": VPSDE(0.5, 6.0), "sub-vp": SubVPSDE(0.5, 6.0), "ve": VESDE(0.05, 8.0)}
MATRIX = np.random.default_rng(1).normal(0, 1.0, (3, 3)).round(3)
SIGNS = np.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))


def linear(matrix):
    """u(x, t) = t A x, of rows x."""
    return lambda x, t: t * (x @ matrix.T)


def exact_derivative(matrix):
    return lambda velocity, x, t, direction: t * ((0 * x + direction) @ matrix.T)


def score_of(sde):
    def score(x, t):
        return PROBLEM.scaled(sde.mean_coefficient(t)).score(x, sde.std(t))

    return score


def divergence_of(sde):
    """Return the divergence of the probability flow: d f - g^2 / 2 laplacian log p."""

    def divergence(x, t):
        laplacian = PROBLEM.scaled(sde.mean_coefficient(t)).score_divergence(x, sde.std(t))
        return x.shape[1] * sde.drift_coefficient(t) - 0.5 * sde.diffusion(t) ** 2 * laplacian

    return divergence


@given(data=st.data())
def test_directional_derivative_is_exact_for_quadratics(xp, dtype, xp_assert_close, to_numpy, data):
    """u_i = t x_i^2 + x_i: J v = (2 t x + 1) v, up to rounding over the step eps^(1/3)."""
    x, v = data.draw(strategies.paired(2, xp, dtype, bound=1))
    got = directional_derivative(lambda y, t: t * y * y + y, x, 0.5, v)
    want = (to_numpy(x).astype(np.float64) + 1) * to_numpy(v)
    rounding = float(np.finfo(dtype).eps) ** (-1 / 3)
    xp_assert_close(got, want, like=x, ulps=4 * rounding, scale=2.0)


@pytest.mark.parametrize(
    ("dtype", "h"), [("float64", 2.0 ** (-52 / 3)), ("float32", 2.0 ** (-23 / 3))]
)
def test_the_step_is_the_cube_root_of_the_rounding(dtype, h):
    """Of x^3 at 0 the difference quotient is h^2 |v|^2 v."""
    seen = []

    def cube(x, t):
        seen.append((x, t))
        return x**3

    got = directional_derivative(cube, np.zeros(1, dtype), 0.25, np.full(1, 2.0, dtype))
    assert float(got[0]) == pytest.approx(8 * h**2, rel=1e-6)
    assert [float(x[0]) for x, _ in seen] == pytest.approx([2 * h, -2 * h], rel=1e-6)
    assert [t for _, t in seen] == [0.25, 0.25]


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_derivatives_of_the_mixture(sigma):
    directions = np.random.default_rng(2).normal(0, 1, POINTS.shape)
    want = np.einsum("nij,nj->ni", PROBLEM.score_jacobian(POINTS, sigma), directions)
    got = directional_derivative(PROBLEM.score, POINTS, sigma, directions)
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-7)
    got = exact_divergence(PROBLEM.score, POINTS, sigma)
    np.testing.assert_allclose(got, PROBLEM.score_divergence(POINTS, sigma), rtol=1e-7, atol=1e-7)


@given(data=st.data())
def test_exact_divergence_is_the_trace(xp, dtype, xp_assert_close, to_numpy, data):
    """For u = t c x elementwise, with another c for each entry, it is t sum(c) at any shape."""
    shape = data.draw(strategies.shapes(2, 4))
    (x,) = data.draw(strategies.paired(1, xp, dtype, shape, bound=1))
    (c,) = data.draw(strategies.paired(1, xp, dtype, shape[1:], bound=1))
    got = exact_divergence(lambda y, t: t * c * y, x, 0.5)
    want = np.full(shape[:1], 0.5 * to_numpy(c).astype(np.float64).sum())
    rounding = float(np.finfo(dtype).eps) ** (-1 / 3)
    xp_assert_close(got, want, like=x, ulps=2 * rounding, scale=float(np.prod(shape)))


def test_divergences_use_the_derivative_they_are_given(xp, dtype, xp_assert_close):
    """A wrong velocity does not matter then: and without differences, digits stay."""
    a = xp.asarray(MATRIX.tolist(), dtype=getattr(xp, dtype))
    x = xp.ones((2, 3), dtype=a.dtype)
    probes = xp.asarray([[[1.0, -1.0, 1.0]] * 2], dtype=a.dtype)

    def derivative(velocity, at, t, direction):
        assert velocity is None and at is x and t == 0.5
        return t * ((0.0 * at + direction) @ xp.matrix_transpose(a))

    got = exact_divergence(None, x, 0.5, derivative)
    xp_assert_close(got, np.full(2, 0.5 * np.trace(MATRIX)), like=x, ulps=8, scale=4.0)
    v = np.asarray([1.0, -1.0, 1.0])
    got = hutchinson_divergence(None, x, 0.5, probes, derivative)
    xp_assert_close(got, np.full(2, 0.5 * v @ MATRIX @ v), like=x, ulps=8, scale=4.0)


def test_torch_differentiates_in_place_of_the_difference():
    torch = pytest.importorskip("torch")
    x = torch.tensor(POINTS)

    def derivative(velocity, x, t, direction):
        return torch.func.jvp(lambda y: velocity(y, t), (x,), (0 * x + direction,))[1]

    got = exact_divergence(lambda y, t: torch.sin(t * y), x, 2.0, derivative)
    np.testing.assert_allclose(got, (2 * np.cos(2 * POINTS)).sum(axis=1), rtol=1e-14)


def test_the_mean_over_all_signs_is_the_trace():
    x = np.zeros((1, 3))
    every = SIGNS[:, None, :]
    got = hutchinson_divergence(linear(MATRIX), x, 2.0, every, exact_derivative(MATRIX))
    np.testing.assert_allclose(got, [2 * np.trace(MATRIX)], rtol=1e-13)


def estimates(matrix, probes):
    """One for each probe, by `hutchinson_divergence` itself."""
    return np.asarray(
        [
            hutchinson_divergence(
                linear(matrix), np.zeros((1, 3)), 1.0, v[None, None], exact_derivative(matrix)
            )[0]
            for v in probes
        ]
    )


def test_hutchinson_variance_is_that_over_all_signs_and_by_quadrature():
    """Three Gauss-Hermite nodes a dimension integrate polynomials of degree 4 exactly."""
    by_signs = estimates(MATRIX, SIGNS)
    got = hutchinson_variance(MATRIX[None])
    np.testing.assert_allclose(got, [by_signs.var()], rtol=1e-12)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.asarray(list(itertools.product(nodes, repeat=3)))
    weight = np.prod(list(itertools.product(weights / weights.sum(), repeat=3)), axis=1)
    by_normals = estimates(MATRIX, grid)
    mean = weight @ by_normals
    assert mean == pytest.approx(np.trace(MATRIX), rel=1e-12)
    got = hutchinson_variance(MATRIX[None], rademacher=False)
    np.testing.assert_allclose(got, [weight @ (by_normals - mean) ** 2], rtol=1e-12)


@given(data=st.data())
def test_hutchinson_variance_equals_its_sums(xp, dtype, xp_assert_close, to_numpy, data):
    (jacobian,) = data.draw(strategies.paired(1, xp, dtype, (2, 3, 3)))
    j = to_numpy(jacobian).astype(np.float64)
    every = np.zeros(2)
    off = np.zeros(2)
    for n, a, b in itertools.product(range(2), range(3), range(3)):
        square = ((j[n, a, b] + j[n, b, a]) / 2) ** 2
        every[n] += 2 * square
        off[n] += 2 * square * (a != b)
    xp_assert_close(hutchinson_variance(jacobian, False), every, like=jacobian, ulps=8)
    xp_assert_close(hutchinson_variance(jacobian), off, like=jacobian, ulps=8)
    assert xp.all(hutchinson_variance(jacobian, True) == hutchinson_variance(jacobian))


def test_hutchinson_estimates_the_divergence_of_the_mixture_within_its_variance():
    """400 probes of signs, 5 standard errors."""
    probes = np.random.default_rng(4).choice([-1.0, 1.0], (400, *POINTS.shape))
    got = hutchinson_divergence(PROBLEM.score, POINTS, 0.5, probes)
    spread = hutchinson_variance(PROBLEM.score_jacobian(POINTS, 0.5)) / 400
    gap = abs(got - PROBLEM.score_divergence(POINTS, 0.5))
    assert (gap <= 5 * np.sqrt(spread) + 1e-6).all() and gap.max() > 1e-3


@given(data=st.data())
def test_one_probe_of_signs_is_exact_for_a_diagonal(xp, dtype, xp_assert_close, to_numpy, data):
    (x,) = data.draw(strategies.paired(1, xp, dtype, bound=1))
    signs = xp.where(x < 0, -xp.ones_like(x), xp.ones_like(x))
    got = hutchinson_divergence(lambda y, t: t * y * y, x, 0.5, xp.stack([signs, -signs]))
    want = to_numpy(x).astype(np.float64).reshape(x.shape[0], -1).sum(axis=1)
    rounding = float(np.finfo(dtype).eps) ** (-1 / 3)
    size = float(np.prod(x.shape))
    xp_assert_close(got, want, like=x, ulps=2 * rounding, scale=size)


@pytest.mark.parametrize("name", SDES)
def test_likelihood_of_the_mixture_along_every_diffusion(name):
    """The flow starts from the exact density of the marginal; no error comes from the prior."""
    sde = SDES[name]
    ends = (0.02, 1.0)
    last = PROBLEM.scaled(sde.mean_coefficient(ends[1]))
    velocity = probability_flow(sde, score_of(sde))
    times = np.linspace(*ends, 101)
    first = PROBLEM.scaled(sde.mean_coefficient(ends[0]))
    want = first.log_density(POINTS, sde.std(ends[0]))
    for divergence, rtol in (
        (divergence_of(sde), 3e-5),
        (lambda x, t: exact_divergence(velocity, x, t), 3e-5),
    ):
        nats, end = flow_log_likelihood(
            velocity, divergence, lambda x: last.log_density(x, sde.std(ends[1])), POINTS, times
        )
        np.testing.assert_allclose(nats, want, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(end, integrate_rk4(velocity, POINTS, times), rtol=1e-13)


def test_likelihood_equals_scipys_integrator():
    sde = SDES["vp"]
    ends = (0.05, 1.0)
    velocity = probability_flow(sde, score_of(sde))
    divergence = divergence_of(sde)

    def slope(t, y):
        x = y.reshape(-1, 3)[:, :2]
        return np.column_stack([velocity(x, t), divergence(x, t)]).ravel()

    start = np.column_stack([POINTS, np.zeros(len(POINTS))]).ravel()
    solved = solve_ivp(slope, ends, start, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(-1, 3)
    times = np.linspace(*ends, 129)
    nats, end = flow_log_likelihood(velocity, divergence, sde.log_prior, POINTS, times)
    np.testing.assert_allclose(end, solved[:, :2], rtol=1e-6, atol=1e-6)
    want = sde.log_prior(solved[:, :2]) + solved[:, 2]
    np.testing.assert_allclose(nats, want, rtol=1e-6, atol=1e-5)
    bits = bits_per_dimension(-nats, 2)
    np.testing.assert_allclose(bits, -np.log2(np.exp(nats)) / 2, rtol=1e-12)


def test_likelihood_under_the_prior_is_that_of_the_data():
    """The prior leaves out the data's mean and spread, which at sigma = 50 count for little."""
    sde = VESDE(0.02, 50.0)
    nats, end = flow_log_likelihood(
        probability_flow(sde, score_of(sde)),
        divergence_of(sde),
        sde.log_prior,
        POINTS,
        np.linspace(0.0, 1.0, 201),
    )
    left_out = sde.log_prior(end) - PROBLEM.log_density(end, 50.0)
    assert abs(left_out).max() < 0.03
    np.testing.assert_allclose(nats - left_out, PROBLEM.log_density(POINTS, 0.02), rtol=2e-4)
    velocity = sigma_flow(PROBLEM.denoise)
    nats, _ = flow_log_likelihood(
        velocity,
        lambda x, s: (2 - PROBLEM.denoise_divergence(x, s)) / s,
        lambda x: PROBLEM.log_density(x, 10.0),
        POINTS,
        np.geomspace(0.02, 10.0, 201),
    )
    np.testing.assert_allclose(nats, PROBLEM.log_density(POINTS, 0.02), rtol=1e-5)


def test_densities_add_up_to_1():
    """u = sin x in one dimension, which is not a gradient flow of anything here."""
    x = np.linspace(-8.0, 8.0, 2001)[:, None]
    nats, _ = flow_log_likelihood(
        lambda x, t: np.sin(x),
        lambda x, t: np.cos(x[:, 0]),
        VPSDE().log_prior,
        x,
        np.linspace(0.0, 1.0, 41),
    )
    assert np.trapezoid(np.exp(nats), x[:, 0]) == pytest.approx(1.0, rel=1e-6)


@given(data=st.data())
def test_likelihood_of_a_stretch_in_every_library(xp, dtype, xp_assert_close, to_numpy, data):
    """x' = a x: of N(0, 1) at the end, the density at the start is N(0, exp(-2 a T))."""
    (x,) = data.draw(strategies.paired(1, xp, dtype, bound=2))
    a = data.draw(st.integers(-8, 8)) / 8
    d = int(np.prod(x.shape[1:]))
    times = np.linspace(0.0, 0.5, 9)
    nats, end = flow_log_likelihood(
        lambda x, t: a * x,
        lambda x, t: xp.full((x.shape[0],), a * d, dtype=x.dtype),
        VPSDE().log_prior,
        x,
        times,
    )
    flat = to_numpy(x).astype(np.float64).reshape(x.shape[0], -1)
    stretch = np.exp(0.5 * a)
    size = ((stretch * flat) ** 2).sum(axis=1) + d
    want = -0.5 * ((stretch * flat) ** 2).sum(axis=1) - 0.5 * d * np.log(2 * np.pi) + 0.5 * a * d
    eps = float(np.finfo(dtype).eps)
    ulps = 32 + 2e-6 / eps  # the second is the error of Runge-Kutta's steps
    xp_assert_close(nats, want, like=x, ulps=ulps, scale=size)
    want = stretch * to_numpy(x).astype(np.float64)
    xp_assert_close(end, want, like=x, ulps=ulps)
