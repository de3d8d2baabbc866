"""SA-Solver: order, distribution, relations to other methods, and the authors' program."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from ldmref_sa import SA_SOLVER, SA_SOLVER_3, sa_solver
from scipy.integrate import solve_ivp
from scipy.stats import chi2

import ldmref
from ldmref import modes
from ldmref.math import exponential_sigmas, karras_sigmas
from ldmref.samplers import SAMPLERS, sample, unipc
from ldmref.testing import three_modes

LOW = 0.1
HIGH = 1.0


def end(step, denoise, x, sigmas, noise=None):
    return list(sample(denoise, x, sigmas, step, noise=noise))[-1].x


@pytest.fixture(scope="module")
def flow():
    """(mixture, start, end): the end of the probability flow by an 8th-order method."""
    problem = three_modes()
    stream = np.random.default_rng(0)
    start = problem.sample(64, stream) + HIGH * stream.standard_normal((64, 2))

    def slope(sigma, x):
        x = x.reshape(64, 2)
        return ((x - problem.denoise(x, sigma)) / sigma).ravel()

    solved = solve_ivp(slope, (HIGH, LOW), start.ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return problem, start, solved.y[:, -1].reshape(64, 2)


def order(flow, step):
    problem, start, exact = flow
    counts = (64, 128, 256)
    ends = (end(step, problem.denoise, start, exponential_sigmas(n + 1, LOW, HIGH)) for n in counts)
    errors = [np.abs(x - exact).max() for x in ends]
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(
    ("predictor", "corrector", "expected"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 2), (1, 2, 2), (2, 2, 2), (2, 3, 3), (3, 4, 3)],
)
def test_the_measured_order_without_noise(flow, predictor, corrector, expected, published):
    """A predictor alone starts with an Euler step, whose error is of order 2."""
    step = sa_solver(predictor, corrector, eta=0.0, published=published)
    assert abs(order(flow, step) - expected) < 0.2


@pytest.mark.parametrize("sampler", [SA_SOLVER, SA_SOLVER_3])
def test_the_declared_order(flow, sampler):
    assert abs(order(flow, sampler.make(eta=0.0)) - sampler.order) < 0.2


def test_without_history_it_is_a_known_method(flow):
    """With one prediction: DDIM without noise, DDPM with tau = 1."""
    problem, start, _ = flow
    sigmas = exponential_sigmas(20, LOW, HIGH)
    for name, eta in (("euler", 0.0), ("ddpm", 1.0)):
        results = []
        for step in (SAMPLERS[name].make(), sa_solver(1, 0, eta=eta)):
            stream = np.random.default_rng(3)
            noise = lambda stream=stream: stream.standard_normal(start.shape)  # noqa: E731
            results.append(end(step, problem.denoise, start, sigmas, noise))
        np.testing.assert_allclose(*results, rtol=0, atol=1e-12)


def test_without_noise_the_published_predictor_of_order_2_is_that_of_unipc(flow):
    problem, start, _ = flow
    sigmas = exponential_sigmas(20, LOW, HIGH)
    ours = end(sa_solver(2, 0, eta=0.0, published=True), problem.denoise, start, sigmas)
    theirs = end(unipc(2, "bh1", corrector=False), problem.denoise, start, sigmas)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("arguments", [{}, {"low": 0.05, "high": 1.0}, {"eta": 0.3}])
@pytest.mark.parametrize("sampler", [SA_SOLVER, SA_SOLVER_3])
def test_the_moments_of_samples_are_in_their_confidence_region(sampler, arguments):
    """Means and second moments of 2,000 paths, at 99.9 %."""
    problem = three_modes()
    stream = np.random.default_rng(1)
    start = problem.sample(2_000, stream) + 10.0 * stream.standard_normal((2_000, 2))
    sigmas = np.append(karras_sigmas(100, 0.01, 10.0), 0.0)
    step = sampler.make(**arguments)
    x = end(step, problem.denoise, start, sigmas, lambda: stream.standard_normal((2_000, 2)))
    mean = problem.mean()
    second = problem.covariance() + np.outer(mean, mean)
    truth = np.asarray([*mean, second[0, 0], second[0, 1], second[1, 1]])
    moments = np.stack([x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2])
    off = moments.mean(axis=1) - truth
    assert len(x) * off @ np.linalg.solve(np.cov(moments), off) < chi2.ppf(0.999, 5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("sampler", [SA_SOLVER, SA_SOLVER_3])
def test_evaluations_and_noise_are_as_declared(sampler, eta):
    calls = []
    drawn = []

    def denoise(x, sigma):
        calls.append(sigma)
        return x / (1.0 + sigma**2)

    def noise():
        drawn.append(0)
        return np.zeros(2)

    sigmas = [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]
    end(sampler.make(eta=eta), denoise, np.ones(2), sigmas, noise)
    assert calls == sigmas[:-1]
    assert len(drawn) == (4 if sampler.draws_noise(eta) else 0)


def test_noise_levels_that_rise_or_stay():
    """Inversion goes up without noise; diffusers' DEIS repeats a noise level."""
    ideal = lambda x, sigma: x / (1.0 + sigma**2)  # noqa: E731
    up = end(sa_solver(), ideal, np.asarray([1.0]), np.linspace(0.1, 2.0, 200))
    np.testing.assert_allclose(up, np.sqrt(5.0 / 1.01), rtol=1e-3)
    same = end(sa_solver(eta=0.0), ideal, np.asarray([1.0]), [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(same, [1.0])


@pytest.mark.parametrize(
    "wrong", [{"predictor_order": 5}, {"corrector_order": 1}, {"eta": 1.5}, {"eta": -0.1}]
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        sa_solver(**wrong)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("orders", [(1, 2), (2, 2), (3, 3), (3, 4)])
def test_against_diffusers(tau, orders):
    """The states of diffusers' scheduler, which the authors wrote, divided by sqrt(alpha-bar)."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    predictor, corrector = orders
    scheduler = diffusers.SASolverScheduler(
        predictor_order=predictor,
        corrector_order=corrector,
        prediction_type="sample",
        tau_func=lambda t: tau,
        lower_order_final=False,
    )
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    scheduler.sigmas = sigmas
    alphas = 1.0 / torch.sqrt(1.0 + sigmas**2)
    problem = three_modes()
    start = np.random.default_rng(0).standard_normal((16, 2))
    x = torch.from_numpy(start)
    noises = []
    states = []
    real = inspect.getmodule(diffusers.SASolverScheduler).randn_tensor

    def randn_tensor(shape, **_):
        noises.append(real(shape, dtype=torch.float64))
        return noises[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect.getmodule(diffusers.SASolverScheduler), "randn_tensor", randn_tensor)
        for i, t in enumerate(scheduler.timesteps[:-1]):
            scaled = (x / alphas[i]).numpy()
            x0 = torch.from_numpy(problem.denoise(scaled, float(sigmas[i])))
            x = scheduler.step(x0, t, x).prev_sample
            states.append((x / alphas[i + 1]).numpy())
    step = sa_solver(predictor, corrector, eta=tau, published=True)
    waiting = iter([noise.numpy() for noise in noises])
    levels = sigmas[:-1].tolist()
    ours = sample(
        problem.denoise, start / float(alphas[0]), levels, step, noise=lambda: next(waiting)
    )
    for state, theirs in zip(ours, states, strict=True):
        np.testing.assert_allclose(state.x, theirs, rtol=1e-5, atol=1e-5)


def test_an_image():
    model = ldmref.random_model("tiny")
    result = modes.txt2img(model, "cat", seed=1, steps=4, sampler=SA_SOLVER)
    assert result.images[0].size == (16, 16)
