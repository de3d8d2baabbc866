"""Steps of the score-based samplers against the papers' chains, and Monte Carlo.

Monte Carlo tests use fixed seeds. They compare a sample's mean by Hotelling's T^2, and its
covariance S by n / 2 tr((C^-1 S - I)^2), each with the 99.9 % quantile of its chi^2 distribution.
"""

import inspect
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from ldmref.math import (
    VESDE,
    VPSDE,
    SubVPSDE,
    ancestral_step,
    euler_maruyama,
    langevin_step,
    langevin_step_size,
    predictor_corrector,
    q_posterior,
    reverse_diffusion_step,
    reverse_sde,
)
from ldmref.testing import strategies

SDES = {"vp": VPSDE(0.5, 3.0), "sub-vp": SubVPSDE(0.5, 3.0), "ve": VESDE(0.25, 4.0)}
every_sde = pytest.mark.parametrize("name", SDES)
# of Gaussian data
MEAN = np.asarray([0.8, -0.5])
SPREAD = np.asarray([[0.5, 0.2], [0.2, 0.3]])
STEPS = [reverse_diffusion_step, ancestral_step]


def marginal(sde, t):
    m = sde.mean_coefficient(t)
    s = sde.std(t)
    return m * MEAN, m * m * SPREAD + s * s * np.eye(2)


def gaussian_score(sde):
    def score(x, t):
        mean, covariance = marginal(sde, t)
        return -np.linalg.solve(covariance, (x - mean).T).T

    return score


def assert_drawn_from(x, mean, covariance):
    n, d = x.shape
    gap = x.mean(axis=0) - mean
    assert n * gap @ np.linalg.solve(covariance, gap) < chi2.ppf(0.999, d)
    off = np.linalg.solve(covariance, np.cov(x.T)) - np.eye(d)
    assert n / 2 * np.trace(off @ off) < chi2.ppf(0.999, d * (d + 1) / 2)


def start_from(sde, t, n, rng):
    mean, covariance = marginal(sde, t)
    return rng.multivariate_normal(mean, covariance, n)


@every_sde
def test_euler_maruyama_forwards_reaches_the_marginal(name):
    sde = SDES[name]
    rng = np.random.default_rng(1)
    x = start_from(sde, 0.0, 4000, rng)
    for t in np.arange(200) / 200:
        noise = rng.standard_normal(x.shape)
        x = euler_maruyama(sde.drift, sde.diffusion, x, float(t), float(t) + 1 / 200, noise)
    assert_drawn_from(x, *marginal(sde, 1.0))


@every_sde
def test_euler_maruyama_backwards_reaches_the_data(name):
    sde = SDES[name]
    rng = np.random.default_rng(2)
    drift, diffusion = reverse_sde(sde, gaussian_score(sde))
    times = np.linspace(1.0, 0.01, 301)
    x = start_from(sde, 1.0, 4000, rng)
    for t, t_next in itertools.pairwise(times):
        noise = rng.standard_normal(x.shape)
        x = euler_maruyama(drift, diffusion, x, float(t), float(t_next), noise)
    assert_drawn_from(x, *marginal(sde, 0.01))


@every_sde
@pytest.mark.parametrize("step", STEPS)
def test_predictors_reach_the_data(name, step):
    sde = SDES[name]
    rng = np.random.default_rng(3)
    x = start_from(sde, 1.0, 4000, rng)
    times = np.linspace(1.0, 0.01, 301)
    states = predictor_corrector(
        sde,
        gaussian_score(sde),
        x,
        times,
        lambda: rng.standard_normal(x.shape),
        predictor=step,
        corrector_steps=0,
    )
    *_, end = states
    assert_drawn_from(end, *marginal(sde, 0.01))


@given(data=st.data(), each=st.booleans(), forwards=st.booleans())
def test_euler_maruyama_equals_its_definition(
    xp, dtype, xp_assert_close, to_numpy, data, each, forwards
):
    x, slope, noise = data.draw(strategies.paired(3, xp, dtype))
    n = x.shape[0]
    first = [0.25, 0.5, 0.125][:n]
    last = [0.75, 0.625, 1.0][:n]
    if not each:
        first = [0.25] * n
        last = [0.75] * n
    t, t_next = (first, last) if forwards else (last, first)
    given_times = [xp.asarray(u, dtype=x.dtype) if each else u[0] for u in (t, t_next)]
    seen = []

    def drift(at, when):
        seen.append((at is x, when is given_times[0]))
        return slope

    got = euler_maruyama(drift, lambda when: 3.0 * when, x, *given_times, noise)
    assert seen == [(True, True)]
    wide = (-1,) + (1,) * (x.ndim - 1)
    t_, next_ = (np.asarray(u).reshape(wide) for u in (t, t_next))
    x_, slope_, noise_ = (to_numpy(z).astype(np.float64) for z in (x, slope, noise))
    terms = [x_, slope_ * (next_ - t_), 3 * t_ * np.sqrt(abs(next_ - t_)) * noise_]
    size = sum(abs(z) for z in terms)
    xp_assert_close(got, sum(terms), like=x, ulps=8, scale=size)


@every_sde
@pytest.mark.parametrize("step", STEPS)
@given(data=st.data(), each=st.booleans())
def test_predictors_equal_their_definitions(
    xp, dtype, xp_assert_close, to_numpy, name, step, data, each
):
    """For x_t | x_s ~ N(a x_s, v): reverse diffusion as printed, ancestral by Bayes' rule."""
    sde = SDES[name]
    (x, score, noise) = data.draw(strategies.paired(3, xp, dtype))
    n = x.shape[0]
    t, s = ([1.0, 0.5, 0.75][:n], [0.25, 0.375, 0.125][:n]) if each else ([0.75] * n, [0.25] * n)
    arrays = [xp.asarray(u, dtype=x.dtype) if each else u[0] for u in (t, s)]
    seen = []

    def given_score(at, when):
        seen.append((at is x, when is arrays[0]))
        return score

    got = step(sde, given_score, x, *arrays, noise)
    assert seen == [(True, True)]
    wide = (-1,) + (1,) * (x.ndim - 1)
    m_t, s_t, m_s, s_s = (
        np.asarray([f(u) for u in us]).reshape(wide)
        for us in (t, s)
        for f in (sde.mean_coefficient, sde.std)
    )
    a = m_t / m_s
    v = s_t**2 - a**2 * s_s**2
    x_, g, z = (to_numpy(y).astype(np.float64) for y in (x, score, noise))
    if step is reverse_diffusion_step:
        terms = [(2 - a) * x_, v * g, np.sqrt(v) * z]
    else:
        x0 = (x_ + s_t**2 * g) / m_t
        precision = 1 / s_s**2 + a**2 / v
        terms = [m_s * x0 / s_s**2 / precision, a * x_ / v / precision, z / np.sqrt(precision)]
    size = sum(abs(y) for y in terms) + abs(v * g / a) + abs(x_ / a)
    xp_assert_close(got, sum(terms), like=x, ulps=32, scale=size)


@given(st.floats(1e-3, 0.5), st.floats(0.05, 0.9), st.floats(-3, 3), st.floats(-3, 3))
def test_ancestral_step_of_vp_is_ddpms(beta, before, x, score):
    """Against `q_posterior`, and the printed mean (x + beta score) / sqrt(1 - beta)."""
    now = before * (1 - beta)
    sde = VPSDE(1.0, 1.0)  # B(t) = t = -log alpha-bar
    t = -np.log(now)
    s = -np.log(before)
    x0 = (x + (1 - now) * score) / np.sqrt(now)
    mean, variance = q_posterior(np.asarray([x0]), np.asarray([x]), now, before)
    for noise in (0.0, 1.0, -2.0):
        got = ancestral_step(
            sde,
            lambda y, t: 0 * y + score,
            np.asarray([x]),
            float(t),
            float(s),
            np.asarray([noise]),
        )
        np.testing.assert_allclose(got, mean + np.sqrt(variance) * noise, rtol=1e-9, atol=1e-9)
    printed = (x + beta * score) / np.sqrt(1 - beta)
    np.testing.assert_allclose(mean, [printed], rtol=1e-9, atol=1e-9)


@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(-3, 3), st.floats(-3, 3))
def test_ancestral_step_of_ve_is_smlds(t, share, x, score):
    """x + (a - b) score + sqrt(b (a - b) / a) z with a, b the squares of the two noise levels."""
    sde = VESDE(0.25, 4.0)
    s = t * share
    a = (0.25 * 16.0**t) ** 2
    b = (0.25 * 16.0**s) ** 2
    got = ancestral_step(sde, lambda y, t: 0 * y + score, np.asarray([x]), t, s, np.ones(1))
    want = x + (a - b) * score + np.sqrt(b * (a - b) / a)
    np.testing.assert_allclose(got, [want], rtol=1e-11, atol=1e-11)


@given(data=st.data(), each=st.booleans())
def test_langevin_step_equals_its_definition(xp, dtype, xp_assert_close, to_numpy, data, each):
    x, gradient, noise = data.draw(strategies.paired(3, xp, dtype))
    sizes = [0.5, 0.0, 0.125][: x.shape[0]] if each else [0.375] * x.shape[0]
    size = xp.asarray(sizes, dtype=x.dtype) if each else sizes[0]
    wide = np.asarray(sizes).reshape((-1,) + (1,) * (x.ndim - 1))
    x_, g, z = (to_numpy(y).astype(np.float64) for y in (x, gradient, noise))
    terms = [x_, wide * g, np.sqrt(2 * wide) * z]
    got = langevin_step(x, gradient, noise, size)
    xp_assert_close(got, sum(terms), like=x, ulps=4, scale=sum(abs(y) for y in terms))


@pytest.mark.parametrize("size", [0.05, 0.4])
def test_langevin_steps_stay_at_the_stated_variance(size):
    """Of N(0, v): the variance maps to itself at v / (1 - size / (2 v))."""
    v = 0.5
    fixed = v / (1 - size / (2 * v))
    of_state = langevin_step(np.ones(1), -np.ones(1) / v, np.zeros(1), size)[0]
    of_noise = langevin_step(np.zeros(1), np.zeros(1), np.ones(1), size)[0]
    assert of_state**2 * fixed + of_noise**2 == pytest.approx(fixed, rel=1e-13)


@given(data=st.data(), each=st.booleans(), per_example=st.booleans(), r=st.floats(0.01, 1.0))
def test_langevin_step_size_equals_its_definition(
    xp, dtype, xp_assert_close, to_numpy, data, each, per_example, r
):
    gradient, noise = data.draw(strategies.paired(2, xp, dtype))
    gradient = gradient + 8.25  # never 0
    n = gradient.shape[0]
    alphas = [0.5, 0.75, 1.0][:n] if each else [0.75]
    alpha = xp.asarray(alphas, dtype=noise.dtype) if each else 0.75
    norms = [
        np.linalg.norm(to_numpy(z).astype(np.float64).reshape(n, -1), axis=1)
        for z in (noise, gradient)
    ]
    if not per_example:
        norms = [z.mean() for z in norms]
    want = 2 * np.asarray(alphas) * (r * norms[0] / norms[1]) ** 2
    got = langevin_step_size(gradient, noise, r, alpha, per_example)
    want = want if per_example or each else want[0]
    xp_assert_close(got, np.asarray(want), like=noise, ulps=64)


def test_langevin_step_size_takes_alpha_1_and_norms_of_each_by_default():
    gradient = np.asarray([[3.0, 4.0], [0.0, 1.0]])
    noise = np.asarray([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(langevin_step_size(gradient, noise, 0.5), [0.02, 2.0], rtol=1e-15)
    together = langevin_step_size(gradient, noise, 0.5, per_example=False)
    assert together.shape == () and float(together) == pytest.approx(0.5 * (1.5 / 3.0) ** 2)


class Recorder:
    """A score and a source of noise that write down what they were asked."""

    def __init__(self):
        self.rng = np.random.default_rng(5)
        self.noises = []
        self.calls = []

    def noise(self):
        self.noises.append(self.rng.standard_normal((3, 2)))
        return self.noises[-1]

    def score(self, x, t):
        self.calls.append(t)
        return -x / (0.5 + t)


@every_sde
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"corrector_steps": 0},
        {"corrector_steps": 3, "snr": 0.3, "per_example": False},
        {"predictor": ancestral_step},
    ],
)
def test_predictor_corrector_equals_the_algorithm_in_a_loop(name, options):
    sde = SDES[name]
    record = Recorder()
    x = np.full((3, 2), 2.0)
    times = np.float32([1.0, 0.5, 0.25])
    states = list(predictor_corrector(sde, record.score, x, times, record.noise, **options))
    assert len(states) == 2
    predict = options.get("predictor", reverse_diffusion_step)
    count = options.get("corrector_steps", 1)
    snr = options.get("snr", 0.16)
    noises = iter(record.noises)
    calls = []
    for i, (t, s) in enumerate([(1.0, 0.5), (0.5, 0.25)]):
        x = predict(sde, lambda x, t: -x / (0.5 + t), x, t, s, next(noises))
        calls += [t] + [s] * count
        alpha = (sde.mean_coefficient(t) / sde.mean_coefficient(s)) ** 2
        for _ in range(count):
            g = -x / (0.5 + s)
            z = next(noises)
            lengths = [np.linalg.norm(y, axis=1, keepdims=True) for y in (z, g)]
            if options.get("per_example") is False:
                lengths = [y.mean() for y in lengths]
            size = 2 * alpha * (snr * lengths[0] / lengths[1]) ** 2
            x = x + size * g + np.sqrt(2 * size) * z
        np.testing.assert_allclose(states[i], x, rtol=1e-12)
    assert record.calls == calls and len(record.noises) == 2 * (1 + count)
    assert {type(t) for t in record.calls} == {float}


def test_predictor_corrector_runs_in_any_library(xp, dtype, xp_assert_close, to_numpy):
    rng = np.random.default_rng(6)
    start, *noises = rng.standard_normal((9, 2, 3, 2)).round(2)

    def states(convert):
        left = iter(noises)
        return list(
            predictor_corrector(
                VPSDE(0.5, 3.0),
                lambda x, t: -x,
                convert(start),
                [1.0, 0.7, 0.4, 0.1],
                lambda: convert(next(left)),
            )
        )

    got = states(lambda a: xp.asarray(a, dtype=getattr(xp, dtype)))
    for state, want in zip(got, states(np.asarray), strict=True):
        like = xp.asarray([0.0], dtype=getattr(xp, dtype))
        xp_assert_close(state, want, like=like, ulps=64, scale=np.full_like(want, 4.0))


def test_predictor_corrector_is_lazy():
    """An image of every step can then be shown while the next is made."""
    record = Recorder()
    states = predictor_corrector(VPSDE(), record.score, np.ones((3, 2)), [1.0, 0.5], record.noise)
    assert inspect.isgenerator(states) and not record.calls
