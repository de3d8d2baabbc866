"""Samplers against problems whose answer is known: orders, identities, final distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ldmref.errors import UsageError
from ldmref.math import alpha_bar_from_sigma, karras_sigmas, q_posterior
from ldmref.samplers import SAMPLERS, Sampler, get_sampler, sample
from ldmref.samplers.steps import ancestral, heun
from ldmref.testing.mixture import Mixture, three_modes

DETERMINISTIC = [name for name, entry in SAMPLERS.items() if not entry.stochastic]
STOCHASTIC = [name for name, entry in SAMPLERS.items() if entry.stochastic]
EVERY = list(SAMPLERS)


def walk(name, denoise, x, sigmas, seed=0, **extra):
    stream = np.random.default_rng(seed)
    steps = list(
        sample(
            denoise,
            x,
            sigmas,
            SAMPLERS[name].make(),
            noise=lambda: stream.standard_normal(x.shape),
            **extra,
        )
    )
    return steps


@pytest.fixture(scope="module")
def reference():
    """The probability-flow ODE of the mixture from 10 to 0.2, by RK4 with 2,048 steps."""
    problem, x = three_modes(), 10.0 * np.random.default_rng(0).standard_normal((64, 2))

    def slope(y, s):
        return (y - problem.denoise(y, s)) / s

    start, sigmas = x, karras_sigmas(2049, 0.2, 10.0)
    for s, s_next in itertools.pairwise(sigmas):
        h = s_next - s
        k1 = slope(x, s)
        k2 = slope(x + 0.5 * h * k1, s + 0.5 * h)
        k3 = slope(x + 0.5 * h * k2, s + 0.5 * h)
        k4 = slope(x + h * k3, s_next)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return problem, start, x


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_measured_order_is_the_declared_order(name, reference):
    problem, start, end = reference
    counts = [64, 128, 256, 512]
    errors = [
        np.abs(
            walk(name, problem.denoise, start, karras_sigmas(n + 1, 0.2, 10.0))[-1].x - end
        ).max()
        for n in counts
    ]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - SAMPLERS[name].order) < 0.2, (slope, errors)


@pytest.mark.parametrize("name", EVERY)
def test_a_single_point_is_reached_in_one_step(name):
    target = np.asarray([[0.3, -2.0]])
    steps = walk(name, lambda x, s: target, np.asarray([[50.0, -7.0]]), [14.6, 0.0])
    np.testing.assert_allclose(steps[-1].x, target, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_gaussian_follows_its_closed_form(name):
    """x(s) = m + (x_T - m) sqrt((tau^2 + s^2) / (tau^2 + s_T^2)) is the exact flow."""
    tau, m = 0.7, 1.5
    problem = Mixture(np.ones(1), np.full((1, 2), m), np.asarray([tau]))
    x = 8.0 * np.random.default_rng(1).standard_normal((16, 2))
    end = walk(name, problem.denoise, x, karras_sigmas(400, 0.05, 8.0))[-1].x
    exact = m + (x - m) * np.sqrt((tau**2 + 0.05**2) / (tau**2 + 8.0**2))
    assert np.abs(end - exact).max() < (0.05 if SAMPLERS[name].order == 1 else 2e-3)


@pytest.mark.parametrize("name", EVERY)
def test_final_mean_and_covariance_are_those_of_the_data(name):
    """20,000 samples; a 99.9 % confidence region plus 0.01 for the finite number of steps."""
    problem, n = three_modes(), 20_000
    x = 20.0 * np.random.default_rng(2).standard_normal((n, 2))
    sigmas = np.append(karras_sigmas(400, 0.01, 20.0), 0.0)
    end = walk(name, problem.denoise, x, sigmas, seed=3)[-1].x
    spread = np.sqrt(np.diag(problem.covariance()) / n)
    assert (np.abs(end.mean(axis=0) - problem.mean()) < 3.5 * spread + 0.01).all()
    assert np.abs(np.cov(end.T) - problem.covariance()).max() < 0.03


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_noise_is_never_drawn_by_a_deterministic_sampler(name):
    def forbidden():
        raise AssertionError("drew noise")

    problem = three_modes()
    list(
        sample(
            problem.denoise,
            np.ones((1, 2)),
            [5.0, 1.0, 0.0],
            SAMPLERS[name].make(),
            noise=forbidden,
        )
    )


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_sampler_draws_noise_at_every_step_but_the_last(name):
    draws = []

    def noise():
        draws.append(1)
        return np.zeros((1, 2))

    problem = three_modes()
    list(
        sample(
            problem.denoise,
            np.ones((1, 2)),
            [5.0, 1.0, 0.5, 0.0],
            SAMPLERS[name].make(),
            noise=noise,
        )
    )
    assert len(draws) == 2


@pytest.mark.parametrize("name", EVERY)
def test_declared_evaluations_are_the_counted_ones(name):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return 0.5 * x

    walk(name, denoise, np.ones((1, 2)), [9.0, 5.0, 2.0, 1.0])
    assert len(calls) == 3 * SAMPLERS[name].nfe


@pytest.mark.parametrize("name", EVERY)
def test_a_walk_can_be_split(name):
    """0..k and then k..n, with the history passed along, equals 0..n."""
    problem, x = three_modes(), np.random.default_rng(4).standard_normal((4, 2)) * 5
    sigmas = karras_sigmas(9, 0.1, 5.0).tolist()
    stream = np.random.default_rng(5)

    def go(x, part, history=()):
        make = SAMPLERS[name].make()
        noise = lambda: stream.standard_normal(x.shape)  # noqa: E731
        return list(sample(problem.denoise, x, part, make, noise=noise, history=history))[-1]

    whole = go(x, sigmas).x
    stream = np.random.default_rng(5)
    middle = go(x, sigmas[:5])
    np.testing.assert_array_equal(go(middle.x, sigmas[4:], middle.history).x, whole)


@pytest.mark.parametrize("name", EVERY)
def test_constrain_keeps_known_entries_bit_for_bit(name):
    problem, known = three_modes(), np.asarray([[0.1, 0.2]])
    keep = np.asarray([[1.0, 0.0]])

    def constrain(x, sigma):
        return np.where(keep == 1.0, known + sigma * 0.5, x)

    end = walk(name, problem.denoise, np.ones((1, 2)), [5.0, 1.0, 0.0], constrain=constrain)[-1].x
    assert end[0, 0] == known[0, 0]


@pytest.mark.parametrize("sigma,sigma_next", [(14.6, 9.0), (2.0, 0.5), (0.5, 0.03)])
def test_eta_one_is_the_ddpm_posterior(sigma, sigma_next):
    """ancestral(1) in sigma coordinates = q(x_s|x_t,x_0) in variance-preserving ones, to 1e-12."""
    stream = np.random.default_rng(6)
    x0, xt, eps = stream.standard_normal((3, 5, 2))
    a, a_prev = (float(alpha_bar_from_sigma(s)) for s in (sigma, sigma_next))
    mean, variance = q_posterior(x0, xt, a, a_prev)
    want = (mean + np.sqrt(variance) * eps) / np.sqrt(a_prev)
    step = ancestral(1.0)
    got, _, _ = step(lambda x, s: x0, xt / np.sqrt(a), sigma, sigma_next, (), lambda: eps)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_formula_of_the_paper(eta):
    """Song et al. eq. 12, written in alpha-bar, times 1/sqrt(alpha-bar) of the next level."""
    stream = np.random.default_rng(7)
    x0, xt, eps = stream.standard_normal((3, 5, 2))
    sigma, sigma_next = 3.0, 0.8
    a, ap = (float(alpha_bar_from_sigma(s)) for s in (sigma, sigma_next))
    noise_in_xt = (xt - np.sqrt(a) * x0) / np.sqrt(1 - a)
    ddim_sigma = eta * np.sqrt((1 - ap) / (1 - a)) * np.sqrt(1 - a / ap)
    want = np.sqrt(ap) * x0 + np.sqrt(1 - ap - ddim_sigma**2) * noise_in_xt + ddim_sigma * eps
    got, _, _ = ancestral(eta)(lambda x, s: x0, xt / np.sqrt(a), sigma, sigma_next, (), lambda: eps)
    np.testing.assert_allclose(got * np.sqrt(ap), want, rtol=1e-12, atol=1e-12)


def test_huge_sigma_loses_nothing_in_float32():
    """A cosine schedule's table ends near sigma = 2e4; a step from there must not spoil x0."""
    x0 = np.asarray([[0.25, -0.5]], np.float32)
    eps = np.asarray([[0.3, 0.7]], np.float32)
    for step in (ancestral(0.0), heun(), SAMPLERS["dpmpp_2m"].make()):
        x, _, _ = step(lambda x, s: x0, np.float32(2e4) * eps, 2e4, 10.0, (), None)
        np.testing.assert_allclose(x, 10.0 * eps + x0, atol=1e-3)


def test_unknown_sampler_names_the_nearest():
    with pytest.raises(UsageError, match="eular") as caught:
        get_sampler("eular")
    assert caught.value.code == "E-SAMPLER" and "'euler'" in caught.value.hint


def test_a_plug_in_adds_a_sampler_but_cannot_replace_one(monkeypatch):
    mine = Sampler(heun, 2, 2, False, "mine")

    class Point:
        def __init__(self, name):
            self.name = name

        def load(self):
            return mine

    monkeypatch.setattr("ldmref.samplers.entry_points", lambda group: [Point("mine")])
    assert get_sampler("mine") is mine
    monkeypatch.setattr("ldmref.samplers.entry_points", lambda group: [Point("heun")])
    with pytest.raises(UsageError):
        get_sampler("heun")
