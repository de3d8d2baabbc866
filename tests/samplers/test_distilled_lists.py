"""The lists of timesteps of docs/modes.md, with which distilled checkpoints of SDXL run."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from ldmref.models import preset
from ldmref.samplers import SAMPLERS, make_schedule, sample
from ldmref.samplers.schedule import training_alphas_cumprod

PAGE = (Path(__file__).parents[2] / "docs/modes.md").read_text("utf-8")
ROWS = re.findall(
    r"^\| ((?:LCM|TCD|DMD2)[^|]*) \| `([^`]*)`[^|]*\| ([\d, ]+) \|$", PAGE, re.MULTILINE
)
SDXL = preset("sdxl").scheduler
CONFIGS = [SDXL, replace(SDXL, convention="diffusers", final_sigma="zero")]


def schedule_of(arguments, config):
    words = arguments.split()
    told = dict(zip(words[::2], words[1::2], strict=True))
    sigmas = [float(level) for level in told.get("--sigmas", "").split(",") if level] or None
    steps = len(sigmas) - 1 if sigmas else int(told["--steps"])
    sampler = SAMPLERS[told["--sampler"]]
    return make_schedule(config, sampler, told.get("--schedule"), steps, sigmas)


@pytest.mark.parametrize("config", CONFIGS, ids=["single file", "diffusers folder"])
def test_the_arguments_of_the_page_give_its_timesteps(config):
    assert len(ROWS) == 4
    for name, arguments, shown in ROWS:
        timesteps = schedule_of(arguments, config).timesteps
        assert timesteps == pytest.approx([float(t) for t in shown.split(",")], abs=1e-3), name


@pytest.mark.parametrize("config", CONFIGS, ids=["single file", "diffusers folder"])
def test_the_lists_of_dmd2_make_its_steps(config):
    """x0 from the noise that the network predicts at t, then fresh noise at the next t."""
    alphas_cumprod = training_alphas_cumprod(config)
    noises = np.random.default_rng(0).standard_normal((5, 1, 3))

    def network(xt, t):
        return np.tanh(xt) * (0.5 + t / 2000)

    def denoise(x, sigma):
        xt = x / np.hypot(1.0, sigma)
        return x - sigma * network(xt, schedule.timestep(sigma, None))

    for arguments in (row[1] for row in ROWS if row[0].startswith("DMD2")):
        schedule = schedule_of(arguments, config)
        timesteps = np.rint(schedule.timesteps).astype(int).tolist()
        expected = noises[0]
        for t, after, fresh in zip_longest(timesteps, timesteps[1:], noises[1 : len(timesteps)]):
            signal = alphas_cumprod[t]
            x0 = (expected - np.sqrt(1 - signal) * network(expected, t)) / np.sqrt(signal)
            expected = x0
            if after is not None:
                kept = alphas_cumprod[after]
                expected = np.sqrt(kept) * x0 + np.sqrt(1 - kept) * fresh
        drawn = iter(noises[1:])
        start = noises[0] * schedule.init_noise_sigma
        step = SAMPLERS["lcm"].make()
        *_, last = sample(denoise, start, schedule.sigmas, step, noise=lambda d=drawn: next(d))
        assert last.x == pytest.approx(expected, rel=1e-5)
