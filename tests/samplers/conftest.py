"""Shared by all tests of samplers: the exact flow of a mixture, and orders measured on it."""

from __future__ import annotations

import numpy as np
import pytest
from sampling import HIGH, LOW, solve
from scipy.integrate import solve_ivp

from ldmref.math import exponential_sigmas
from ldmref.testing.mixture import three_modes


@pytest.fixture(scope="session")
def flow():
    """(mixture, start at HIGH, end at LOW): the end by DOP853, an 8th-order method, at 1e-12."""
    problem = three_modes()
    stream = np.random.default_rng(0)
    start = problem.sample(64, stream) + HIGH * stream.standard_normal((64, 2))

    def slope(sigma, x):
        x = x.reshape(64, 2)
        return ((x - problem.denoise(x, sigma)) / sigma).ravel()

    solved = solve_ivp(slope, (HIGH, LOW), start.ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return problem, start, solved.y[:, -1].reshape(64, 2)


@pytest.fixture(scope="session")
def measured_order(flow):
    """Order of a step function: the slope of log error against log number of steps."""
    problem, start, end = flow

    def measure(step, counts=(64, 128, 256)):
        errors = [
            np.abs(
                solve(step, problem.denoise, start, exponential_sigmas(n + 1, LOW, HIGH)).x - end
            )
            for n in counts
        ]
        return -np.polyfit(np.log(counts), np.log([e.max() for e in errors]), 1)[0]

    return measure
