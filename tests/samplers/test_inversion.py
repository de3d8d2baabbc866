"""Inversion: up the levels and down again, at the order of the method. And the adaptive method."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sampling import HIGH, LOW, solve

from ldmref import samplers
from ldmref.math import exponential_sigmas
from ldmref.samplers import Interval, ancestral, invert
from ldmref.testing.mixture import three_modes

MIXTURE = three_modes()
X = MIXTURE.sample(32, np.random.default_rng(0)) + LOW * np.random.default_rng(1).normal(
    size=(32, 2)
)


def round_trip(steps, step=None):
    up = exponential_sigmas(steps + 1, LOW, HIGH)[::-1]
    there = list(invert(MIXTURE.denoise, X, up, step))[-1].x
    back = solve(ancestral(0.0) if step is None else step, MIXTURE.denoise, there, up[::-1]).x
    return np.abs(back - X).max()


@pytest.mark.parametrize(
    "step,order", [(None, 1), (samplers.heun(), 2), (samplers.dpm_solver(2), 2)]
)
def test_round_trip_comes_back_at_the_order_of_the_method(step, order):
    """Second-order methods come back even better: their leading error is odd in the step."""
    counts = (32, 64, 128)
    slope = -np.polyfit(np.log(counts), np.log([round_trip(n, step) for n in counts]), 1)[0]
    assert abs(slope - order) < 0.2 if order == 1 else slope > order - 0.2


def test_inversion_reaches_the_noise_of_the_exact_flow(flow):
    problem, start, end = flow
    errors = []
    for n in (64, 128):
        up = exponential_sigmas(n + 1, LOW, HIGH)[::-1]
        errors.append(np.abs(list(invert(problem.denoise, end, up))[-1].x - start).max())
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_inversion_is_the_straight_line_by_default():
    (step,) = invert(lambda x, s: 0.5 * x, np.ones(2), [2.0, 3.0])
    np.testing.assert_allclose(step.x, 0.5 + 1.5 * 0.5)
    assert step.sigma == 3.0
    (step,) = invert(lambda x, s: 0.5 * x, np.ones(2), [2.0, 3.0], samplers.heun())
    np.testing.assert_allclose(step.x, 1.0 + 0.5 * (0.25 + 0.625 / 3.0))


@pytest.mark.parametrize("levels", [[], [0.0, 1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, 2.0, 1.5]])
def test_levels_that_do_not_increase_are_refused(levels):
    with pytest.raises(ValueError, match="increasing sigmas above 0"):
        invert(lambda x, s: x, np.ones(2), levels)


# -- rk45 -----------------------------------------------------------------------------------------


def counted(denoise):
    calls = []

    def wrapped(x, sigma):
        calls.append(sigma)
        return denoise(x, sigma)

    return wrapped, calls


def test_rk45_takes_one_part_where_nothing_bends():
    denoise, calls = counted(lambda x, s: np.ones(2))
    step = solve(samplers.rk45(), denoise, 3.0 * np.ones(2), [2.0, 1.0])
    assert len(calls) == 7 and calls == pytest.approx([2.0, 1.8, 1.7, 1.2, 10 / 9, 1.0, 1.0])
    np.testing.assert_allclose(step.x, 2.0, rtol=1e-15)
    assert step.history == (5.0, 7)  # error 0: five times as long next


def test_rk45_parts_follow_the_error():
    """0.9 error^(-1/5), between a fifth and five; a refused part is tried again, shorter."""

    def denoise(x, sigma):  # slope sigma^5, which the method does not integrate exactly
        return x - sigma * (scale * sigma**5)

    for scale, atol in [(1.0, 1e-2), (1e3, 1e-9), (1e-3, 1e-3)]:
        wrapped, calls = counted(denoise)
        first, _, (length, count) = samplers.rk45(1e-15, atol)(
            wrapped, np.zeros(1), Interval(0, 1, 1, 2.0, 1.0), (), None
        )
        assert count == len(calls)
        exact = scale * (1 - 2.0**6) / 6
        assert abs(first[0] - exact) < 20 * (atol + 1e-15 * abs(exact)) * max(1, count / 6)
        assert length > 0


def test_rk45_tolerance_is_absolute_plus_relative():
    """Sizes at which one part of a known error is just accepted, or just refused."""

    def denoise(x, sigma):
        return x - sigma * (x * 0.0 + sigma**5)

    def evaluations(rtol, atol, offset):
        wrapped, calls = counted(denoise)
        samplers.rk45(rtol, atol)(
            wrapped, np.full(1, offset), Interval(0, 1, 1, 2.0, 1.0), (), None
        )
        return len(calls)

    gap = one_part_error()
    assert evaluations(1e-300, gap * 1.01, 0.0) == 7
    assert evaluations(1e-300, gap * 0.99, 0.0) > 7
    for offset in (1000.0, -1000.0):  # the larger of both ends counts: -1000 and -1010.5
        larger = max(abs(offset), abs(offset + (1 - 2.0**6) / 6))
        assert evaluations(gap * 1.01 / larger, 1e-300, offset) == 7
        assert evaluations(gap * 0.99 / larger, 1e-300, offset) > 7
    worst = np.asarray([[0.0, 0.0], [0.0, 0.0]])
    spiky = np.asarray([[0.0, 0.0], [0.0, 1.0]])  # one element decides for all
    wrapped, calls = counted(lambda x, s: x - s * spiky * s**5)
    samplers.rk45(1e-300, gap * 0.99)(wrapped, worst, Interval(0, 1, 1, 2.0, 1.0), (), None)
    assert len(calls) > 7


def one_part_error():
    """Return the difference of the two embedded methods over [2, 1], for the slope s^5."""
    from scipy.integrate import RK45

    nodes = 2.0 - np.asarray([*RK45.C, 1.0])
    return abs(np.dot(RK45.E, nodes**5))


def test_rk45_keeps_its_step_across_the_grid():
    """The last part is cut to fit the grid; the length found before is kept for the next step."""
    step = samplers.rk45(1e-6, 1e-6)
    x = X
    sigma = HIGH
    history = ()
    lengths = []
    for sigma_next in (0.8, 0.79, 0.5):
        x, _, history = step(
            MIXTURE.denoise, x, Interval(0, 1, 1, sigma, sigma_next), history, None
        )
        lengths.append(history[0])
        sigma = sigma_next
    assert lengths[1] >= lengths[0] > 0.01


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rk45_gives_nan_back_and_does_not_hang(bad):
    denoise, calls = counted(lambda x, s: bad * x if s < 1.9 else 0.5 * x)
    x, _, _ = samplers.rk45(1e-9, 1e-9)(denoise, np.ones(2), Interval(0, 1, 1, 2.0, 1.0), (), None)
    assert np.isnan(x).any() and len(calls) < 200


def test_rk45_passes_a_jump_in_the_denoiser():
    """No part is shorter than 2^-20 of the level: below is rounding."""
    denoise, calls = counted(lambda x, s: x - s * np.where(s > math.sqrt(2), 100.0, 0.0))
    x, _, _ = samplers.rk45(1e-12, 1e-12)(
        denoise, np.zeros(1), Interval(0, 1, 1, 2.0, 1.0), (), None
    )
    assert x[0] == pytest.approx(100.0 * (math.sqrt(2) - 2), rel=1e-5)
    assert len(calls) < 1000


def test_rk45_grows_at_most_five_times():
    """Also where the error is small but not 0."""
    step = samplers.rk45(1.0, 1e6)
    _, _, (length, count) = step(MIXTURE.denoise, X, Interval(0, 1, 1, 1.0, 0.5), (), None)
    assert (length, count) == (2.5, 7)
