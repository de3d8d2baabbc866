"""Numbers of docs/math/differences.md: root mean squares over 2,000 samples of the mixture.

The seeds are fixed; the statistical error of these numbers is 2 % at most, and 5 % are allowed.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from other_programs import grid_of
from test_schedulers import BETAS, GRID, LATENT, MIXTURE, SD, on_table

from ldmref import samplers
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.models.presets import PRESETS
from ldmref.samplers import (
    SAMPLERS,
    SchedulerConfig,
    configured_step,
    get_sampler,
    invert,
    make_schedule,
    sample,
)
from ldmref.samplers.diffusers.steps import plms, wrong_second_difference

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

N = 20
TABLE = np.sqrt((1 - SD) / SD)
UNIT = np.random.default_rng(0).standard_normal((2000, 2))
PAGE = (Path(__file__).parents[2] / "docs" / "math" / "differences.md").read_text()


def rms(off):
    return float(np.sqrt(np.mean(off**2)))


def assert_stated(text: str, number: float, measured: float) -> None:
    """Check that the number is measured, and that the page has the text with it."""
    assert measured == pytest.approx(number, rel=0.05)
    assert f"{number:g}" in text.replace("0.30", "0.3") and text in PAGE, text


def run(step, sigmas, noise=None):
    start = sigmas[0] * UNIT
    return list(sample(MIXTURE.denoise, start, sigmas, step, noise=noise))


def eps_at(x, t):
    """Return the noise in the variance-preserving x, of a network that is told timestep t."""
    scale = np.sqrt(1 + TABLE[t] ** 2)
    return torch.from_numpy((x * scale - MIXTURE.denoise(x * scale, TABLE[t])) / TABLE[t])


@pytest.mark.parametrize(
    "spacing,steps,off,apart,text",
    [
        ("linspace", 10, 9, 0.062, "`linspace`, 10 steps: 9 of 9 wrong, samples 0.062 apart"),
        ("trailing", 30, 10, 0.0039, "`trailing`, 30 steps: 10 of 29, 0.0039 apart"),
    ],
)
def test_ddim_of_diffusers_steps_to_timesteps_that_are_not_next(spacing, steps, off, apart, text):
    """It goes to t - T // n, while the network then sees the next timestep of the list."""
    scheduler = on_table("DDIMScheduler", steps, timestep_spacing=spacing, **LATENT)
    t = scheduler.timesteps.tolist()
    assert sum(a - 1000 // steps != b for a, b in itertools.pairwise(t)) == off
    sigmas = grid_of(SD, steps, "diffusers", spacing, "ddim").sigmas
    x = sigmas[0] * UNIT / np.sqrt(1 + sigmas[0] ** 2)
    for i in t:
        x = scheduler.step(eps_at(x, i), i, torch.from_numpy(x)).prev_sample.numpy()
    theirs = x * np.sqrt(1 + sigmas[-1] ** 2)
    assert_stated(text, apart, rms(run(SAMPLERS["ddim"].make(), sigmas)[-1].x - theirs))


def test_lms_integrates_its_polynomial_to_zero():
    states = run(samplers.lms(4, "euler"), np.append(GRID, 0.0))
    straight = MIXTURE.denoise(states[-2].x, GRID[-1])
    assert_stated("samples 0.0024 from $`x_0`$", 0.0024, rms(states[-1].x - straight))


@pytest.mark.parametrize(
    "name,apart,text",
    [
        (
            "even in log sigma",
            0.082,
            "0.082 from $`\\sigma`$ = 8 to 0.05 evenly in $`\\log\\sigma`$",
        ),
        ("karras", 0.15, "20 steps: samples 0.15 apart with Karras' sigmas"),
        ("linspace", 0.3, "0.30 with diffusers' `linspace` and `leading`"),
        ("leading", 0.3, "0.30 with diffusers' `linspace` and `leading`"),
    ],
)
def test_dpmpp_3m_sde_of_diffusers_over_whole_runs(name, apart, text):
    """Its wrong sign in the third-order step; that this is its step, test_schedulers.py shows."""
    sigmas = GRID
    if name != "even in log sigma":
        config = SchedulerConfig(convention="diffusers", final_sigma="zero", sigma_max=1e5)
        sigmas = make_schedule(config, get_sampler("dpmpp_3m_sde"), name, N).sigmas
    ends = []
    for wrapped in (lambda step: step, wrong_second_difference):
        noises = iter(np.random.default_rng(1).standard_normal((2 * N, *UNIT.shape)))
        step = wrapped(samplers.dpmpp_3m())
        ends.append(run(step, sigmas, lambda noises=noises: next(noises))[-1].x)
    assert_stated(text, apart, rms(ends[0] - ends[1]))


def test_pndm_of_diffusers_averages_outputs():
    sigmas = make_schedule(SchedulerConfig(), get_sampler("pndm"), "leading", N).sigmas
    targets = sigmas[1:].tolist()

    def second(interval):
        return interval, interval.sigma

    ends = [run(plms(targets, second, kind), sigmas)[-1].x for kind in ("eps", "v")]
    assert_stated("`leading`, 20 steps: samples 0.044 apart", 0.044, rms(ends[0] - ends[1]))


def test_inversion_of_diffusers_tells_the_network_the_upper_timestep():
    """As null-text inversion does; here it is told the state's own."""
    scheduler = diffusers.DDIMInverseScheduler(**BETAS, **LATENT)
    scheduler.alphas_cumprod = torch.tensor(SD)
    scheduler.initial_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(50)
    t = scheduler.timesteps.tolist()
    sigmas = [TABLE[0], *TABLE[t]]
    data = MIXTURE.sample(2000, np.random.default_rng(0)) + sigmas[0] * UNIT
    x = data / np.sqrt(1 + sigmas[0] ** 2)
    for i in t:
        x = scheduler.step(eps_at(x, i), i, torch.from_numpy(x)).prev_sample.numpy()
    theirs = x * np.sqrt(1 + sigmas[-1] ** 2)
    ours = list(invert(MIXTURE.denoise, data, sigmas))[-1].x
    apart = rms(ours - theirs) / np.sqrt(1 + sigmas[-1] ** 2)  # as latents, of order 1
    assert_stated("noises 0.069 apart", 0.069, apart)
    back = []
    for noise in (theirs, ours):
        end = list(sample(MIXTURE.denoise, noise, sigmas[::-1], SAMPLERS["ddim"].make()))[-1].x
        back.append(rms(end - data))
    assert_stated("0.014 (theirs)", 0.014, back[0])
    assert_stated("0.045 (here; `implicit`", 0.045, back[1])


@pytest.mark.parametrize(
    "name,lower,error,text",
    [
        ("dpmpp_3m", True, 0.086, "error 0.086"),
        ("unipc_3", True, 0.086, "error 0.086"),
        ("dpmpp_3m", False, 0.38, "0.38 (`dpmpp_3m`)"),
        ("unipc_3", False, 0.64, "0.64 (`unipc_3`)"),
        ("euler", True, 0.14, "that of Euler's method is 0.14"),
    ],
)
def test_lower_orders_at_the_end(name, lower, error, text):
    config = SchedulerConfig(final_sigma="zero", sigma_max=1e5, lower_order_final=lower)
    schedule = make_schedule(config, get_sampler(name), "linspace", 8)
    step, _ = configured_step(config, get_sampler(name), schedule)
    fine = np.geomspace(schedule.sigmas[0], 1e-3, 300)
    exact = run(SAMPLERS["rk4"].make(), fine)[-1].x
    assert_stated(text, error, rms(run(step, schedule.sigmas)[-1].x - exact))


@pytest.mark.parametrize("steps", [8, 16])
@pytest.mark.parametrize("order", [2, 3])
def test_the_last_step_of_deis_with_karras_sigmas_does_nothing(steps, order):
    data = BETAS | {"_class_name": "DEISMultistepScheduler", "use_karras_sigmas": True}
    config = convert_scheduler_config(data | {"solver_order": order})
    schedule = make_schedule(config, get_sampler(config.sampler), config.spacing, steps)
    assert schedule.sigmas[-1] == schedule.sigmas[-2]
    step, _ = configured_step(config, get_sampler(config.sampler), schedule)
    states = run(step, schedule.sigmas)
    assert len(states) == steps and rms(states[-1].x - states[-2].x) < 1e-12


def test_where_karras_sigmas_begin():
    """At the first timestep of `timestep_spacing` in diffusers, at the table's last elsewhere."""
    made = diffusers.EulerDiscreteScheduler(
        **BETAS, use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1
    )
    made.set_timesteps(20)
    folder = SchedulerConfig(convention="diffusers", sigma_max=1e5, final_sigma="zero")
    for config, want in (
        (folder, float(made.sigmas[0])),
        (replace(folder, full_range=True), TABLE[-1]),
    ):
        for name in ("euler", "heun", "lms_euler", "dpm_solver_2"):
            schedule = make_schedule(config, get_sampler(name), "karras", 20)
            assert schedule.sigmas[0] == pytest.approx(want, rel=1e-5)
    for name in ("sd15", "sd2-v", "sdxl"):  # single files, which do not have a scheduler
        schedule = make_schedule(PRESETS[name].scheduler, get_sampler("euler"), "karras", 20)
        assert schedule.sigmas[0] == pytest.approx(TABLE[-1], rel=1e-9)
    assert float(made.sigmas[0]) == pytest.approx(11.03, abs=0.005)
    assert TABLE[-1] == pytest.approx(14.61, abs=0.005)
    assert "`leading`, 20 steps: $`\\sigma`$ = 11.03 instead of 14.61" in PAGE
