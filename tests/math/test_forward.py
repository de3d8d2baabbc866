"""The forward process against its chain of small steps; its posterior against Bayes on a grid."""

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mpf
from scipy.stats import norm

from ldmref import math as lm
from ldmref.testing import strategies

TAKES_ALPHA_BAR = {
    "q_step": lambda x, y, a: lm.q_step(x, 1 - a, y),
    "q_sample": lambda x, y, a: lm.q_sample(x, a, y),
    "q_posterior": lambda x, y, a: lm.q_posterior(x, y, a, a + 0.25 * (1 - a))[0],
    "x0_from_eps": lm.x0_from_eps,
    "eps_from_x0": lm.eps_from_x0,
    "v_from_x0_eps": lm.v_from_x0_eps,
    "x0_from_v": lm.x0_from_v,
    "eps_from_v": lm.eps_from_v,
    "score_from_eps": lambda x, y, a: lm.score_from_eps(x, a),
    "eps_from_score": lambda x, y, a: lm.eps_from_score(x, a),
    "x0_from_score": lm.x0_from_score,
    "score_from_x0": lm.score_from_x0,
}
SCALARS = {
    "float": lambda xp, dtype, a: a,
    "np.float64": lambda xp, dtype, a: np.float64(a),
    "0-d": lambda xp, dtype, a: xp.asarray(a, dtype=getattr(xp, dtype)),
    "(1,)": lambda xp, dtype, a: xp.asarray([a], dtype=getattr(xp, dtype)),
}


@pytest.mark.parametrize("name", TAKES_ALPHA_BAR)
@settings(max_examples=6)
@given(data=st.data(), a=strategies.alpha_bar_values(0.01, 0.99))
def test_scalar_alpha_bar_equals_the_same_for_each_of_the_batch(
    xp, dtype, xp_assert_close, name, data, a
):
    function = TAKES_ALPHA_BAR[name]
    x, y = data.draw(strategies.paired(2, xp, dtype))
    each = xp.asarray([a] * x.shape[0], dtype=x.dtype)
    for scalar in SCALARS.values():
        got = function(x, y, scalar(xp, dtype, a))
        xp_assert_close(got, function(x, y, each), like=x, ulps=64, scale=100.0)


@pytest.mark.parametrize("name", TAKES_ALPHA_BAR)
@settings(max_examples=6)
@given(data=st.data())
def test_alpha_bar_belongs_to_its_row(xp, dtype, xp_assert_close, to_numpy, name, data):
    function = TAKES_ALPHA_BAR[name]
    x, y, a = data.draw(strategies.diffusions(xp, dtype, 0.01, 0.99))
    together = function(x, y, a)
    assert together.shape == x.shape
    for i in range(x.shape[0]):
        alone = function(x[i : i + 1, ...], y[i : i + 1, ...], float(to_numpy(a)[i]))
        xp_assert_close(together[i : i + 1, ...], alone, ulps=64, scale=100.0)


@pytest.mark.parametrize("name", TAKES_ALPHA_BAR)
@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1)])
def test_alpha_bar_of_another_length_is_refused(xp, name, shape):
    x = xp.ones((3, 4))
    with pytest.raises(ValueError, match="does not fit"):
        TAKES_ALPHA_BAR[name](x, x, 0.5 * xp.ones(shape))


@given(data=st.data())
def test_q_sample_equals_the_closed_form(xp, dtype, xp_assert_close, to_numpy, data):
    x0, eps, a = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    wide = [to_numpy(z).astype(np.longdouble) for z in (x0, eps, a)]
    level = wide[2].reshape((-1,) + (1,) * (x0.ndim - 1))
    signal = np.sqrt(level) * wide[0]
    noise = np.sqrt(1 - level) * wide[1]
    desired = (signal + noise).astype(np.float64)
    size = (abs(signal) + abs(noise)).astype(np.float64)
    xp_assert_close(lm.q_sample(x0, a, eps), desired, like=x0, ulps=4, scale=size)


@given(data=st.data())
def test_q_sample_conserves_variance(xp, dtype, xp_assert_close, data):
    a = data.draw(strategies.alpha_bars(5, xp, dtype, 0.0, 1.0))
    one = xp.ones((5, 1), dtype=a.dtype)
    zero = xp.zeros((5, 1), dtype=a.dtype)
    of_data = lm.q_sample(one, a, zero)
    of_noise = lm.q_sample(zero, a, one)
    xp_assert_close(of_data**2 + of_noise**2, one, ulps=4)


@given(data=st.data())
def test_q_sample_is_data_at_1_and_noise_at_0(xp, dtype, xp_assert_close, data):
    x0, eps = data.draw(strategies.paired(2, xp, dtype))
    xp_assert_close(lm.q_sample(x0, 1.0, eps), x0, ulps=0)
    xp_assert_close(lm.q_sample(x0, 0.0, eps), eps, ulps=0)


@given(data=st.data())
def test_q_step_equals_the_closed_form(xp, dtype, xp_assert_close, to_numpy, data):
    x, eps, b = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    wide = [to_numpy(z).astype(np.longdouble) for z in (x, eps, b)]
    beta = wide[2].reshape((-1,) + (1,) * (x.ndim - 1))
    signal = np.sqrt(1 - beta) * wide[0]
    noise = np.sqrt(beta) * wide[1]
    size = (abs(signal) + abs(noise)).astype(np.float64)
    desired = (signal + noise).astype(np.float64)
    xp_assert_close(lm.q_step(x, b, eps), desired, like=x, ulps=4, scale=size)


@given(data=st.data(), beta=strategies.alpha_bar_values())
def test_q_step_of_all_noise_and_of_none(xp, dtype, xp_assert_close, data, beta):
    x, eps = data.draw(strategies.paired(2, xp, dtype))
    xp_assert_close(lm.q_step(x, 0.0, eps), x, ulps=0)
    xp_assert_close(lm.q_step(x, 1.0, eps), eps, ulps=0)
    xp_assert_close(lm.q_step(x, beta, eps), lm.q_sample(x, 1.0 - beta, eps), ulps=8, scale=16.0)


@given(strategies.betas(min_size=1, max_size=12))
def test_small_steps_chained_equal_one_jump(betas):
    """Each row is a coefficient: of x0, then of every step's own noise."""
    state = np.eye(1, len(betas) + 1)[0]
    for t, beta in enumerate(betas):
        state = lm.q_step(state, beta, np.eye(len(betas) + 1)[t + 1])
    alpha_bar = lm.alphas_cumprod(betas)[-1]
    signal, noise = lm.q_sample(np.eye(2)[0], alpha_bar, np.eye(2)[1])
    np.testing.assert_allclose(state[0], signal, rtol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(state[1:]), noise, rtol=1e-11)


def bayes_on_a_grid(x0, xt, now, before):
    """Mean and variance of q(x_s | x_0) q(x_t | x_s), normalised as numbers on a fine grid."""
    alpha = now / before
    prior = norm(np.sqrt(before) * x0, np.sqrt(1 - before))
    centre = xt / np.sqrt(alpha)  # of the likelihood, as a function of x_s
    width = np.sqrt((1 - alpha) / alpha)
    reach = 12 * min(width, prior.std())
    low = max(min(centre, prior.mean()) - reach, prior.mean() - 40 * prior.std())
    high = min(max(centre, prior.mean()) + reach, prior.mean() + 40 * prior.std())
    xs = np.linspace(low, high, 20001)
    log_weight = prior.logpdf(xs) + norm(np.sqrt(alpha) * xs, np.sqrt(1 - alpha)).logpdf(xt)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = (weight * xs).sum()
    return mean, (weight * (xs - mean) ** 2).sum()


@st.composite
def levels(draw):
    """Return (alpha_bar, alpha_bar_prev), from one step apart to most of the way."""
    before = draw(st.floats(0.05, 0.98))
    return before * draw(st.one_of(st.floats(0.05, 0.98), st.floats(0.98, 0.999))), before


@given(levels(), st.floats(-3, 3), st.floats(-3, 3))
def test_q_posterior_equals_bayes_on_a_grid(level, x0, xt):
    now, before = level
    mean, variance = lm.q_posterior(np.asarray([x0]), np.asarray([xt]), now, before)
    exact_mean, exact_variance = bayes_on_a_grid(x0, xt, now, before)
    np.testing.assert_allclose(mean[0], exact_mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(variance, exact_variance, rtol=1e-8)


@pytest.mark.parametrize(("t", "s"), [(999, 998), (500, 499), (981, 961), (999, 0), (20, 1)])
def test_q_posterior_equals_bayes_on_a_real_schedule(t, s):
    alpha_bar = lm.alphas_cumprod(lm.scaled_linear_betas(1000))
    mean, variance = lm.q_posterior(np.ones(1), -np.ones(1), alpha_bar[t], alpha_bar[s])
    exact_mean, exact_variance = bayes_on_a_grid(1.0, -1.0, alpha_bar[t], alpha_bar[s])
    np.testing.assert_allclose(mean[0], exact_mean, rtol=1e-9)
    np.testing.assert_allclose(variance, exact_variance, rtol=1e-8)


@given(data=st.data())
def test_q_posterior_after_q_sample_gives_back_the_earlier_marginal(
    xp, dtype, xp_assert_close, data
):
    """The coefficients of x0 and of noise add up to those of q(x_s | x_0): total probability."""
    before = data.draw(strategies.alpha_bars(4, xp, dtype, 0.2, 0.99))
    now = before * data.draw(strategies.alpha_bars(4, xp, dtype, 0.2, 0.95))
    one = xp.ones((4, 1), dtype=now.dtype)
    zero = xp.zeros((4, 1), dtype=now.dtype)
    of_data, _ = lm.q_posterior(one, lm.q_sample(one, now, zero), now, before)
    of_noise, variance = lm.q_posterior(zero, lm.q_sample(zero, now, one), now, before)
    xp_assert_close(of_data**2, before[:, None], ulps=32, scale=1.0)
    xp_assert_close(of_noise**2 + variance, 1 - before[:, None], ulps=32, scale=1.0)


@given(data=st.data(), a=strategies.alpha_bar_values(0.001, 0.99))
def test_q_posterior_is_x0_at_the_start_and_xt_without_a_step(xp, dtype, xp_assert_close, data, a):
    x0, xt = data.draw(strategies.paired(2, xp, dtype))
    level = xp.asarray([a] * x0.shape[0], dtype=x0.dtype)
    mean, variance = lm.q_posterior(x0, xt, level, xp.ones_like(level))
    xp_assert_close(mean, x0, ulps=4)
    assert xp.all(variance == 0) and variance.dtype == x0.dtype
    mean, variance = lm.q_posterior(x0, xt, level, level)
    xp_assert_close(mean, xt, ulps=4)
    assert xp.all(variance == 0)


@given(data=st.data(), before=st.floats(0.05, 0.999), gap=st.integers(8, 40))
def test_q_posterior_keeps_its_digits_when_the_two_levels_nearly_agree(data, before, gap):
    """Levels one part in 2^gap apart, against mpmath at 50 digits.

    Below the smallest normal number rounding is absolute: half a subnormal in each operation.
    """
    now = before * (1 - 2.0**-gap)
    x0, xt = (data.draw(st.floats(-3, 3)) for _ in range(2))
    with mpmath.workdps(50):
        a = mpf(now)
        b = mpf(before)
        of_x0 = mpmath.sqrt(b) * (1 - a / b) / (1 - a) * x0
        of_xt = mpmath.sqrt(a / b) * (1 - b) / (1 - a) * xt
        variance = (1 - b) / (1 - a) * (1 - a / b)
    got_mean, got_variance = lm.q_posterior(np.asarray([x0]), np.asarray([xt]), now, before)
    ulp, least = (float(x) for x in (np.finfo(float).eps, np.finfo(float).smallest_subnormal))
    bound = 8 * (ulp * (abs(of_x0) + abs(of_xt)) + least)
    assert abs(got_mean[0] - of_x0 - of_xt) <= bound
    assert abs(got_variance - variance) <= 8 * ulp * variance


def test_q_posterior_from_pure_noise_is_the_earlier_marginal():
    """At alpha_bar = 0, the end of a schedule with zero terminal SNR, x_t says nothing."""
    mean, variance = lm.q_posterior(np.ones(1), 7 * np.ones(1), 0.0, 0.25)
    assert mean[0] == 0.5 and variance == 0.75


@given(levels())
def test_q_posterior_variance_is_below_both_of_its_sources(level):
    now, before = level
    assume(now < before)
    _, variance = lm.q_posterior(np.ones(1), np.ones(1), now, before)
    assert 0 < variance < min(1 - before, 1 - now / before)
