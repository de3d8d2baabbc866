"""Defaults of the step makers, and the arguments that they hand on."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.samplers import (
    ancestral,
    deis,
    dpm_solver,
    dpmpp_2m,
    dpmpp_3m,
    dpmpp_sde,
    lms,
    rk45,
    sample,
    unipc,
    with_noise,
)
from ldmref.samplers.inversion import implicit
from ldmref.testing.mixture import three_modes

SIGMAS = [5.0, 3.0, 2.0, 1.4, 1.0, 0.7, 0.5]


def end(step, sigmas=SIGMAS):
    rng = np.random.default_rng(1)
    x = sigmas[0] * np.random.default_rng(0).standard_normal((3, 2))
    denoise = three_modes().denoise
    return list(sample(denoise, x, sigmas, step, noise=lambda: rng.standard_normal((3, 2))))[-1].x


@pytest.mark.parametrize(
    ("default", "said"),
    [
        (ancestral(), ancestral(0.0)),
        (with_noise(ancestral()), with_noise(ancestral(0.0), 1.0)),
        (dpm_solver(), dpm_solver(2)),
        (dpmpp_sde(), dpmpp_sde(1.0, 0.5)),
        (dpmpp_2m(), dpmpp_2m(0.0, "midpoint")),
        (dpmpp_3m(), dpmpp_3m(1.0)),
        (deis(), deis(2, "euler")),
        (lms(), lms(4, "runge_kutta")),
        (unipc(), unipc(2, "bh2", True)),
        (implicit(), implicit(5)),
    ],
)
def test_defaults(default, said):
    np.testing.assert_array_equal(end(default), end(said))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dpm_solver(2), dpm_solver(3)),
        (deis(2), deis(3)),
        (unipc(2), unipc(3)),
        (lms(4), lms(4, "euler")),
        (dpmpp_sde(1.0, 0.5), dpmpp_sde(1.0, 1.0)),
        (implicit(5), implicit(6)),
    ],
)
def test_defaults_differ_from_others(one, other):
    assert np.abs(end(one) - end(other)).max() > 1e-9


def test_with_noise_hands_memory_and_noise_to_the_inner_step():
    seen = []

    def inner(denoise, x, interval, history, noise):
        seen.append((history, noise()))
        return x, x, (len(seen),)

    list(sample(lambda x, s: x, np.zeros(1), [3.0, 2.0, 1.0], with_noise(inner), noise=lambda: 7.0))
    assert seen == [((), 7.0), ((1,), 7.0)]


def test_tolerances_of_rk45():
    """Both count, and neither is large by default."""
    coarse = [40.0, 0.05]
    default = end(rk45(), coarse)
    np.testing.assert_array_equal(default, end(rk45(1e-5, 1e-5), coarse))
    for other in (rk45(1.0, 1e-5), rk45(1e-5, 1.0)):
        assert np.abs(default - end(other, coarse)).max() > 1e-6
