"""Levels of a step's own, and levels that a schedule repeats."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sampling import solve
from test_named_elsewhere import MIXTURE, NOISES, START

from ldmref import samplers
from ldmref.samplers import (
    SAMPLERS,
    Guided,
    GuidedDenoiser,
    SchedulerConfig,
    configured_step,
    get_sampler,
    make_schedule,
    sample,
)
from ldmref.samplers.clipping import clip_predictions, clip_to
from ldmref.samplers.diffusers.steps import constrain_evaluations
from ldmref.samplers.spacings import timesteps_at

DIFFUSERS = SchedulerConfig(convention="diffusers", final_sigma="zero", sigma_max=1e5)


def timesteps_of(schedule, step, constrain=None):
    """Return (sigma, timestep) of every evaluation in a run."""
    seen = []

    def predict(x, sigma, memory, unconditional, interval, scale):
        seen.append((sigma, schedule.timestep(sigma, interval)))
        return Guided(0.5 * x, None, ())

    one = np.ones((1, 1))
    list(sample(GuidedDenoiser(predict), one, schedule.sigmas, step, noise=lambda: one))
    return seen


@pytest.mark.parametrize("wrapped", ["plain", "clipped", "constrained"])
def test_a_middle_level_is_interpolated_though_it_equals_the_end_by_rounding(wrapped):
    """At eta = 1 the middle of DPM2 ancestral is sigma' up to the last bit."""
    equal = 0
    for steps in range(3, 30):
        sampler = get_sampler("dpm_solver_2_a")
        schedule = make_schedule(DIFFUSERS, sampler, "karras", steps)
        step, _ = configured_step(DIFFUSERS, sampler, schedule)
        if wrapped == "clipped":
            step = clip_predictions(step, clip_to(5.0))
        elif wrapped == "constrained":
            step = constrain_evaluations(step, lambda x, interval: x, 0)
        seen = timesteps_of(schedule, step)
        middles = seen[1:-1:2]
        assert len(middles) == steps - 1
        equal += sum(s == e for (s, _), e in zip(middles, schedule.sigmas[1:-1], strict=True))
        for (level, t), end in zip(middles, schedule.sigmas[1:-1], strict=True):
            assert level == pytest.approx(end, rel=1e-14)
            assert t == float(timesteps_at(schedule.training_sigmas, level))
        assert [t for _, t in seen[::2]] == schedule.timesteps.tolist()
    assert equal > 50  # the comparison that decided before was true for these


MULTISTEP = [n for n, s in SAMPLERS.items() if s.family == "multistep" and not s.stochastic]


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_repeated_level_changes_nothing(name):
    """diffusers' schedules of 1000 steps repeat a timestep; its own DPM-Solver gives NaN there."""
    once = [8.0, 5.0, 3.0, 2.0, 1.2, 0.8, 0.5]
    twice = [8.0, 8.0, 5.0, 3.0, 3.0, 3.0, 2.0, 1.2, 0.8, 0.5, 0.5]
    step = SAMPLERS[name].make()
    got = solve(step, MIXTURE.denoise, START, twice).x
    assert np.isfinite(got).all()
    if not SAMPLERS[name].block and not name.startswith("unipc"):  # both use the new prediction
        np.testing.assert_allclose(
            got, solve(step, MIXTURE.denoise, START, once).x, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_3m_sde", "dpm_solver_2m_sde"])
def test_a_repeated_level_draws_no_noise(name):
    ends = []
    for sigmas in ([8.0, 5.0, 3.0, 2.0, 1.2], [8.0, 5.0, 5.0, 3.0, 3.0, 2.0, 1.2]):
        noises = iter(NOISES)
        ends.append(
            solve(name, MIXTURE.denoise, START, sigmas, lambda noises=noises: next(noises)).x
        )
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["deis", "deis_3_euler", "unipc", "unipc_3"])
@pytest.mark.parametrize("spacing", ["karras", "exponential", "beta_sigma"])
def test_one_step_repeats_the_only_sigma_of_deis_and_unipc(name, spacing):
    config = replace(DIFFUSERS, final_sigma="sigma_min")
    schedule = make_schedule(config, get_sampler(name), spacing, 1)
    assert schedule.sigmas[0] == schedule.sigmas[1] > 14.0
    assert make_schedule(config, get_sampler("dpmpp_2m"), spacing, 1).sigmas[1] < 0.03
    step, _ = configured_step(config, get_sampler(name), schedule)
    np.testing.assert_array_equal(solve(step, MIXTURE.denoise, START, schedule.sigmas).x, START)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_tcd_jumps_to_a_whole_timestep(eta):
    table = np.geomspace(0.03, 15.0, 1000)
    below = table[math.floor(np.float32(1.0 - eta) * np.float32(400))]
    draws = []

    def noise():
        draws.append(1)
        return np.zeros(1)

    end = solve(
        samplers.tcd(eta, table), lambda x, s: 0.0 * x, np.ones(1), table[[900, 400]], noise
    )
    assert end.x == pytest.approx(below / table[900], rel=1e-12) and len(draws) == int(eta > 0)
    for target in (0.0, table[0], np.float32(table[0]), table[0] * (1 + 1e-6)):  # the end of a run
        solve(
            samplers.tcd(eta, table), lambda x, s: 0.0 * x, np.ones(1), [table[900], float(target)]
        )


def test_tcd_without_timesteps_takes_a_share_of_the_noise_level():
    end = solve(
        samplers.tcd(0.25), lambda x, s: 0.0 * x, np.ones(1), [4.0, 2.0], lambda: np.zeros(1)
    )
    assert end.x == pytest.approx(0.75 * 2.0 / 4.0)
    with pytest.raises(ValueError, match=r"eta must be from 0 to 1, not 1\.5"):
        samplers.tcd(1.5)
