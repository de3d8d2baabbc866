"""ComfyUI's samplers: the ends of its own functions, and the oracle's loops over whole runs.

`ENDS` was printed by the functions of `comfy/k_diffusion/sampling.py` (torch, float64) for the runs
below, with the mixture as the model. er_sde places its 200 points in single precision there.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from test_named_elsewhere import MIXTURE, START

from ldmref import math as lm
from ldmref import samplers
from ldmref.samplers import SAMPLERS
from ldmref.samplers.ipndm_v import published_weights
from ldmref.samplers.loop import run_intervals
from ldmref.samplers.multistep import adams_bashforth_rule

NOISES = np.random.default_rng(1).standard_normal((60, 5, 2))
POSITIVE = lm.karras_sigmas(9, 0.05, 10.0).tolist()
ENDS = [  # function, step, first of the five points at the end of the run
    ("sample_heunpp2", samplers.heunpp2(), (0.6342295927, 0.2096315388)),
    ("sample_ipndm_v", samplers.ipndm_v(), (0.6975512805, 0.2319702683)),
    ("sample_er_sde", samplers.er_sde(), (1.019464304, 0.2335097308)),
    ("sample_er_sde, max_stage=2", samplers.er_sde(2), (1.016088828, 0.2338285921)),
    ("sample_seeds_2", samplers.seeds_2(), (1.19338896, 0.4407809083)),
    (
        "sample_seeds_2, eta=0.5, r=0.7, phi_2",
        samplers.seeds_2(0.5, 0.7, "phi_2"),
        (1.152137407, 0.3539708891),
    ),
    ("sample_seeds_3", samplers.seeds_3(), (1.4178581018, 0.787402289)),
    ("sample_seeds_3, eta=0", samplers.seeds_3(0.0), (0.6914906625, 0.2299925658)),
    ("sample_exp_heun_2_x0", "exp_heun_2_x0", (0.6756556721, 0.2236850916)),
    ("sample_exp_heun_2_x0_sde", "exp_heun_2_x0_sde", (0.9321932232, -0.3733724989)),
]
ENDS_AT_0 = [
    ("sample_heunpp2", "heunpp2", (0.6394835262, 0.2136108813)),
    ("sample_er_sde", "er_sde", (1.0191068316, 0.2374742134)),
    ("sample_seeds_2", "seeds_2", (1.1904021419, 0.4416597727)),
    ("sample_seeds_3", "seeds_3", (1.411428274, 0.7829757866)),
    ("sample_exp_heun_2_x0", "exp_heun_2_x0", (0.6803975743, 0.2275754912)),
]


def ours(step, sigmas):
    noises = iter(NOISES)
    step = SAMPLERS[step].make() if isinstance(step, str) else step
    run = samplers.sample(MIXTURE.denoise, START, sigmas, step, noise=lambda: next(noises))
    return list(run)[-1].x


def assert_end(step, sigmas, want):
    near = 1e-7 if step == "er_sde" or "er_sde" in repr(step) else 1e-9
    np.testing.assert_allclose(ours(step, sigmas)[0], want, rtol=0, atol=near)


@pytest.mark.parametrize("function,step,want", ENDS, ids=[row[0] for row in ENDS])
def test_ends_of_comfyui(function, step, want):
    assert_end(step, POSITIVE, want)


@pytest.mark.parametrize("function,step,want", ENDS_AT_0, ids=[row[0] for row in ENDS_AT_0])
def test_ends_of_comfyui_at_sigma_0(function, step, want):
    assert_end(step, [*POSITIVE, 0.0], want)


def test_er_sde_in_the_variance_preserving_process_of_the_paper():
    """Equations of ER-SDE-Solver-3 in (alpha, sigma, lambda = sigma / alpha), over a whole run."""

    def phi(level):
        return level * (math.exp(level**0.3) + 10.0)

    def scales(level):
        return 1.0 / math.hypot(1.0, level), level / math.hypot(1.0, level)

    alpha, _ = scales(POSITIVE[0])
    y = alpha * START
    past = []
    noises = iter(NOISES)
    for s, t in itertools.pairwise(POSITIVE):
        alpha, _ = scales(s)
        alpha_t, _ = scales(t)
        x0 = MIXTURE.denoise(y / alpha, s)
        past = [(s, x0), *past][:3]
        y = alpha_t / alpha * phi(t) / phi(s) * y + alpha_t * (1.0 - phi(t) / phi(s)) * x0
        points = np.linspace(t, s, 200, endpoint=False)
        inverse = (s - t) / 200 / np.asarray([phi(p) for p in points])
        if len(past) > 1:
            first = (past[0][1] - past[1][1]) / (past[0][0] - past[1][0])
            y = y + alpha_t * (t - s + phi(t) * inverse.sum()) * first
        if len(past) > 2:
            before = (past[1][1] - past[2][1]) / (past[1][0] - past[2][0])
            second = (first - before) / (0.5 * (past[0][0] - past[2][0]))
            weight = 0.5 * (t - s) ** 2 + phi(t) * (inverse * (points - s)).sum()
            y = y + alpha_t * weight * second
        up = math.sqrt(t**2 - (s * phi(t) / phi(s)) ** 2)
        y = y + alpha_t * up * next(noises)
    x = y / scales(POSITIVE[-1])[0]
    np.testing.assert_allclose(ours("er_sde", POSITIVE), x, rtol=0, atol=1e-12)


def test_the_three_slips_in_the_weights_of_ipndm_v():
    equal = [published_weights([5.0, 6.0, 7.0][:k], 4.0, 3.0) for k in range(4)]
    for weights, want in zip(equal, ([24], [36, -12], [46, -32, 10]), strict=False):
        np.testing.assert_allclose(np.asarray(weights) * 24, want, rtol=1e-12)
    # a sign: Adams-Bashforth's are 55, -59, 37, -9
    np.testing.assert_allclose(np.asarray(equal[3]) * 24, [57, -65, 43, -11], rtol=1e-12)
    # a bracket, with unequal steps
    past = [4.0, 6.0]
    right = [w / -2.0 for w in adams_bashforth_rule(past, 3.0, 1.0)]
    assert published_weights(past, 3.0, 1.0)[1] != pytest.approx(right[0], abs=0.1)
    one = published_weights(past[:1], 3.0, 1.0)[1]
    assert one == pytest.approx(adams_bashforth_rule(past[:1], 3.0, 1.0)[0] / -2.0, abs=1e-12)
    # a ratio
    geometric = published_weights([4.0, 8.0, 16.0], 2.0, 1.0)
    unequal = published_weights([4.0, 5.0, 9.0], 3.0, 2.5)
    assert sum(geometric) == pytest.approx(1.0, abs=1e-12)
    assert abs(sum(unequal) - 1.0) > 0.01


def test_seeds_without_noise_are_exponential_methods_of_dpm_solver():
    """SEEDS-2 with r = 1/2 and eta = 0 is DPM-Solver++(2S)."""
    got = ours(samplers.seeds_2(0.0), POSITIVE)
    np.testing.assert_allclose(got, ours("dpmpp_2s", POSITIVE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_stages_of_seeds_3_are_thirds_of_the_step_in_log_sigma(eta):
    levels = []

    def denoise(x, sigma):
        levels.append(sigma)
        return 0.0 * x

    one = np.ones((1, 1))
    list(samplers.sample(denoise, one, [8.0, 1.0], samplers.seeds_3(eta), noise=lambda: one))
    np.testing.assert_allclose(levels, [8.0, 4.0, 2.0], rtol=1e-12)


def test_a_straight_path_stays_straight_where_the_weights_of_ipndm_v_sum_to_1():
    for sigmas, straight in (
        ([31.0, 15.0, 7.0, 3.0, 1.0], True),
        ([10.0, 8.0, 7.0, 3.0, 1.0], False),
    ):
        run = samplers.sample(lambda x, s: x - 2.0 * s, np.ones(1), sigmas, samplers.ipndm_v())
        end = 1.0 + 2.0 * (sigmas[-1] - sigmas[0])
        assert (abs(list(run)[-1].x[0] - end) < 1e-9) == straight


def test_each_stage_of_seeds_has_the_right_variance():
    """For data at 0 the state at each stage is noise of the stage's level, whatever the history."""
    levels = [8.0, 2.0]
    for name in ("seeds_2", "seeds_3", "exp_heun_2_x0_sde"):
        paths = 40_000
        stream = np.random.default_rng(0)
        seen = []

        def denoise(x, sigma, seen=seen):
            seen.append((sigma, float(x.std())))
            return 0.0 * x

        start = levels[0] * stream.standard_normal((paths, 1))
        step = SAMPLERS[name].make()
        *_, last = samplers.sample(
            denoise, start, levels, step, noise=lambda s=stream, n=paths: s.standard_normal((n, 1))
        )
        seen.append((levels[1], float(last.x.std())))
        for sigma, spread in seen:  # four standard errors, 1 / sqrt(2 n) each
            assert spread == pytest.approx(sigma, rel=4 / math.sqrt(2 * paths))


def test_heunpp2_counts_its_last_steps_from_the_end_of_the_run():
    """img2img and jumps of RePaint shorten what is ahead; sigma_0 is the run's first level."""
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return 0.5 * x

    sigmas = [4.0, 3.0, 2.0, 1.0]
    one = np.ones((1, 1))
    run = dict(noise=lambda: one)
    list(samplers.sample(denoise, one, sigmas, samplers.heunpp2(), visits=[1, 2, 3], **run))
    assert calls == [3.0, 2.0, 2.0]
    calls.clear()
    list(samplers.sample(denoise, one, sigmas, samplers.heunpp2(), visits=[0, 1, 2, 1, 2], **run))
    assert calls == [4.0, 3.0, 3.0, 3.0]


def test_levels_ahead_end_at_a_jump():
    got = [(at.i, at.i_next, at.ahead) for at in run_intervals([3.0, 2.0, 1.0, 0.0], [0, 2, 1, 3])]
    assert got == [(0, 2, ()), (2, 1, (0.0,)), (1, 3, ())]
