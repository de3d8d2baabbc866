"""docs/math/flow_maps.md: steps and targets against mpmath, the Gaussian map against the ODE."""

import re
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.integrate import solve_ivp

from ldmref import math as lm
from ldmref.samplers import lcm, tcd
from ldmref.samplers.interfaces import Interval
from ldmref.testing import strategies
from ldmref.testing.flow_chains import flow_map_law, shifted_times

PAGE = (Path(__file__).parents[2] / "docs/math/flow_maps.md").read_text("utf-8")
ANGLES = st.sampled_from([0.0, 2.0**-20, 0.25, 0.785, 1.25, 1.5])
TIMES = strategies.alpha_bar_values(0.0, 1.0)
ETAS = st.sampled_from([0.0, 2.0**-20, 0.25, 0.7, 1.0])
MEANS = st.sampled_from([-2.0, 0.0, 1.5])
VARIANCES = st.sampled_from([2.0**-6, 0.25, 1.0, 4.0])


@pytest.fixture(scope="module", autouse=True)
def digits():
    """Compute oracles in 90 digits: differences of times are as small as 1e-38."""
    with mpmath.workdps(90):
        yield


def compare(xp_assert_close, to_numpy, got, exact, ulps, *arrays):
    """Compare with `exact` of mpmath, applied to every value; the scale is the size of all."""
    hosts = [to_numpy(a) for a in arrays]
    rows = zip(*(h.ravel().tolist() for h in hosts), strict=True)
    expected = [float(exact(*map(mpf, row))) for row in rows]
    shape = hosts[0].shape
    scale = 1.0 + sum(np.abs(h) for h in hosts) + np.abs(np.reshape(expected, shape))
    xp_assert_close(got, np.reshape(expected, shape), like=arrays[0], ulps=ulps, scale=scale)


@given(data=st.data(), t=TIMES, r=TIMES, share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_steps_and_targets_equal_mpmath(xp, dtype, xp_assert_close, to_numpy, data, t, r, share):
    a, b = data.draw(strategies.paired(2, xp, dtype))
    gap = mpf(t) - mpf(r)
    for got in (lm.flow_map_step(a, b, t, r), lm.mean_flow_target(a, b, t, r)):
        compare(xp_assert_close, to_numpy, got, lambda x, u: x - gap * u, 3, a, b)
    mixed = lm.shortcut_target(a, b, share)
    compare(xp_assert_close, to_numpy, mixed, lambda x, y: share * x + (1 - share) * y, 3, a, b)


@given(data=st.data(), t=TIMES, r=TIMES, eta=ETAS)
def test_renoise_step_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, t, r, eta):
    assume(0.0 < t and r < 0.999)
    x, u, z = data.draw(strategies.paired(3, xp, dtype))
    low = (1 - mpf(eta)) * mpf(r)
    kept = (1 - mpf(r)) / (1 - low)
    fresh = mpmath.sqrt(mpf(r) ** 2 - (kept * low) ** 2)

    def exact(x, u, z):
        return kept * (x - (mpf(t) - low) * u) + fresh * z

    got = lm.flow_map_renoise_step(x, u, z, t, r, eta)
    compare(xp_assert_close, to_numpy, got, exact, 12, x, u, z)


@given(data=st.data(), t=TIMES, r=TIMES, mean=MEANS, variance=VARIANCES)
def test_gaussian_map_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, **drawn):
    t, r, mean, variance = (drawn[name] for name in ("t", "r", "mean", "variance"))
    (x,) = data.draw(strategies.paired(1, xp, dtype))
    at, to, m, v = map(mpf, (t, r, mean, variance))
    spreads = [mpmath.sqrt((1 - s) ** 2 * v + s**2) for s in (at, to)]

    def moved(x):
        return (1 - to) * m + spreads[1] / spreads[0] * (x - (1 - at) * m)

    def average(x):
        return (x - moved(x)) / (at - to)

    size = float(64 + 64 / spreads[0])
    got = lm.gaussian_flow_map(x, t, r, mean, variance)
    compare(xp_assert_close, to_numpy, got, moved, size, x)
    if t != r:
        u = lm.gaussian_average_velocity(x, t, r, mean, variance)
        compare(xp_assert_close, to_numpy, u, average, size / float(spreads[0]), x)


@given(t=TIMES, m=TIMES, r=TIMES, x=st.floats(-3, 3), mean=MEANS, variance=VARIANCES)
def test_gaussian_maps_compose_and_their_average_velocities_add_up(t, m, r, x, mean, variance):
    data = (mean, variance)
    middle = lm.gaussian_flow_map(x, t, m, *data)
    assert lm.gaussian_flow_map(middle, m, r, *data) == pytest.approx(
        lm.gaussian_flow_map(x, t, r, *data), rel=1e-9, abs=1e-9
    )
    assert lm.gaussian_flow_map(middle, m, t, *data) == pytest.approx(x, rel=1e-9, abs=1e-9)
    assume(abs(t - r) > 1e-3)
    whole = lm.shortcut_target(
        lm.gaussian_average_velocity(x, t, m, *data),
        lm.gaussian_average_velocity(middle, m, r, *data),
        (t - m) / (t - r),
    )
    expected = lm.gaussian_average_velocity(x, t, r, *data)
    assert whole == pytest.approx(expected, rel=1e-6, abs=1e-6 / abs(t - r))


@pytest.mark.parametrize(("mean", "variance"), [(1.5, 0.25), (-0.5, 4.0)])
def test_gaussian_map_solves_the_ode(mean, variance):
    x = np.asarray([-1.0, 0.3, 2.0])
    for t, r in ((1.0, 0.0), (0.9, 0.2), (0.1, 0.8)):
        solved = solve_ivp(
            lambda s, x: lm.gaussian_flow_velocity(x, float(s), mean, variance),
            (t, r),
            x,
            "DOP853",
            rtol=1e-12,
            atol=1e-12,
        ).y[:, -1]
        assert lm.gaussian_flow_map(x, t, r, mean, variance) == pytest.approx(solved, abs=1e-9)
        u = lm.gaussian_average_velocity(x, t, r, mean, variance)
        assert lm.flow_map_step(x, u, t, r) == pytest.approx(solved, abs=1e-9)


@given(t=st.floats(0.05, 0.95), r=st.floats(0.0, 1.0), x=st.floats(-3, 3), mean=MEANS, v=VARIANCES)
def test_mean_flow_identity_holds_for_gaussian_data(t, r, x, mean, v):
    """du/dt along the ODE by mpmath's derivative, which shares no code with the formula."""
    slope = (mpf(t) - (1 - mpf(t)) * v) / ((1 - mpf(t)) ** 2 * v + mpf(t) ** 2)
    velocity = slope * (x - (1 - mpf(t)) * mean) - mean

    def average(h):
        """Return u at time t + h, at the point of the trajectory to first order."""
        at, to, state = mpf(t) + h, mpf(r), x + h * velocity
        spreads = [mpmath.sqrt((1 - s) ** 2 * v + s**2) for s in (at, to)]
        moved = (1 - to) * mean + spreads[1] / spreads[0] * (state - (1 - at) * mean)
        return (state - moved) / (at - to)

    assume(abs(t - r) > 1e-3)
    derivative = float(mpmath.diff(average, 0))
    target = lm.mean_flow_target(float(velocity), derivative, t, r)
    u = lm.gaussian_average_velocity(x, t, r, mean, v)
    assert target == pytest.approx(u, rel=1e-8, abs=1e-8 * (1 + abs(derivative)))


def test_target_is_met_by_a_jacobian_vector_product_of_torch():
    torch = pytest.importorskip("torch")
    x, t, r = torch.tensor([[0.3, -1.2]]), torch.tensor([0.8]), torch.tensor([0.2])
    x, t, r = (a.double() for a in (x, t, r))

    def average(x, t, r):
        return lm.gaussian_average_velocity(x, t, r, 0.5, 0.25)

    velocity = lm.gaussian_flow_velocity(x, t, 0.5, 0.25)
    tangents = (velocity, torch.ones_like(t), torch.zeros_like(r))
    u, derivative = torch.func.jvp(average, (x, t, r), tangents)
    target = lm.mean_flow_target(velocity, derivative, t, r)
    assert target.numpy() == pytest.approx(u.numpy(), rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_every_eta_and_number_of_steps_draws_from_the_data_with_the_exact_map(eta, steps):
    law = flow_map_law(1.5, 0.25, eta)
    moments = lm.flow_chain_moments(law, shifted_times(steps), 1.5, 0.25)
    assert moments == pytest.approx((1.5, 0.25))


def test_consistency_steps_of_a_model_that_is_not_distilled_draw_from_the_square():
    """The velocity in place of the average velocity: half of the variance, and the mean."""
    law = flow_map_law(1.5, 0.25, 1.0, distilled=False)
    center, spread = lm.flow_chain_moments(law, shifted_times(4000), 1.5, 0.25)
    assert center == pytest.approx(1.5)
    assert spread == pytest.approx(0.125, rel=0.01)


def test_table_of_the_page():
    shown = re.findall(r"^\| (exact map|velocity), eta ([\d.]+)[^|]*\|(.*)\|$", PAGE, re.MULTILINE)
    assert len(shown) == 6
    for row in shown:
        law = flow_map_law(1.5, 0.25, float(row[1]), row[0] == "exact map")
        for n, text in zip((1, 2, 4, 100), row[2].split("|"), strict=True):
            mean, variance = lm.flow_chain_moments(law, shifted_times(n), 1.5, 0.25)
            assert text.strip() == f"{variance:.4f}", (row[:2], n)
            assert mean == pytest.approx(1.5)


@given(data=st.data(), t=TIMES, r=TIMES)
def test_full_renoise_is_stochastic_sampling_and_no_renoise_the_step(data, t, r):
    assume(0.0 < t and r < 1.0)
    x, u, z = data.draw(strategies.paired(3))
    mean, std = lm.flow_renoise_transition(x, u, t, r, r)
    assert lm.flow_map_renoise_step(x, u, z, t, r) == pytest.approx(mean + std * z, abs=1e-12)
    assert (lm.flow_map_renoise_step(x, u, z, t, r, 0.0) == lm.flow_map_step(x, u, t, r)).all()


@given(data=st.data(), r=TIMES, t=st.sampled_from([0.25, 0.7, 1.0]))
def test_lcm_and_tcd_are_flow_maps_in_the_coordinate_of_sigma(data, r, t):
    """x / (1 - t) has the noise level t / (1 - t); tcd without timesteps goes below in sigma."""
    assume(0.0 < r < t < 1.0)
    x, u, z = data.draw(strategies.paired(3))
    interval = Interval(0, 1, 2, t / (1 - t), r / (1 - r))

    def denoise(state, sigma):
        return lm.x0_from_velocity(x, u, t)

    for eta in (0.0, 0.3, 1.0):
        below = (1 - eta) * r / (1 - r)
        d = below / (1 + below)
        step = lcm() if eta == 1.0 else tcd(eta)
        moved, *_ = step(denoise, x / (1 - t), interval, (), lambda: z)
        got = lm.flow_map_renoise_step(x, u, z, t, r, 1.0 - d / r if eta else 0.0)
        assert got == pytest.approx((1 - r) * moved, rel=1e-9, abs=1e-9)


@given(data=st.data(), t=ANGLES, r=ANGLES)
def test_trigflow_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, t, r):
    x, f, z = data.draw(strategies.paired(3, xp, dtype))
    turn, at, to = mpf(t - r), mpf(t), mpf(r)

    def turned(x, f):
        return mpmath.cos(turn) * x - mpmath.sin(turn) * f

    def renoised(x, f, z):
        clean = mpmath.cos(at) * x - mpmath.sin(at) * f
        return mpmath.cos(to) * clean + mpmath.sin(to) * z

    compare(xp_assert_close, to_numpy, lm.trigflow_step(x, f, t, r), turned, 4, x, f)
    got = lm.trigflow_renoise_step(x, f, z, t, r)
    compare(xp_assert_close, to_numpy, got, renoised, 8, x, f, z)


@given(data=st.data(), s=TIMES)
def test_trigflow_velocity_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, s):
    x, u = data.draw(strategies.paired(2, xp, dtype))
    length = mpmath.sqrt(mpf(s) ** 2 + (1 - mpf(s)) ** 2)

    def exact(x, u):
        return ((1 - mpf(s)) * (x + (1 - mpf(s)) * u) - mpf(s) * (x - mpf(s) * u)) / length

    compare(xp_assert_close, to_numpy, lm.trigflow_velocity(x, u, s), exact, 8, x, u)
    angle = mpmath.atan2(mpf(s), 1 - mpf(s))
    assert lm.flow_time_from_angle(float(angle)) == pytest.approx(s, rel=1e-14, abs=1e-15)


def test_consistency_function_of_trigflow_is_that_of_v():
    x, f = np.asarray([[0.3, -1.0]]), np.asarray([[2.0, 0.5]])
    for angle in (0.1, 0.8, 1.5):
        clean = lm.x0_from_v(x, f, np.cos(angle) ** 2)
        assert lm.trigflow_step(x, f, angle) == pytest.approx(clean, rel=1e-12)


def test_a_time_per_example_must_fit():
    x = np.zeros((2, 3))
    wrong = np.full(3, 0.5)
    calls = (
        lambda: lm.flow_map_step(x, x, wrong, 0.1),
        lambda: lm.mean_flow_target(x, x, wrong, 0.1),
        lambda: lm.shortcut_target(x, x, wrong),
        lambda: lm.flow_map_renoise_step(x, x, x, wrong, 0.1),
        lambda: lm.gaussian_flow_map(x, wrong, 0.1, 0.0, 1.0),
        lambda: lm.gaussian_average_velocity(x, wrong, 0.1, 0.0, 1.0),
        lambda: lm.trigflow_step(x, x, wrong),
        lambda: lm.trigflow_renoise_step(x, x, x, wrong, 0.1),
        lambda: lm.trigflow_velocity(x, x, wrong),
    )
    for call in calls:
        with pytest.raises(ValueError, match="does not fit"):
            call()


@given(data=st.data(), t=ANGLES, r=ANGLES)
def test_average_velocity_on_the_circle_equals_mpmath(
    xp, dtype, xp_assert_close, to_numpy, data, t, r
):
    assume(abs(t - r) > 0.1)
    start, end = data.draw(strategies.paired(2, xp, dtype))
    turn = mpf(t) - mpf(r)

    def exact(x, y):
        return (mpmath.cos(turn) * x - y) / mpmath.sin(turn)

    got = lm.trigflow_average_velocity(start, end, t, r)
    # t - r is exact up to half a unit of 1.5, which a cotangent of up to 10 amplifies
    ulps = 8 / abs(float(mpmath.sin(turn))) ** 2
    compare(xp_assert_close, to_numpy, got, exact, ulps, start, end)
    again = lm.trigflow_step(start, got, t, r)
    compare(xp_assert_close, to_numpy, again, lambda x, y: y, 2 * ulps, start, end)


@given(t=st.floats(0.2, 1.5), x=st.floats(-3, 3), mean=MEANS, v=VARIANCES)
def test_average_velocity_of_gaussian_data_ends_in_the_velocity_and_in_minus_the_data(
    t, x, mean, v
):
    """The state of N(m, v) keeps its distance from the mean, in units of S = hypot(c v^0.5, s)."""

    def state(r):
        spread = [np.hypot(np.cos(s) * np.sqrt(v), np.sin(s)) for s in (t, r)]
        return np.cos(r) * mean + spread[1] / spread[0] * (x - np.cos(t) * mean)

    at = np.asarray([[x]])
    square = np.cos(t) ** 2 * v + np.sin(t) ** 2
    slope = np.sin(t) * np.cos(t) * (1 - v) / square  # of log S
    velocity = -np.sin(t) * mean + slope * (x - np.cos(t) * mean)
    near = lm.trigflow_average_velocity(at, np.asarray([[state(t - 1e-5)]]), t, t - 1e-5)
    assert near[0, 0] == pytest.approx(velocity, abs=1e-3 * (1 + abs(x)) / square)
    noise = np.asarray([[1.3]])
    data = np.asarray([[mean + np.sqrt(v) * 1.3]])
    whole = lm.trigflow_average_velocity(noise, data, np.pi / 2, 0.0)
    assert whole[0, 0] == pytest.approx(-data[0, 0], abs=1e-14)
