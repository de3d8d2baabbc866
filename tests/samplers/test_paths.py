"""Samplers on the path of flow matching: orders, laws, and the same images as on x0 + sigma eps."""

from __future__ import annotations

import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.errors import UsageError
from ldmref.samplers import (
    FLOW,
    SAMPLERS,
    VE,
    Guided,
    GuidedDenoiser,
    SchedulerConfig,
    ancestral,
    configured_step,
    heun,
    make_schedule,
    on_ratio,
    sample,
)
from ldmref.samplers.path import PURE_NOISE
from ldmref.testing.mixture import Mixture, three_modes

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("orders", ROOT / "scripts/measure_flow_orders.py")
orders = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(orders)

# From pure noise, where log-SNR is infinite, a first step of order 1 leaves these methods order 2.
SECOND_FROM_NOISE = ("dpm_solver_3", "deis_3", "seeds_3", "unipc", "unipc_3")


def read_table():
    """Return {name: (declared, between levels, from pure noise)} of docs/math/samplers.md."""
    text = (ROOT / "docs/math/samplers.md").read_text(encoding="utf-8")
    row = r"\| `(\w+)` \| (by its slope|in log-SNR) \| (\d) \| ([\d.]+) \| ([\d.]+) \|"
    return {
        name: (runs, int(order), float(between), float(noise))
        for name, runs, order, between, noise in re.findall(row, text)
    }


TABLE = read_table()


def denoiser(problem):
    """Return the exact denoiser of a mixture on `FLOW`."""

    def denoise(x, s):
        if s > 1.0 - 1e-12:
            return np.broadcast_to(problem.mean(), x.shape)
        return problem.denoise(x / (1.0 - s), s / (1.0 - s))

    return denoise


def test_the_page_has_every_sampler_that_solves_the_flow():
    solves = [n for n, s in SAMPLERS.items() if orders.deterministic_step(s) and not s.adaptive]
    assert [*TABLE] == solves
    for name, (runs, order, *_) in TABLE.items():
        assert order == SAMPLERS[name].order
        assert (runs == "by its slope") == SAMPLERS[name].straight


@pytest.mark.parametrize("name", TABLE)
def test_the_order_between_two_levels_is_the_declared_one(name):
    """`pndm` and the third-order singlestep method have more on evenly spaced levels."""
    _, order, printed, _ = TABLE[name]
    measured = orders.measure(
        orders.deterministic_step(SAMPLERS[name]), 0.5, orders.counts_of(name)
    )
    assert abs(measured - printed) < 0.1
    assert abs(measured - (3 if name in ("pndm", "dpmpp_3_singlestep") else order)) < 0.2


@pytest.mark.parametrize("name", TABLE)
def test_the_order_from_pure_noise(name):
    _, order, _, printed = TABLE[name]
    measured = orders.measure(
        orders.deterministic_step(SAMPLERS[name]), 1.0, orders.counts_of(name)
    )
    assert abs(measured - printed) < 0.1
    assert measured > (2 if name in SECOND_FROM_NOISE else order) - 0.3


def test_adaptive_steps_keep_their_tolerance():
    start = np.random.default_rng(0).standard_normal((32, 2))
    ends = [
        list(sample(denoiser(three_modes()), start, [1.0, 0.4, 0.09], step, path=FLOW))[-1].x
        for step in (SAMPLERS["rk45"].make(rtol=t, atol=t) for t in (1e-6, 1e-10))
    ]
    assert np.abs(np.subtract(*ends)).max() < 1e-4


@given(st.floats(0.0, 0.999), st.floats(0.0, 1e9))
def test_ratio_and_level_undo_each_other(sigma, ratio):
    assert FLOW.level(FLOW.ratio(sigma)) == pytest.approx(sigma, rel=1e-14)
    assert VE.ratio(ratio) == ratio == VE.level(ratio)
    assert FLOW.ratio(1.0) == PURE_NOISE


@pytest.mark.parametrize("name", [n for n in SAMPLERS if not SAMPLERS[n].straight])
def test_others_are_the_same_method_on_both_paths(name):
    """The same noise gives the same state, up to its scale, between any two levels."""
    problem = three_modes()
    ratios = [14.0, 5.0, 2.0, 0.8, 0.3, 0.0]
    x = np.random.default_rng(1).standard_normal((5, 2)) * 14.0
    draws = np.random.default_rng(2).standard_normal((30, 5, 2))

    def run(denoise, x, levels, step, path):
        noise = iter(draws)
        states = sample(denoise, x, levels, step, noise=lambda: next(noise), path=path)
        return [state.x / path.alpha(state.sigma) for state in states]

    make = SAMPLERS[name].make
    scaled = run(problem.denoise, x, ratios, make(), VE)
    levels = [FLOW.level(r) for r in ratios]
    on_flow = run(denoiser(problem), x / 15.0, levels, on_ratio(make()), FLOW)
    np.testing.assert_allclose(on_flow, scaled, rtol=1e-9, atol=1e-9)


def test_the_law_of_ancestral_steps_on_a_flow():
    """Gaussian data: mean and variance of every level, propagated exactly from pure noise.

    The posterior q(x_s | x_t, x0) on a flow, from Bayes' rule for x_t = a x_s + noise, is the
    oracle; the step is affine in x and in its noise, so three runs give its coefficients.
    """
    mean, variance = 1.5, 0.25
    problem = Mixture(np.ones(1), np.full((1, 1), mean), np.full(1, variance**0.5))
    denoise = denoiser(problem)
    levels = np.linspace(1.0, 0.0, 9)
    m, v = 0.0, 1.0
    for t, s in pairwise(levels):
        step = on_ratio(ancestral(1.0))

        def move(x, eps, t=t, s=s, step=step):
            draw = lambda: np.full((1, 1), eps)  # noqa: E731
            *_, last = sample(denoise, np.full((1, 1), x), [t, s], step, noise=draw, path=FLOW)
            return last.x.item()

        offset, slope, spread = move(0.0, 0.0), move(1.0, 0.0), move(0.0, 1.0)
        gain = (1.0 - t) * variance / ((1.0 - t) ** 2 * variance + t**2)  # of E[x0 | x_t]
        a = (1.0 - t) / (1.0 - s) if t < 1.0 else 0.0
        fresh = t**2 - (a * s) ** 2  # of x_t given x_s
        at_s, at_t = a * s**2 / t**2, (1.0 - s) * fresh / t**2
        assert slope - offset == pytest.approx(at_s + at_t * gain, abs=1e-9)
        assert spread - offset == pytest.approx(s * (fresh / t**2) ** 0.5, abs=1e-9)
        m = m * (slope - offset) + offset
        v = v * (slope - offset) ** 2 + (spread - offset) ** 2
    assert m == pytest.approx(mean, abs=1e-9) and 0.1 < v < variance


@given(st.floats(0.05, 0.9), st.floats(0.0, 1.0))
def test_a_jump_back_up_has_the_law_of_the_forward_process(sigma, share):
    higher = sigma + share * (0.99 - sigma)
    keep, up = FLOW.forward(sigma, higher)
    assert keep * FLOW.noised(2.0, 0.0, sigma) == pytest.approx((1.0 - higher) * 2.0)
    assert (keep * sigma) ** 2 + up**2 == pytest.approx(higher**2)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if SAMPLERS[name].stochastic])
def test_stochastic_samplers_sample_from_pure_noise(name):
    """1,000 samples: their mean is the data's, within 5 standard errors and the bias of 40 steps.

    `lcm` and `tcd` do not converge to the data, but to a sharper law with the same modes.
    """
    problem = three_modes()
    stream = np.random.default_rng(0)
    draw = lambda: stream.standard_normal((1000, 2))  # noqa: E731
    sampler = SAMPLERS[name]
    step = sampler.make() if sampler.straight else on_ratio(sampler.make())
    levels = np.linspace(1.0, 0.0, 41)
    *_, last = sample(denoiser(problem), draw(), levels, step, noise=draw, path=FLOW)
    spread = np.sqrt(np.diag(problem.covariance()) / 1000)
    allowed = 0.5 if sampler.order == 0 else 5.0 * spread + 0.05
    assert (np.abs(last.x.mean(axis=0) - problem.mean()) < allowed).all()


def test_a_guided_denoiser_gets_the_levels_of_the_path():
    """Ends of a step are levels of the schedule to the last bit; those between are marked."""
    seen = []

    def predict(x, sigma, memory, unconditional, interval, scale):
        seen.append((sigma, interval.index_of(sigma), interval.path))
        return Guided(denoiser(three_modes())(x, sigma), None, ())

    levels = [1.0, 0.7, 0.3, 0.0]
    step = on_ratio(SAMPLERS["dpmpp_2s"].make())
    list(sample(GuidedDenoiser(predict), np.ones((1, 2)), levels, step, path=FLOW))
    assert [(s, i) for s, i, _ in seen if i is not None] == [(1.0, 0), (0.7, 1), (0.3, 2)]
    assert len([i for _, i, _ in seen if i is None]) == 2
    assert {path for *_, path in seen} == {FLOW}


def test_levels_above_1_are_refused_on_a_flow():
    with pytest.raises(UsageError, match="from 0 to 1"):
        sample(denoiser(three_modes()), np.ones((1, 2)), [14.6, 1.0, 0.0], heun(), path=FLOW)


@pytest.mark.parametrize("spacing", ["karras", "trailing"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddpm"])
def test_the_schedule_of_a_model_has_the_same_distributions_on_both_paths(spacing, sampler):
    config = SchedulerConfig(prediction_type="v")
    scaled = make_schedule(config, SAMPLERS[sampler], spacing, 7)
    on_flow = make_schedule(config, SAMPLERS[sampler], spacing, 7, path=FLOW)
    np.testing.assert_allclose([FLOW.ratio(s) for s in on_flow.sigmas], scaled.sigmas, rtol=1e-12)
    np.testing.assert_allclose(on_flow.timesteps, scaled.timesteps, rtol=1e-9)
    alpha = FLOW.alpha(float(on_flow.sigmas[0]))
    assert on_flow.init_noise_sigma == pytest.approx(scaled.init_noise_sigma * alpha)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "dpmpp_2m", "unipc", "dpmpp_2m_sde"])
def test_a_configured_run_on_a_flow_ends_where_the_scaled_one_does(name):
    """A network of eps, as a model has: exact on a mixture, at the ratio of both paths."""
    config = SchedulerConfig()
    problem = three_modes()
    found = []
    for path in (VE, FLOW):
        schedule = make_schedule(config, SAMPLERS[name], "karras", 12, path=path)
        step, visits = configured_step(config, SAMPLERS[name], schedule)
        stream = np.random.default_rng(3)
        x = schedule.init_noise_sigma * stream.standard_normal((4, 2))
        denoise = problem.denoise if path is VE else denoiser(problem)
        draw = lambda stream=stream: stream.standard_normal((4, 2))  # noqa: E731
        run = sample(denoise, x, schedule.sigmas, step, noise=draw, visits=visits, path=path)
        found.append(list(run)[-1].x)
    np.testing.assert_allclose(*found, rtol=1e-7)
