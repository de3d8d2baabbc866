"""Reverse SDE and probability flow against the equations that densities obey, and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ldmref.math import (
    VESDE,
    VPSDE,
    SubVPSDE,
    denoised_from_score,
    integrate_rk4,
    probability_flow,
    reverse_sde,
    score_from_denoised,
    sde_score,
    sigma_flow,
)
from ldmref.testing import strategies
from ldmref.testing.mixture import Mixture, three_modes

SDES = {"vp": VPSDE(0.5, 3.0), "sub-vp": SubVPSDE(0.5, 3.0), "ve": VESDE(0.25, 4.0)}
every_sde = pytest.mark.parametrize("name", SDES)
PROBLEM = three_modes()
POINTS = np.random.default_rng(0).normal(0, 1.5, (16, 2))


def marginal(sde, t):
    """Return p(x(t)) as (mixture, sigma)."""
    return PROBLEM.scaled(sde.mean_coefficient(t)), sde.std(t)


def exact_score(sde):
    def score(x, t):
        problem, sigma = marginal(sde, t)
        return problem.score(x, sigma)

    return score


def change_of_log_density(sde, x, t, h=1e-4):
    """Return the partial derivative in time, by a difference of order 4."""
    values = [
        (lambda m: m[0].log_density(x, m[1]))(marginal(sde, t + k * h)) for k in (-2, -1, 1, 2)
    ]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)


def divergence(field, x, t, h=1e-4):
    steps = h * np.eye(2)
    return sum((field(x + e, t) - field(x - e, t))[:, k] / (2 * h) for k, e in enumerate(steps))


@every_sde
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_probability_flow_obeys_the_continuity_equation(name, t):
    """d log p / dt = -div u - u . grad log p."""
    sde = SDES[name]
    velocity = probability_flow(sde, exact_score(sde))
    score = exact_score(sde)(POINTS, t)
    u = velocity(POINTS, t)
    want = -divergence(velocity, POINTS, t) - (u * score).sum(axis=1)
    np.testing.assert_allclose(change_of_log_density(sde, POINTS, t), want, rtol=1e-6, atol=1e-6)


@every_sde
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_reverse_sde_obeys_kolmogorovs_equation_backwards(name, t):
    """d log p / dt = -div b - b . s - g^2 / 2 (laplacian log p + |s|^2) for drift b, dt < 0."""
    sde = SDES[name]
    drift, diffusion = reverse_sde(sde, exact_score(sde))
    (problem, sigma) = marginal(sde, t)
    b = drift(POINTS, t)
    score = problem.score(POINTS, sigma)
    laplacian = problem.score_divergence(POINTS, sigma)
    spread = 0.5 * diffusion(t) ** 2 * (laplacian + (score**2).sum(axis=1))
    want = -divergence(drift, POINTS, t) - (b * score).sum(axis=1) - spread
    np.testing.assert_allclose(change_of_log_density(sde, POINTS, t), want, rtol=1e-6, atol=1e-6)


@every_sde
@given(data=st.data(), each=st.booleans())
def test_both_ways_back_equal_their_definitions(
    xp, dtype, xp_assert_close, to_numpy, name, data, each
):
    sde = SDES[name]
    (x, score) = data.draw(strategies.paired(2, xp, dtype))
    ts = [0.375, 0.75, 0.125][: x.shape[0]] if each else [0.5] * x.shape[0]
    t = xp.asarray(ts, dtype=x.dtype) if each else 0.5
    column = (-1,) + (1,) * (x.ndim - 1)
    f = np.asarray([sde.drift_coefficient(u) for u in ts]).reshape(column)
    g2 = np.asarray([sde.diffusion(u) ** 2 for u in ts]).reshape(column)
    x_, s_ = (to_numpy(z).astype(np.float64) for z in (x, score))
    seen = []

    def given_score(at, when):
        seen.append((at is x, when is t))
        return score

    size = abs(f * x_) + g2 * abs(s_)
    drift, diffusion = reverse_sde(sde, given_score)
    xp_assert_close(drift(x, t), f * x_ - g2 * s_, like=x, ulps=32, scale=size)
    assert diffusion(0.5) == sde.diffusion(0.5)
    got = probability_flow(sde, given_score)(x, t)
    xp_assert_close(got, f * x_ - g2 * s_ / 2, like=x, ulps=32, scale=size)
    assert seen == [(True, True)] * 2


@every_sde
def test_probability_flow_carries_data_along_closed_forms(name):
    """(x - m mu) / sqrt(m^2 tau^2 + s^2) stays, for one Gaussian; and the flow in sigma agrees."""
    sde = SDES[name]
    one = Mixture(np.ones(1), np.asarray([[0.5, -1.0]]), np.asarray([0.7]))

    def score(x, t):
        return one.scaled(sde.mean_coefficient(t)).score(x, sde.std(t))

    start = 0.05
    end = 1.0
    x = POINTS
    got = integrate_rk4(probability_flow(sde, score), x, np.linspace(start, end, 201))
    m = [sde.mean_coefficient(t) for t in (start, end)]
    sigma = [sde.sigma(t) for t in (start, end)]
    np.testing.assert_allclose(got / m[1], one.flow(x / m[0], *sigma), rtol=1e-7, atol=1e-8)
    other = integrate_rk4(sigma_flow(one.denoise), x / m[0], np.geomspace(*sigma, 201))
    np.testing.assert_allclose(got / m[1], other, rtol=1e-6, atol=1e-7)


@every_sde
def test_probability_flow_equals_scipys_integrator_and_comes_back(name):
    velocity = probability_flow(SDES[name], exact_score(SDES[name]))
    times = np.linspace(0.05, 0.9, 257)
    end = integrate_rk4(velocity, POINTS, times)
    solved = solve_ivp(
        lambda t, y: velocity(y.reshape(-1, 2), t).ravel(),
        (0.05, 0.9),
        POINTS.ravel(),
        "DOP853",
        rtol=1e-11,
        atol=1e-12,
    )
    np.testing.assert_allclose(end.ravel(), solved.y[:, -1], rtol=1e-7, atol=1e-7)
    back = integrate_rk4(velocity, end, times[::-1])
    np.testing.assert_allclose(back, POINTS, rtol=1e-6, atol=1e-6)


@given(data=st.data(), each=st.booleans())
def test_conversions_equal_their_definitions(xp, dtype, xp_assert_close, to_numpy, data, each):
    x, y = data.draw(strategies.paired(2, xp, dtype))
    n = x.shape[0]
    levels = data.draw(st.lists(strategies.sigma_values(0.125, 64.0), min_size=n, max_size=n))
    levels = levels if each else levels[:1] * n
    sigma = xp.asarray(levels, dtype=x.dtype) if each else levels[0]
    wide = np.asarray(levels).reshape((-1,) + (1,) * (x.ndim - 1))
    x_, y_ = (to_numpy(z).astype(np.float64) for z in (x, y))
    xp_assert_close(score_from_denoised(x, y, sigma), (y_ - x_) / wide**2, like=x, ulps=4)
    size = abs(x_) + wide**2 * abs(y_)
    xp_assert_close(denoised_from_score(x, y, sigma), x_ + wide**2 * y_, like=x, ulps=4, scale=size)
    seen = []

    def denoise(at, level):
        seen.append((at is x, level is sigma))
        return y

    xp_assert_close(sigma_flow(denoise)(x, sigma), (x_ - y_) / wide, like=x, ulps=4)
    assert seen == [(True, True)]


def test_denoised_from_score_exists_without_noise():
    x = np.asarray([[1.5, -2.0]])
    np.testing.assert_array_equal(denoised_from_score(x, 7.0 * x, 0.0), x)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 8.0])
def test_conversions_hold_for_the_mixture(sigma):
    score = PROBLEM.score(POINTS, sigma)
    denoised = PROBLEM.denoise(POINTS, sigma)
    np.testing.assert_allclose(score_from_denoised(POINTS, denoised, sigma), score, rtol=1e-9)
    np.testing.assert_allclose(denoised_from_score(POINTS, score, sigma), denoised, rtol=1e-9)


@every_sde
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_sde_score_is_the_score_of_the_marginal(name, t):
    sde = SDES[name]
    got = sde_score(sde, PROBLEM.denoise)(POINTS, t)
    np.testing.assert_allclose(got, exact_score(sde)(POINTS, t), rtol=1e-9)


@every_sde
@given(data=st.data())
def test_sde_score_takes_a_time_for_each(xp, dtype, xp_assert_close, to_numpy, name, data):
    """The marginal at t of data N(0, 4) is N(0, 4 m^2 + s^2)."""
    sde = SDES[name]
    (x,) = data.draw(strategies.paired(1, xp, dtype))
    t = xp.asarray([0.375, 0.75, 0.125][: x.shape[0]], dtype=x.dtype)

    def denoise(at, sigma):
        wide = xp.reshape(sigma, (-1,) + (1,) * (x.ndim - 1))
        return at * 4.0 / (4.0 + wide * wide)

    ts = [float(u) for u in to_numpy(t)]
    spread = [4.0 * sde.mean_coefficient(u) ** 2 + sde.std(u) ** 2 for u in ts]
    wide = np.asarray(spread).reshape((-1,) + (1,) * (x.ndim - 1))
    x_ = to_numpy(x).astype(np.float64)
    size = 64 * abs(x_)  # (D - x) / sigma^2 loses digits where sigma is small
    xp_assert_close(sde_score(sde, denoise)(x, t), -x_ / wide, like=x, ulps=16, scale=size)


@given(data=st.data())
def test_one_step_of_rk4_is_the_exponential_series(xp, dtype, xp_assert_close, to_numpy, data):
    """dx/dt = a x + c: 1 + z + z^2 / 2 + z^3 / 6 + z^4 / 24 with z = a h, and nothing more."""
    (x,) = data.draw(strategies.paired(1, xp, dtype))
    a, start, end = (data.draw(st.integers(-16, 16)) / 8 for _ in range(3))
    z = a * (end - start)
    series = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    got = integrate_rk4(lambda y, t: a * y, x, [start, end])
    size = (1 + abs(z)) ** 4 * abs(to_numpy(x))
    xp_assert_close(got, series * to_numpy(x).astype(np.float64), like=x, ulps=8, scale=size)


@given(st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.floats(-2, 2), st.floats(-2, 2))
def test_rk4_is_exact_for_cubics_of_time(c, start, end):
    """Simpson's rule, with the right times in between."""
    got = integrate_rk4(
        lambda x, t: sum(k * t**i for i, k in enumerate(c)) + 0 * x, np.zeros(1), [start, end]
    )
    want = sum(k * (end ** (i + 1) - start ** (i + 1)) / (i + 1) for i, k in enumerate(c))
    np.testing.assert_allclose(got, [want], rtol=1e-12, atol=1e-12)


def test_rk4_has_order_4_and_takes_any_grid():
    """x' = x cos t, whose solution is exp(sin t)."""

    def velocity(x, t):
        return x * math.cos(t)

    errors = []
    counts = [32, 64, 128, 256]
    for n in counts:
        times = 2.0 * np.linspace(0.0, 1.0, n + 1) ** 1.5
        end = integrate_rk4(velocity, np.asarray([1.0]), times)
        errors.append(abs(end[0] - math.exp(math.sin(2.0))))
    assert abs(np.polyfit(np.log(counts), np.log(errors), 1)[0] + 4) < 0.2
    x = np.asarray([1.0])
    assert integrate_rk4(velocity, x, [0.5]) is x
    assert integrate_rk4(lambda x, t: 0 * x + math.nan, x, []) is x


def test_rk4_gives_times_as_python_floats():
    seen = []
    integrate_rk4(lambda x, t: seen.append(t) or x, np.ones(1), np.float32([0, 2, 3]))
    assert seen == [0.0, 1.0, 1.0, 2.0, 2.0, 2.5, 2.5, 3.0]
    assert {type(t) for t in seen} == {float}
