"""DDPM's algorithms against its posterior, and on data whose every marginal is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing import strategies

TYPES = ("eps", "x0", "v")


@given(data=st.data())
def test_training_pair_is_a_rotation_of_data_and_noise(xp, dtype, xp_assert_close, to_numpy, data):
    x0, eps, level = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    a, b, c = (to_numpy(z).astype(float) for z in (x0, eps, level))
    cosine, sine = (np.sqrt(z).reshape((-1,) + (1,) * (x0.ndim - 1)) for z in (c, 1 - c))
    size = abs(cosine * a) + abs(sine * b) + abs(cosine * b) + abs(sine * a)
    targets = {"eps": b, "x0": a, "v": cosine * b - sine * a}
    for kind in TYPES:
        xt, target = lm.training_pair(x0, level, eps, kind)
        xp_assert_close(xt, cosine * a + sine * b, like=x0, ulps=4, scale=size)
        xp_assert_close(target, targets[kind], like=x0, ulps=4 * (kind == "v"), scale=size)


def test_training_pair_has_the_noise_as_target_by_default():
    x0 = np.ones((2, 3))
    eps = np.zeros((2, 3))
    assert lm.training_pair(x0, 0.5, eps)[1] is eps
    for kind in ("noise", "sample", "score"):
        with pytest.raises(ValueError, match="must be eps, x0 or v"):
            lm.training_pair(x0, 0.5, eps, kind)
    with pytest.raises(ValueError, match="does not fit"):
        lm.training_pair(x0, np.asarray([0.5, 0.5, 0.5]), eps)


@pytest.mark.parametrize("kind", TYPES)
@given(data=st.data())
def test_training_loss_equals_a_loop_over_examples(
    xp, dtype, xp_assert_close, to_numpy, kind, data
):
    x0, eps = data.draw(strategies.paired(2, xp, dtype, (3, 2, 2)))
    steps = data.draw(st.lists(st.integers(0, 4), min_size=3, max_size=3))
    levels = np.asarray([0.96875, 0.75, 0.5, 0.25, 0.03125])

    def predict(xt, t):
        assert t.shape == (3,) and t.dtype == xp.int64
        return 0.5 * xt + xp.astype(t, xt.dtype)[:, None, None]

    t = xp.asarray(steps, dtype=xp.int64)
    table = xp.asarray(levels, dtype=x0.dtype)
    got = lm.training_loss(predict, x0, t, eps, table, kind)
    desired = []
    for i, step in enumerate(steps):
        a, b = (to_numpy(z)[i].astype(float) for z in (x0, eps))
        xt = np.sqrt(levels[step]) * a + np.sqrt(1 - levels[step]) * b
        target = {"eps": b, "x0": a, "v": np.sqrt(levels[step]) * b - np.sqrt(1 - levels[step]) * a}
        desired.append(((0.5 * xt + step - target[kind]) ** 2).mean())
    # the errors, at most 21, are within 90 ulp (4 of each term), their squares within 2 * 21 * 90
    xp_assert_close(got, np.asarray(desired), like=x0, ulps=16, scale=256.0)


def test_training_loss_is_that_of_the_noise_by_default():
    x0 = np.ones((2, 1))
    eps = np.asarray([[0.5], [3.0]])
    t = np.asarray([0, 1])
    got = lm.training_loss(lambda xt, t: 0 * xt, x0, t, eps, np.asarray([0.9, 0.1]))
    np.testing.assert_allclose(got, [0.25, 9.0], rtol=1e-15)


@given(data=st.data())
def test_ddpm_step_is_the_posterior_at_the_predicted_data(
    xp, dtype, xp_assert_close, to_numpy, data
):
    """Equation 11 against equation 7, with x0 from eps (equation 15); each row its own levels."""
    xt, eps, z = data.draw(strategies.paired(3, xp, dtype, (3, 2)))
    beta = [0.25, 0.03125, 0.75]
    alpha_bar = [0.5, 0.9375, 0.0625]
    sigma = xp.asarray([0.0, 1.0, 0.5], dtype=xt.dtype)
    arrays = [xp.asarray(c, dtype=xt.dtype) for c in (beta, alpha_bar)]
    got = lm.ddpm_step(xt, eps, *arrays, sigma, z)
    mean = lm.ddpm_step(xt, eps, *arrays)
    silent = lm.ddpm_step(xt, eps, *arrays, sigma)
    for i in range(3):
        a, b, c = (to_numpy(v)[i : i + 1].astype(float) for v in (xt, eps, z))
        x0 = lm.x0_from_eps(a, b, alpha_bar[i])
        desired, _ = lm.q_posterior(x0, a, alpha_bar[i], alpha_bar[i] / (1 - beta[i]))
        one = slice(i, i + 1)
        size = (abs(a) + abs(b)) / np.sqrt(1 - beta[i]) + abs(c)
        xp_assert_close(mean[one, ...], desired, like=xt, ulps=8, scale=size)
        xp_assert_close(silent[one, ...], desired, like=xt, ulps=8, scale=size)
        noisy = desired + float(to_numpy(sigma)[i]) * c
        xp_assert_close(got[one, ...], noisy, like=xt, ulps=8, scale=size)


def test_ddpm_step_with_a_sigma_per_element():
    """With a learned variance, each element has the step of its sigma."""
    xt, eps, z, sigma = np.random.default_rng(0).uniform(0.1, 1.0, (4, 3, 1, 2, 2))
    got = lm.ddpm_step(xt, eps, 0.25, 0.5, sigma, z)
    for index in np.ndindex(xt.shape):
        one = [a[index].reshape(1, 1) for a in (xt, eps, z)]
        want = lm.ddpm_step(one[0], one[1], 0.25, 0.5, float(sigma[index]), one[2])
        np.testing.assert_allclose(got[index], want[0, 0], rtol=1e-15)
    with pytest.raises(ValueError, match="a scalar, or a number for each example"):
        lm.ddpm_step(xt, eps, 0.25, 0.5, sigma[:2], z)


def test_ddpm_step_adds_no_noise_by_default():
    one = np.ones((1, 1))
    assert lm.ddpm_step(one, one, 0.36, 0.36, z=one) == lm.ddpm_step(one, one, 0.36, 0.36)
    with pytest.raises(ValueError, match="does not fit"):
        lm.ddpm_step(one, one, np.asarray([0.5, 0.5]), 0.5)


def trajectory(betas, predict, start, kind=None):
    """Return every state of Algorithm 2 as coefficients of 1, of x_T and of each of its noises.

    The network is affine in x, so the trajectory is affine in its noises, and this is exact.
    """
    steps = len(betas)
    drawn = []

    def noise():
        drawn.append(1)
        return np.eye(1, steps + 1, len(drawn) + 1)

    arguments = () if kind is None else (kind,)
    states = list(lm.ddpm_sample(predict, start, betas, noise, *arguments))
    assert len(states) == steps and len(drawn) == steps - 1
    return states


@given(strategies.betas(min_size=1, max_size=8))
def test_ddpm_sample_keeps_every_marginal_of_standard_normal_data(betas):
    """There eps = sqrt(1 - abar) x_t, and fixed_large is the exact variance: 1 at every step."""
    levels = np.cumprod(1 - betas)
    start = np.eye(1, len(betas) + 1, 1)
    seen = []

    def predict(xt, t):
        seen.append(t)
        return np.sqrt(1 - levels[t]) * xt

    states = trajectory(betas, predict, start, "fixed_large")
    assert seen == list(range(len(betas)))[::-1]
    for state in states[:-1]:
        np.testing.assert_allclose((state**2).sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose((states[-1] ** 2).sum(), 1 - betas[0], rtol=1e-12)


@pytest.mark.parametrize("kind", [None, "fixed_small"])
@given(strategies.betas(min_size=1, max_size=8))
def test_ddpm_sample_keeps_every_marginal_of_one_known_point(kind, betas):
    """There eps = (x_t - sqrt(abar) x0) / sqrt(1 - abar), and fixed_small is the exact variance."""
    levels = np.cumprod(1 - betas)
    point = 3.0
    one = np.eye(1, len(betas) + 1, 0)
    start = np.sqrt(levels[-1]) * point * one + np.sqrt(1 - levels[-1]) * np.eye(
        1, len(betas) + 1, 1
    )

    def predict(xt, t):
        return (xt - np.sqrt(levels[t]) * point * one) / np.sqrt(1 - levels[t])

    states = trajectory(betas, predict, start, kind)
    for state, level in zip(states, [*levels[-2::-1], 1.0], strict=True):
        np.testing.assert_allclose(state[0, 0], np.sqrt(level) * point, rtol=1e-9)
        variance = (state[0, 1:] ** 2).sum()
        np.testing.assert_allclose(variance, 1 - level, rtol=1e-7, atol=1e-12)


def test_ddpm_sample_stays_in_its_library(xp, dtype, xp_assert_close):
    betas = np.asarray([0.19, 0.36])
    x = xp.asarray([[1.0, -2.0]], dtype=getattr(xp, dtype))
    first, last = lm.ddpm_sample(
        lambda xt, t: 0.5 * xt, x, xp.asarray(betas, dtype=x.dtype), lambda: x, "fixed_small"
    )
    kept = 0.81 * 0.64
    sigma = np.sqrt(0.36 * 0.19 / (1 - kept))
    factor = (1 - 0.36 / np.sqrt(1 - kept) * 0.5) / 0.8 + sigma
    wide = np.asarray([[1.0, -2.0]])
    xp_assert_close(first, factor * wide, like=x, ulps=32)
    factor *= (1 - np.sqrt(0.19) * 0.5) / 0.9
    xp_assert_close(last, factor * wide, like=x, ulps=32)


def test_ddpm_sample_refuses_other_variances():
    x = np.ones((1, 1))
    with pytest.raises(ValueError, match="fixed_small or fixed_large"):
        next(lm.ddpm_sample(lambda x, t: x, x, np.asarray([0.5]), lambda: x, "learned"))
