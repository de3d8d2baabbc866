"""Samplers and schedules under the names of other programs, against these programs' lines.

ComfyUI's and EDM's loops are written down again from `comfy/k_diffusion/sampling.py` and
`generate.py` of NVlabs/edm, A1111's schedule from `modules/sd_schedulers.py`.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from ldmref import math as lm
from ldmref import modes, samplers
from ldmref.apps.cli.main import cli
from ldmref.models.presets import PRESETS, preset
from ldmref.samplers import ALIASES, SAMPLERS, SchedulerConfig, get_sampler, make_schedule, sample
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.testing.mixture import three_modes

MIXTURE = three_modes()
SIGMAS = [*lm.karras_sigmas(9, 0.05, 10.0).tolist(), 0.0]
START = SIGMAS[0] * np.random.default_rng(0).standard_normal((5, 2))
NOISES = np.random.default_rng(1).standard_normal((20, 5, 2))


def slope(x, sigma):
    return (x - MIXTURE.denoise(x, sigma)) / sigma


def ours(step, sigmas=SIGMAS):
    noises = iter(NOISES)
    step = get_sampler(step).make() if isinstance(step, str) else step
    return list(sample(MIXTURE.denoise, START, sigmas, step, noise=lambda: next(noises)))[-1].x


def assert_same(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_ipndm_of_comfyui():
    weights = {
        1: [1.0],
        2: [3 / 2, -1 / 2],
        3: [23 / 12, -16 / 12, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    x = START
    buffer = []
    for i, (t_cur, t_next) in enumerate(itertools.pairwise(SIGMAS)):
        d_cur = slope(x, t_cur)
        if t_next == 0:
            x = MIXTURE.denoise(x, t_cur)
            break
        slopes = [d_cur, *buffer][: min(4, i + 1)]
        x = x + (t_next - t_cur) * sum(
            w * d for w, d in zip(weights[len(slopes)], slopes, strict=True)
        )
        buffer = [d_cur, *buffer][:3]
    assert_same(ours(samplers.ipndm()), x)


def test_gradient_estimation_of_comfyui():
    x = START
    old_d = None
    ge_gamma = 2.0
    for sigma, after in itertools.pairwise(SIGMAS):
        d = slope(x, sigma)
        if after == 0:
            x = MIXTURE.denoise(x, sigma)
            break
        d_bar = d if old_d is None else ge_gamma * d + (1 - ge_gamma) * old_d
        x = x + d_bar * (after - sigma)
        old_d = d
    assert_same(ours(samplers.gradient_estimation()), x)


@pytest.mark.parametrize("eta,name", [(0.0, "res_multistep"), (1.0, "res_multistep_ancestral")])
def test_res_multistep_of_comfyui(eta, name):
    def phi1(t):
        return math.expm1(t) / t

    def phi2(t):
        return (phi1(t) - 1.0) / t

    x = START
    noises = iter(NOISES)
    old = None
    for i, (sigma, after) in enumerate(itertools.pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, sigma)
        up = min(after, eta * (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5)
        down = (after**2 - up**2) ** 0.5
        if down == 0 or old is None:
            x = x + slope(x, sigma) * (down - sigma)
        else:
            before, before_down = old
            t, t_old, t_next, t_prev = (
                -math.log(s) for s in (sigma, before_down, down, SIGMAS[i - 1])
            )
            h = t_next - t
            c2 = (t_prev - t_old) / h
            b1 = phi1(-h) - phi2(-h) / c2
            b2 = phi2(-h) / c2
            x = math.exp(-h) * x + h * (b1 * denoised + b2 * before)
        if after > 0 and up > 0:
            x = x + next(noises) * up
        old = denoised, down
    assert_same(ours(name), x)


@pytest.mark.parametrize("solver", ["heun", "euler"])
@pytest.mark.parametrize(
    "options",
    [
        dict(S_churn=40.0, S_min=0.05, S_max=50.0, S_noise=1.003),
        dict(S_churn=2.0, S_min=0.3, S_max=5.0, S_noise=1.0),
        dict(S_churn=0.0, S_min=0.0, S_max=math.inf, S_noise=1.0),
    ],
)
def test_churn_of_edm(solver, options):
    """generate.py, edm_sampler, without its rounding of sigmas."""
    num_steps = len(SIGMAS) - 1
    noises = iter(NOISES)
    x_next = START
    for i, (t_cur, t_next) in enumerate(itertools.pairwise(SIGMAS)):
        gamma = min(options["S_churn"] / num_steps, np.sqrt(2) - 1)
        gamma = gamma if options["S_min"] <= t_cur <= options["S_max"] else 0
        t_hat = t_cur + gamma * t_cur
        x_hat = x_next
        if gamma > 0:
            x_hat = x_next + (t_hat**2 - t_cur**2) ** 0.5 * options["S_noise"] * next(noises)
        d_cur = slope(x_hat, t_hat)
        x_next = x_hat + (t_next - t_hat) * d_cur
        if solver == "heun" and i < num_steps - 1:
            d_prime = slope(x_next, t_next)
            x_next = x_hat + (t_next - t_hat) * (0.5 * d_cur + 0.5 * d_prime)
    make = samplers.heun_churn if solver == "heun" else samplers.euler_churn
    names = {"S_churn": "s_churn", "S_min": "s_tmin", "S_max": "s_tmax", "S_noise": "s_noise"}
    assert_same(ours(make(**{names[k]: v for k, v in options.items()})), x_next)


def test_the_default_churn_is_that_of_the_makers():
    for name, make in (("euler_churn", samplers.euler_churn), ("heun_churn", samplers.heun_churn)):
        said = make(s_churn=40.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0)
        np.testing.assert_array_equal(ours(name), ours(said))


@pytest.mark.parametrize("steps", [1, 2, 10, 20])
def test_kl_optimal_of_a1111(steps):
    """kl_optimal in sd_schedulers.py; a single step, which divides by 0 there, is sigma_max."""
    table = sampling_sigmas(SchedulerConfig(sigma_max=1e5))
    got = make_schedule(SchedulerConfig(), get_sampler("euler"), "kl_optimal", steps).sigmas
    i = np.arange(steps) / max(steps - 1, 1)
    want = np.tan(i * np.arctan(table[0]) + (1 - i) * np.arctan(table[-1]))
    np.testing.assert_allclose(got[:-1], want, rtol=1e-12)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_accepted_and_recorded_under_one_name(alias):
    model = preset("sd3-tiny" if "rectified" in alias else "tiny")
    plan = modes.plan("txt2img", model, prompt="", sampler=alias.upper(), steps=2)
    assert plan.params["sampler"] == ALIASES[alias]
    assert get_sampler(alias) is SAMPLERS[ALIASES[alias]]


def test_the_names_of_schedules_are_read_as_a1111_writes_them():
    plan = modes.plan("txt2img", PRESETS["tiny"], prompt="", schedule="KL Optimal", steps=2)
    assert plan.params["schedule"] == "kl_optimal"


def test_the_list_of_samplers_has_their_other_names():
    text = CliRunner().invoke(cli, ["samplers"]).output
    lines = CliRunner().invoke(cli, ["samplers", "--json"]).output.splitlines()
    rows = [json.loads(line) for line in lines]
    by_name = {row["name"]: row["aliases"] for row in rows}
    for alias, name in ALIASES.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert alias in by_name[name] and alias in line
    assert by_name["rk4"] == []
