"""The implicit step upwards is the inverse of DDIM's step down, where its iteration converges."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.samplers import ancestral, invert, sample
from ldmref.samplers.inversion import implicit
from ldmref.testing.mixture import three_modes

MIXTURE = three_modes()
X = MIXTURE.sample(32, np.random.default_rng(0))


def round_trip(low, iterations):
    up = [low, *np.geomspace(0.05, 20.0, 40)]
    there = list(sample(MIXTURE.denoise, X, up, implicit(iterations)))[-1].x
    back = list(sample(MIXTURE.denoise, there, up[::-1], ancestral(0.0)))[-1].x
    return np.abs(back - X).max()


@pytest.mark.parametrize("low", [0.0, 0.01])
def test_each_iteration_brings_the_round_trip_closer(low):
    errors = [round_trip(low, n) for n in (0, 1, 5, 20)]
    assert errors[0 if low else 1] > 5e-3 and errors[2] < 1e-5 and errors[3] < 1e-13


def test_without_iterations_it_is_ddim_inversion():
    up = [0.1, 0.5, 2.0]
    a, b = (list(invert(MIXTURE.denoise, X, up, step))[-1] for step in (None, implicit(0)))
    assert (a.x == b.x).all() and (a.x0 == b.x0).all()
