"""RePaint: the schedule is the paper's, and it does what it is for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ldmref.samplers import Interval, ancestral, dpmpp_2m, sample
from ldmref.samplers.repaint import repaint_visits


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 6))
def test_every_interval_is_visited_as_often_as_requested(steps, length, times):
    places = repaint_visits(steps, length, times)
    moves = np.diff(places)
    assert places[0] == 0 and places[-1] == steps and set(moves) <= {1, -length}
    jumps = len(range(0, steps - length, length)) * (times - 1)
    assert (moves < 0).sum() == jumps and (moves > 0).sum() == steps + jumps * length
    assert places.count(steps) == 1  # never back from the clean end


def test_the_visits_by_hand_from_any_sigma_on():
    """Two steps denoised three times, at the end first; later runs go on from their first sigma."""
    visits = [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4]
    assert repaint_visits(4, 2, 3) == visits
    assert repaint_visits(4, 2, 3, first=7) == [7 + i for i in visits]
    assert repaint_visits(4, 4, 3) == repaint_visits(4, 1, 1) == [0, 1, 2, 3, 4]
    assert repaint_visits(4, 3, 2) == [0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_without_jumps_it_is_the_sampler():
    sigmas = [5.0, 3.0, 1.0, 0.5, 0.0]
    a = list(sample(lambda x, s: np.tanh(x), np.ones(3), sigmas, dpmpp_2m()))
    for visits in (range(5), repaint_visits(4, 9, 3), repaint_visits(4, 2, 1)):
        b = list(sample(lambda x, s: np.tanh(x), np.ones(3), sigmas, dpmpp_2m(), visits=visits))
        assert [s.i for s in b] == [0, 1, 2, 3] and (a[-1].x == b[-1].x).all()


def test_a_jump_is_the_forward_process_and_forgets_the_history():
    seen = []

    def step(denoise, x, interval, history, noise):
        seen.append((interval, history))
        return 0 * x, x, (*history, interval.sigma)

    draws = np.random.default_rng(0)
    noise = lambda: draws.standard_normal(40_000)  # noqa: E731
    states = list(
        sample(
            None,
            np.zeros(40_000),
            [5.0, 4.0, 3.0, 0.0],
            step,
            visits=[0, 1, 2, 0, 1, 2, 3],
            noise=noise,
        )
    )
    assert [history for _, history in seen] == [(), (5.0,), (), (5.0,), (5.0, 4.0)]
    assert [interval.i for interval, _ in seen] == [s.i for s in states] == [0, 1, 0, 1, 2]
    assert seen[2][0] == Interval(0, 1, 3, 5.0, 4.0, ahead=(3.0, 0.0))
    assert abs(states[2].x0.std() - 4.0) < 0.06  # sqrt(5^2 - 3^2)


def test_resampling_makes_the_unknown_part_fit_the_known():
    """Two coordinates with correlation 0.9, one of them known: without resampling, the other one
    knows of it too late, and the correlation comes out too small."""
    rho = 0.9
    n = 20_000
    cov = np.array([[1.0, rho], [rho, 1.0]])
    draws = np.random.default_rng(1)
    known = draws.standard_normal(n)
    sigmas = np.append(np.geomspace(30.0, 0.05, 24), 0.0)

    def denoise(x, sigma):
        return x @ np.linalg.solve(cov + sigma**2 * np.eye(2), cov)

    def constrain(x, interval):
        return np.stack([known + interval.sigma_next * draws.standard_normal(n), x[:, 1]], axis=1)

    def correlation(times):
        start = draws.standard_normal((n, 2)) * 30.0
        states = sample(
            denoise,
            start,
            sigmas,
            ancestral(1.0),
            visits=repaint_visits(24, 4, times),
            noise=lambda: draws.standard_normal((n, 2)),
            constrain=constrain,
        )
        return np.corrcoef(list(states)[-1].x.T)[0, 1]

    once = correlation(1)
    often = correlation(8)
    assert once < 0.8 and abs(often - rho) < 0.3 * abs(once - rho)
