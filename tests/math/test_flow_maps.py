"""Flow maps: steps and targets against mpmath, the Gaussian map against the ODE and by sampling."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.integrate import solve_ivp

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 40
TIMES = strategies.alpha_bar_values(0.0, 1.0)
ETAS = st.sampled_from([0.0, 2.0**-20, 0.25, 0.7, 1.0])
MEANS = st.sampled_from([-2.0, 0.0, 1.5])
VARIANCES = st.sampled_from([2.0**-6, 0.25, 1.0, 4.0])


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


def renoised_moments(eta, times, mean, variance, average_velocity):
    """Propagate N(0, 1) exactly: each step is affine in state and noise."""
    center, spread = 0.0, 1.0
    for t, r in pairwise(times):
        low = (1 - eta) * r
        at = [
            lm.flow_map_renoise_step(x, average_velocity(x, t, low), z, t, r, eta)
            for x, z in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        ]
        slope, noise = at[1] - at[0], at[2] - at[0]
        center, spread = slope * center + at[0], slope**2 * spread + noise**2
    return center, spread


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_every_eta_and_number_of_steps_draws_from_the_data_with_the_exact_map(eta, steps):
    times = [1 - i / steps for i in range(steps + 1)]

    def exact(x, t, r):
        return lm.gaussian_average_velocity(x, t, r, 1.5, 0.25)

    assert renoised_moments(eta, times, 1.5, 0.25, exact) == pytest.approx((1.5, 0.25))


def test_consistency_steps_of_a_model_that_is_not_distilled_draw_from_the_square():
    """The velocity in place of the average velocity: half of the variance, and the mean."""

    def velocity(x, t, r):
        return lm.gaussian_flow_velocity(x, t, 1.5, 0.25)

    times = [1 - i / 4000 for i in range(4001)]
    center, spread = renoised_moments(1.0, times, 1.5, 0.25, velocity)
    assert center == pytest.approx(1.5)
    assert spread == pytest.approx(0.125, rel=0.01)


@given(data=st.data(), t=TIMES, r=TIMES)
def test_full_renoise_is_stochastic_sampling_and_no_renoise_the_step(data, t, r):
    assume(0.0 < t and r < 1.0)
    x, u, z = data.draw(strategies.paired(3))
    mean, std = lm.flow_renoise_transition(x, u, t, r, r)
    assert lm.flow_map_renoise_step(x, u, z, t, r) == pytest.approx(mean + std * z, abs=1e-12)
    assert (lm.flow_map_renoise_step(x, u, z, t, r, 0.0) == lm.flow_map_step(x, u, t, r)).all()


@given(data=st.data(), angle=st.floats(0.0, 1.5))
def test_consistency_function_of_trigflow_is_that_of_v(data, angle):
    """x = cos(t) x0 + sin(t) z; F = cos(t) z - sin(t) x0 leads to x0 = cos(t) x - sin(t) F."""
    x0, z = data.draw(strategies.paired(2))
    x = np.cos(angle) * x0 + np.sin(angle) * z
    f = np.cos(angle) * z - np.sin(angle) * x0
    clean = lm.x0_from_v(x, f, float(np.cos(angle) ** 2))
    assert clean == pytest.approx(np.cos(angle) * x - np.sin(angle) * f, abs=1e-12)
    assert clean == pytest.approx(x0, abs=1e-12)


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
    )
    for call in calls:
        with pytest.raises(ValueError, match="does not fit"):
            call()
