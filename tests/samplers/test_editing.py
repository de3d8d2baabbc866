"""Editing by flows on exact problems, and against the loops of the published programs."""

from __future__ import annotations

import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ldmref.samplers import (
    FLOW,
    SAMPLERS,
    VE,
    Guided,
    GuidedDenoiser,
    autoguidance,
    flow_edit,
    get_sampler,
    invert,
    rectified_cfgpp,
    sample,
    toward_data,
    toward_noise,
)
from ldmref.samplers.editing import flow_edit_step, rf_inversion_step
from ldmref.testing.mixture import Mixture, three_modes

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("inversion", ROOT / "scripts/measure_inversion.py")
measured = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measured)

MIXTURE = three_modes()
X = np.random.default_rng(0).standard_normal((6, 2))
LEVELS = np.linspace(1.0, 0.0, 9)


def flow_denoiser(problem):
    def denoise(x, s):
        if s >= 1.0:
            return np.broadcast_to(problem.mean(), x.shape)
        return problem.denoise(x / (1.0 - s), s / (1.0 - s))

    return denoise


def part(k):
    return flow_denoiser(Mixture(np.ones(1), MIXTURE.means[k : k + 1], MIXTURE.stds[k : k + 1]))


def velocity(denoise, x, s):
    return (x - denoise(x, s)) / s


def drawn(seed):
    rng = np.random.default_rng(seed)
    return lambda: rng.standard_normal(X.shape)


# -- RF-Solver ------------------------------------------------------------------------------------


def rf_solver_of_the_authors(velocity, x, times):
    """The loop of wangjiangshan0725/RF-Solver-Edit, without the features that it injects."""
    for now, after in pairwise(times):
        v = velocity(x, now)
        v_middle = velocity(x + (after - now) / 2 * v, now + (after - now) / 2)
        slope = (v_middle - v) / ((after - now) / 2)
        x = x + (after - now) * v + 0.5 * (after - now) ** 2 * slope
    return x


@pytest.mark.parametrize("levels", [LEVELS[:-1], LEVELS[::-1] * 0.9 + 0.05], ids=["down", "up"])
def test_rf_solver_is_the_midpoint_method(levels):
    """A Taylor step with the slope of a half step: the first-order terms cancel."""
    denoise = flow_denoiser(MIXTURE)
    want = rf_solver_of_the_authors(lambda x, s: velocity(denoise, x, s), X, levels)
    step = get_sampler("RF_Solver").make()
    run = sample if levels[0] > levels[-1] else invert
    got = list(run(denoise, X, levels, step, path=FLOW))[-1].x
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_the_last_step_of_midpoint_leads_to_the_predicted_data():
    """RF-Solver takes a half step there, too."""
    denoise = flow_denoiser(MIXTURE)
    got = list(sample(denoise, X, [0.25, 0.0], get_sampler("rf_solver").make(), path=FLOW))[-1].x
    np.testing.assert_array_equal(got, denoise(X, 0.25))
    want = rf_solver_of_the_authors(lambda x, s: velocity(denoise, x, s), X, [0.25, 0.0])
    assert 1e-3 < np.abs(got - want).max() < 0.2


# -- RF inversion ---------------------------------------------------------------------------------


def rf_inversion_of_the_paper(velocity, x, wanted, times, strength, noisy):
    """The controlled Euler loops; t of the paper counts from data (1 - s for the way back)."""
    for now, after in pairwise(times):
        v = velocity(x, now)
        aim = (wanted - x) / (1 - now) if noisy else (x - wanted) / now
        x = x + (after - now) * (v + strength * (aim - v))
    return x


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_rf_inversion_of_the_paper(strength):
    denoise = flow_denoiser(MIXTURE)
    noise = drawn(3)()
    euler = SAMPLERS["euler"].make()
    up = np.linspace(0.05, 0.95, 8)

    def v(x, s):
        return velocity(denoise, x, s)

    forward = toward_noise(denoise, noise, strength)
    got = list(invert(forward, X, up, euler, FLOW))[-1].x
    want = rf_inversion_of_the_paper(v, X, noise, up, strength, True)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
    back = toward_data(denoise, X, strength)
    again = list(sample(back, got, [*up[::-1], 0.0], euler, path=FLOW))[-1].x
    want = rf_inversion_of_the_paper(v, got, X, [*up[::-1], 0.0], strength, False)
    np.testing.assert_allclose(again, want, rtol=1e-10, atol=1e-11)
    if strength == 1.0:
        np.testing.assert_allclose(again, X, rtol=1e-10)


def test_control_ends_where_it_should():
    """At strength 1 the way up ends at the noise, and the way down at the data."""
    denoise = flow_denoiser(MIXTURE)
    noise = drawn(4)()
    up = [0.01, 0.4, 0.8, 1.0 - 1e-9]
    found = list(invert(toward_noise(denoise, noise, 1.0), X, up, path=FLOW))[-1].x
    np.testing.assert_allclose(found, noise, atol=1e-7)
    inside = toward_data(denoise, X, 0.5, low=0.3, high=0.6)
    for s, acts in ((0.3, False), (0.31, True), (0.6, True), (0.61, False)):
        assert np.allclose(inside(X, s), denoise(X, s)) != acts


def test_rf_inversion_step_goes_up_and_down():
    """It is `invert` towards the noise, then Euler's method towards the data."""
    source, target = part(0), part(2)
    noise = drawn(4)()
    up = [0.01, 0.3, 0.6, 0.9, 1.0]
    step = rf_inversion_step(source, X, noise, 0.4, 0.7, 0.3, 0.9)
    *_, last = sample(target, X, up + up[-2::-1], step, path=FLOW)
    euler = SAMPLERS["euler"].make()
    top = list(invert(toward_noise(source, noise, 0.4), X, up, euler, FLOW))[-1].x
    down = toward_data(target, X, 0.7, 0.3, 0.9)
    want = list(sample(down, top, up[::-1], euler, path=FLOW))[-1].x
    np.testing.assert_allclose(last.x, want, rtol=1e-12)


# -- FlowEdit -------------------------------------------------------------------------------------


def flow_edit_of_the_authors(v_source, v_target, x_src, times, noise, n_avg):
    """The loop of fallenshock/FlowEdit (`FlowEditSD3`) with n_min = 0."""
    zt_edit = x_src
    for t, t_next in pairwise(times):
        average = np.zeros_like(x_src)
        for _ in range(n_avg):
            fwd_noise = noise()
            zt_src = (1 - t) * x_src + t * fwd_noise
            zt_tar = zt_edit + zt_src - x_src
            average += (v_target(zt_tar, t) - v_source(zt_src, t)) / n_avg
        zt_edit = zt_edit + (t_next - t) * average
    return zt_edit


@pytest.mark.parametrize("averages", [1, 3])
def test_flow_edit_is_the_published_loop(averages):
    source, target = part(0), part(2)
    got = list(flow_edit(source, target, X, LEVELS[2:], drawn(1), averages))[-1].x
    loops = [lambda x, s, d=d: velocity(d, x, s) for d in (source, target)]
    want = flow_edit_of_the_authors(*loops, X, LEVELS[2:], drawn(1), averages)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_the_last_steps_of_flow_edit_follow_the_target_alone():
    """n_min of the paper: noise of the level is added to the edit, and Euler's method goes on."""
    source, target = part(0), part(2)
    step = flow_edit_step(source, X, generated=3)
    noise = drawn(1)
    *_, last = sample(target, X, LEVELS, step, noise=noise, path=FLOW)
    noise = drawn(1)
    edited = list(flow_edit(source, target, X, LEVELS[:-3], noise))[-1].x
    s = LEVELS[-4]
    x = edited + (1 - s) * X + s * noise() - X
    want = list(sample(target, x, LEVELS[-4:], SAMPLERS["euler"].make(), path=FLOW))[-1].x
    np.testing.assert_allclose(last.x, want, rtol=1e-12)


def gaussian(mean, std, path):
    problem = Mixture(np.ones(1), np.full((1, 2), mean), np.full(1, std))
    if path is FLOW:
        return flow_denoiser(problem)
    return problem.denoise


def edit_gaussians(path, levels):
    source, target = gaussian(0.0, 0.7, path), gaussian(3.0, 0.7, path)
    return list(flow_edit(source, target, X, levels, drawn(2), path=path))[-1].x


@pytest.mark.parametrize("levels", [LEVELS, [1.0, 0.0]])
def test_flow_edit_moves_a_gaussian_to_another_of_its_variance(levels):
    """By the difference of the means, in any number of steps from pure noise."""
    np.testing.assert_allclose(edit_gaussians(FLOW, levels), X + 3.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("path", "levels"), [(FLOW, np.linspace(0.6, 0, 800)), (VE, np.geomspace(1.5, 1e-3, 800))]
)
def test_flow_edit_from_a_lower_level_goes_part_of_the_way(path, levels):
    """All but the share of the signal in the spread of the noisy data: alpha std / spread."""
    moved = edit_gaussians(path, levels) - X
    alpha = path.alpha(levels[0])
    want = 3.0 * (1.0 - alpha * 0.7 / np.hypot(alpha * 0.7, levels[0]))
    np.testing.assert_allclose(moved, want, rtol=0.01)


def test_flow_edit_of_one_prompt_changes_nothing():
    denoise = flow_denoiser(MIXTURE)
    states = list(flow_edit(denoise, denoise, X, LEVELS, drawn(5)))
    assert len(states) == 8 and all(np.array_equal(state.x, X) for state in states)
    assert [state.sigma for state in states] == LEVELS[1:].tolist()


def test_flow_edit_couples_by_the_same_noise():
    """With other noise for the target, the result would differ from run to run."""
    source, target = gaussian(0.0, 1.0, FLOW), gaussian(3.0, 1.0, FLOW)
    runs = [list(flow_edit(source, target, X, LEVELS, drawn(seed)))[-1].x for seed in (1, 2)]
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-12)


# -- Rectified-CFG++ ------------------------------------------------------------------------------


def rectified_of_the_paper(v_cond, v_uncond, x, times, strength, power):
    """Algorithm 1 of arXiv:2510.07631 without noise; t is 1 for noise."""
    for t, after in pairwise(times):
        v = v_cond(x, t)
        dt = t - after
        half = x - dt / 2 * v
        change = v_cond(half, t - dt / 2) - v_uncond(half, t - dt / 2)
        x = x - dt * (v + strength * (1 - t) ** power * change)
    return x


def pair_of(cond, uncond, strength):
    """Return a guided denoiser that notes which predictions it is asked for."""
    asked = []

    def predict(x, sigma, memory, unconditional, interval, scale):
        asked.append((scale, unconditional, interval.between))
        return Guided(cond(x, sigma), uncond(x, sigma) if unconditional else None, (), strength)

    return GuidedDenoiser(predict), asked


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_rectified_cfgpp_is_algorithm_1(power):
    cond, uncond = part(1), flow_denoiser(MIXTURE)
    denoise, asked = pair_of(cond, uncond, 1.5)
    got = list(sample(denoise, X, LEVELS, rectified_cfgpp(power), path=FLOW))[-1].x
    assert asked == [(1.0, False, False), (1.0, True, True)] * (len(LEVELS) - 1)
    pair = [lambda x, s, d=d: velocity(d, x, s) for d in (cond, uncond)]
    want = rectified_of_the_paper(*pair, X, LEVELS, 1.5, power)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_rectified_cfgpp_without_strength_is_euler_and_converges_to_guidance():
    cond, uncond = part(1), flow_denoiser(MIXTURE)
    euler = SAMPLERS["euler"].make()
    unguided, _ = pair_of(cond, uncond, 0.0)
    got = list(sample(unguided, X, LEVELS, rectified_cfgpp(), path=FLOW))[-1].x
    alone = list(sample(cond, X, LEVELS, rectified_cfgpp(), path=FLOW))[-1].x
    np.testing.assert_array_equal(got, alone)
    want = list(sample(cond, X, LEVELS, euler, path=FLOW))[-1].x
    np.testing.assert_allclose(got, want, rtol=1e-12)

    def guided(x, s):
        c = cond(x, s)
        return c + 1.5 * (c - uncond(x, s))

    rectified, _ = pair_of(cond, uncond, 1.5)

    def distance(n):
        levels = np.linspace(0.9, 0.1, n + 1)
        ends = (
            list(sample(denoise, X, levels, step, path=FLOW))[-1].x
            for denoise, step in ((rectified, rectified_cfgpp()), (guided, euler))
        )
        return np.abs(next(ends) - next(ends)).max()

    assert distance(400) < 0.3 * distance(100)


def test_rectified_cfgpp_works_on_the_other_path():
    """On x0 + sigma eps the slopes are dx/dsigma, and 1 - s is 1 / (1 + sigma)."""
    sigma, after = 5.0, 2.0
    cond, uncond = gaussian(1.0, 0.5, VE), gaussian(0.0, 1.0, VE)
    slope = velocity(cond, X, sigma)
    half = X - 1.5 * slope
    change = velocity(cond, half, 3.5) - velocity(uncond, half, 3.5)
    want = X + (after - sigma) * (slope + 2.0 / (1.0 + sigma) * change)
    denoise, _ = pair_of(cond, uncond, 2.0)
    got = list(sample(denoise, X, [sigma, after], rectified_cfgpp(1.0)))[-1].x
    np.testing.assert_allclose(got, want, rtol=1e-12)


# -- autoguidance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_autoguidance_sharpens_against_a_blurred_mixture(scale):
    """Scores: w times the model's and 1 - w times that of the data with more noise."""
    blurred = Mixture(MIXTURE.weights, MIXTURE.means, np.hypot(MIXTURE.stds, 0.8))
    x0 = autoguidance(MIXTURE.denoise, blurred.denoise, scale)(X, 0.7)
    want = scale * MIXTURE.score(X, 0.7) + (1.0 - scale) * blurred.score(X, 0.7)
    np.testing.assert_allclose((x0 - X) / 0.49, want, rtol=1e-9, atol=1e-12)


def test_autoguidance_at_scale_1_does_not_ask_the_worse_model():
    def never(x, sigma):
        raise AssertionError

    np.testing.assert_array_equal(
        autoguidance(MIXTURE.denoise, never, 1.0)(X, 0.7), MIXTURE.denoise(X, 0.7)
    )


# -- the page -------------------------------------------------------------------------------------


def test_the_table_of_round_trips_is_measured():
    page = (ROOT / "docs/math/samplers.md").read_text(encoding="utf-8")
    (printed,) = re.findall(r"^\| method \| 10 steps .*\n\|[-|]+\n((?:\|.*\n)+)", page, re.M)
    assert printed.splitlines() == measured.rows()
