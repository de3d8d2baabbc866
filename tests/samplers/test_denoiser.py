"""From a network to a denoiser: its inputs, and what becomes of its output."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.math import alphas_cumprod, linear_betas, sigma_from_alpha_bar, x0_from_eps, x0_from_v
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.denoiser import guided_denoiser
from ldmref.samplers.loop import Interval
from ldmref.samplers.schedule import sampling_sigmas, timesteps_at, training_alphas_cumprod

CONFIG = dict(
    num_train_timesteps=50,
    beta_start=0.002,
    beta_end=0.1,
    sigma_max=1e9,
)


def config(**changes):
    return SchedulerConfig(**CONFIG | changes)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -0.5])
@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_guided_denoiser(kind, scale):
    """One call of the network for scale 0 and 1, else one with both; the answer at its level."""
    calls = []

    def network(xt, sigma, context, interval):
        calls.append((xt, sigma, context, interval))
        return 0.3 * xt + context

    x = np.random.default_rng(0).standard_normal((2, 3))
    cond = np.full((2, 3), 2.0)
    uncond = np.full((2, 3), -1.0)
    sigma = 1.5
    denoise = guided_denoiser(
        network, kind, cond, uncond, scale, lambda parts: np.concatenate(parts)
    )
    interval = Interval(0, 1, 1, sigma, 1.0)
    got = denoise.within(interval)(x, sigma)
    np.testing.assert_array_equal(denoise(x, sigma), got)
    level = 1 / (1 + sigma**2)
    xt = x * level**0.5
    answer = 0.3 * xt + (1 - scale) * uncond + scale * cond
    want = {
        "eps": lambda: x0_from_eps(xt, answer, level),
        "v": lambda: x0_from_v(xt, answer, level),
        "x0": lambda: answer,
    }[kind]()
    np.testing.assert_allclose(got, want, rtol=1e-12)
    (seen, at, context, within), (*_, without) = calls
    assert at == sigma and within is interval and without is None
    if scale in (0.0, 1.0):
        np.testing.assert_array_equal(context, cond if scale else uncond)
        np.testing.assert_allclose(seen, xt)
    else:
        np.testing.assert_array_equal(context, np.concatenate([uncond, cond]))
        np.testing.assert_allclose(seen, np.concatenate([xt, xt]))


def test_timesteps_are_exact_on_the_table_and_linear_in_log_sigma_between():
    levels = alphas_cumprod(linear_betas(10, 0.01, 0.3))
    sigmas = sigma_from_alpha_bar(levels)
    assert timesteps_at(sigmas, sigmas).round(9).tolist() == list(range(10))
    assert timesteps_at(sigmas, (sigmas[3] * sigmas[4]) ** 0.5) == pytest.approx(3.5)
    assert timesteps_at(sigmas, 1e9) == 9 and timesteps_at(sigmas, 1e-9) == 0


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_training_levels_are_those_of_the_configuration(schedule):
    root = (lambda b: b) if schedule == "linear" else np.sqrt
    power = 1 if schedule == "linear" else 2
    betas = np.linspace(root(0.002), root(0.1), 50) ** power
    got = training_alphas_cumprod(config(beta_schedule=schedule))
    np.testing.assert_allclose(got, np.cumprod(1 - betas), rtol=1e-12)


def test_samplers_see_the_levels_up_to_sigma_max():
    levels = training_alphas_cumprod(config(beta_schedule="linear"))
    edge = float(sigma_from_alpha_bar(levels)[30])
    assert len(sampling_sigmas(config(beta_schedule="linear", sigma_max=edge))) == 31
    below = config(beta_schedule="linear", sigma_max=edge * (1 - 1e-12))
    assert len(sampling_sigmas(below)) == 30
