"""From a network to a denoiser: its inputs, and what becomes of its output."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.errors import UsageError
from ldmref.math import alphas_cumprod, linear_betas, sigma_from_alpha_bar, x0_from_eps, x0_from_v
from ldmref.samplers import AdaptiveProjected, ClassifierFree, GuidedDenoiser
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.denoiser import guided_denoiser
from ldmref.samplers.schedule import sampling_sigmas, training_alphas_cumprod
from ldmref.samplers.spacings import timesteps_at

CONFIG = dict(
    num_train_timesteps=50,
    beta_start=0.002,
    beta_end=0.1,
    sigma_max=1e9,
)


def config(**changes):
    return SchedulerConfig(**CONFIG | changes)


class Conditioned:
    """A network linear in x and in a condition; it counts its calls."""

    def __init__(self):
        self.calls = []
        self.conditions = {"uncond": -1.0, "cond": 2.0, "empty": 0.5, "perturbed_mid": 1.0}

    def __call__(self, xt, sigma, names, interval):
        self.calls.append((xt, sigma, names, interval))
        return [0.3 * xt + self.conditions[name] for name in names]


def to_x0(kind, xt, answer, level):
    return {
        "eps": lambda: x0_from_eps(xt, answer, level),
        "v": lambda: x0_from_v(xt, answer, level),
        "x0": lambda: answer,
    }[kind]()


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -0.5])
@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_guided_denoiser(kind, scale):
    """One call of the network, for both predictions or the one that counts; x0 at its level."""
    network = Conditioned()
    x = np.random.default_rng(0).standard_normal((2, 3))
    sigma = 1.5
    denoise = guided_denoiser(network, kind, ClassifierFree(), scale)
    got = denoise(x, sigma)
    level = 1 / (1 + sigma**2)
    xt = x * level**0.5
    want = to_x0(kind, xt, 0.3 * xt - (1 - scale) + 2 * scale, level)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    ((seen, at, names, interval),) = network.calls
    assert at == sigma and interval is None
    np.testing.assert_allclose(seen, xt)
    assert names == {0.0: ("uncond",), 1.0: ("cond",)}.get(scale, ("uncond", "cond"))
    assert isinstance(denoise, GuidedDenoiser) and not denoise.remembers


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
@pytest.mark.parametrize("guidance", [ClassifierFree(), AdaptiveProjected()])
def test_the_unconditional_prediction_is_there_when_it_is_asked_for(kind, scale, guidance):
    network = Conditioned()
    x = np.random.default_rng(0).standard_normal((2, 3))
    result = guided_denoiser(network, kind, guidance, scale).guided(x, 1.5, unconditional=True)
    level = 1 / (1 + 1.5**2)
    xt = x * level**0.5
    np.testing.assert_allclose(result.uncond, to_x0(kind, xt, 0.3 * xt - 1, level), rtol=1e-12)
    assert len(network.calls) == 1
    alone = guided_denoiser(network, kind, guidance, scale)(x, 1.5)
    np.testing.assert_array_equal(result.x0, alone)


@pytest.mark.parametrize("names", [(), ("cond", "condd")])
def test_a_prediction_that_does_not_exist_is_refused(names):
    class Odd(ClassifierFree):
        name = "odd"

        def needs(self, sigma, cfg_scale):
            return names

    denoise = guided_denoiser(Conditioned(), "eps", Odd(), 2.0)
    with pytest.raises(UsageError) as caught:
        denoise(np.zeros((1, 2)), 1.0)
    assert caught.value.code == "E-GUIDANCE" and "perturbed_mid" in caught.value.hint


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
