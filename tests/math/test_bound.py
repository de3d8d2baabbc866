"""The bound where it is known: for Gaussian data it has a closed form, and tends to the entropy.

For one Gaussian, all terms are quadratic in x0 and eps, so three Gauss-Hermite nodes for each give
their expectations exactly: no Monte Carlo. For a mixture, Monte Carlo allows 5 standard errors.
"""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies
from ldmref.testing.mixture import Mixture, three_modes

# of the Gaussian data
MEAN = 0.75
SPREAD = 0.5
ENTROPY = 0.5 * np.log(2 * np.pi * np.e * SPREAD**2)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)


def even_levels(steps, first=0.9999, last=1e-4):
    """Return alpha-bars whose log-SNR falls in even steps."""
    ends = [np.log(a / (1 - a)) for a in (first, last)]
    return 1 / (1 + np.exp(-np.linspace(*ends, steps)))


def closed_form(levels, kind):
    """Return expectations of (prior, denoising terms, reconstruction) for N(MEAN, SPREAD^2)."""
    snr = levels / (1 - levels)
    error = 1 / (1 / SPREAD**2 + snr)  # of the exact denoiser, squared, at each level
    second = MEAN**2 + SPREAD**2
    prior = 0.5 * (levels[-1] * second - levels[-1] - np.log(1 - levels[-1]))
    denoising = 0.5 * (snr[:-1] - snr[1:]) * error[1:]
    first = 1 - levels[0]
    if kind == "fixed_large":
        shrink = (1 - levels[:-1]) / (1 - levels[1:])  # beta-tilde / beta
        denoising = denoising * shrink + 0.5 * (shrink - 1 - np.log(shrink))
    else:
        first = (1 - levels[0]) * (1 - levels[1] / levels[0]) / (1 - levels[1])
    return prior, denoising, 0.5 * (np.log(2 * np.pi * first) + error[0] / first)


def gaussian_bound(levels, kind, xp=np, dtype=np.float64):
    """`variational_bound` at all nodes (9 examples), with the exact denoiser; and the weights."""
    x0, eps = (a.reshape(9, 1) for a in np.meshgrid(MEAN + SPREAD * NODES, NODES))
    weights = np.outer(WEIGHTS, WEIGHTS).ravel() / WEIGHTS.sum() ** 2

    def predict(xt, t):
        snr = levels[t] / (1 - levels[t])
        precise = MEAN / SPREAD**2 + float(np.sqrt(levels[t]) / (1 - levels[t])) * xt
        return precise / float(1 / SPREAD**2 + snr)

    eps = xp.asarray(eps, dtype=dtype)
    bound = lm.variational_bound(
        xp.asarray(x0, dtype=dtype), levels, predict, lambda: eps, kind, lm.normal_log_density
    )
    return bound, weights


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [2, 3, 7])
def test_every_term_equals_its_closed_form(xp, dtype, to_numpy, kind, steps):
    levels = even_levels(steps, 0.9, 0.01)
    bound, weights = gaussian_bound(levels, kind, xp, getattr(xp, dtype))
    prior, denoising, reconstruction = closed_form(levels, kind)
    got = [to_numpy(part).astype(float) @ weights for part in bound]
    # (x0 - prediction)^2 / variance: 2 * 0.9 times 16 ulp of the prediction, over 0.067
    tolerance = 256 * np.finfo(dtype).eps
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(got[0], prior, **close)
    np.testing.assert_allclose(got[1], denoising, **close)
    np.testing.assert_allclose(got[2], reconstruction, **close)
    total = to_numpy(bound.total)
    assert total.shape == (9,) and str(total.dtype) == dtype and got[1].shape == (steps - 1,)
    np.testing.assert_allclose(total @ weights, prior + denoising.sum() + reconstruction, **close)


def test_the_denoiser_used_above_is_the_mixture_s():
    one = Mixture(np.ones(1), np.asarray([[MEAN]]), np.asarray([SPREAD]))
    level = 0.3
    xt = np.linspace(-2, 2, 5)[:, None]
    sigma = np.sqrt((1 - level) / level)
    snr = level / (1 - level)
    desired = (MEAN / SPREAD**2 + np.sqrt(level) / (1 - level) * xt) / (1 / SPREAD**2 + snr)
    np.testing.assert_allclose(one.denoise(xt / np.sqrt(level), sigma), desired, rtol=1e-13)


def test_bound_tends_to_the_entropy_from_above():
    """With fixed_large and even log-SNR, the gap is halved when the steps are doubled."""
    gaps = []
    for steps in (25, 50, 100, 200, 400):
        bound, weights = gaussian_bound(even_levels(steps, 1 - 1e-6, 1e-6), "fixed_large")
        gaps.append(bound.total @ weights - ENTROPY)
    assert min(gaps) > 0
    np.testing.assert_allclose(np.divide(gaps[1:], gaps[:-1]), 0.5, atol=0.03)
    assert gaps[-1] < 0.02


def test_fixed_small_does_not_tend_there_with_even_log_snr():
    """Its first variance, beta-tilde of the step above, falls with the step: too sure of itself."""
    gaps = []
    for steps in (50, 400):
        bound, weights = gaussian_bound(even_levels(steps, 1 - 1e-6, 1e-6), "fixed_small")
        gaps.append(bound.total @ weights - ENTROPY)
    assert gaps[1] > 2 * gaps[0] > 0


def test_bound_of_a_mixture_never_lies_below_minus_log_p():
    mixture = three_modes()
    rng = np.random.default_rng(5)
    x0 = mixture.sample(4000, rng)
    gaps = []
    for steps in (8, 64):
        levels = even_levels(steps, 0.999, 1e-3)

        def predict(xt, t, levels=levels):
            return mixture.denoise(xt / np.sqrt(levels[t]), np.sqrt((1 - levels[t]) / levels[t]))

        bound = lm.variational_bound(
            x0,
            levels,
            predict,
            lambda: rng.standard_normal(x0.shape),
            "fixed_large",
            lm.normal_log_density,
        )
        excess = bound.total + mixture.log_density(x0)
        gaps.append(excess.mean())
        assert gaps[-1] > -5 * excess.std(ddof=1) / np.sqrt(len(x0))
    assert gaps[0] > gaps[1] + 0.1 and gaps[1] < 0.1


def test_steps_are_visited_once_upwards_and_noised_to_their_own_level():
    levels = np.asarray([0.9, 0.5, 0.1])
    rng = np.random.default_rng(0)
    seen = []
    drawn = []
    x0 = np.asarray([[1.0, -1.0]])

    def noise():
        drawn.append(rng.standard_normal(x0.shape))
        return drawn[-1]

    def predict(xt, t):
        seen.append(t)
        np.testing.assert_allclose(xt, lm.q_sample(x0, levels[t], drawn[t]), rtol=1e-15)
        return xt

    lm.variational_bound(x0, levels, predict, noise)
    assert seen == [0, 1, 2] and len(drawn) == 3


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_pixels_are_decoded_in_bins_by_default(kind):
    levels = np.asarray([0.99, 0.9, 0.1])
    x0 = np.asarray([[1.0, -1.0, 1 / 255], [1.0, 1.0, -1.0]])
    guess = 0.9 * x0
    logvar = np.log(lm.posterior_variance(0.9, 0.99) if kind == "fixed_small" else 0.01)
    desired = lm.discretized_gaussian_log_likelihood(guess / 0.9, guess, logvar + 0 * x0)
    arguments = (kind,) if kind == "fixed_large" else ()
    got = lm.variational_bound(x0, levels, lambda xt, t: guess, lambda: 0 * x0, *arguments)
    np.testing.assert_allclose(got.reconstruction, -desired.sum(axis=1), rtol=1e-12)
    kl = lm.denoising_kl(
        x0, guess, 0.5 * 0.2, 0.9, np.log(lm.posterior_variance(0.1, 0.9, kind)) + 0 * x0
    )
    np.testing.assert_allclose(got.denoising[1], kl.sum(axis=1), rtol=1e-12)


def test_bound_refuses_one_step_and_other_variances():
    x0 = np.ones((1, 1))
    for levels, kind, message in (
        ([0.5], "fixed_small", "at least two steps"),
        ([0.5, 0.4], "learned", "fixed_small or fixed_large"),
    ):
        with pytest.raises(ValueError, match=message):
            lm.variational_bound(x0, np.asarray(levels), lambda x, t: x, lambda: x0, kind)


@given(data=st.data())
def test_prior_kl_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    x0, _, level = data.draw(strategies.diffusions(xp, dtype, 1e-4, 0.99))
    rows = to_numpy(level).astype(float).reshape((-1,) + (1,) * (x0.ndim - 1))
    numbers = np.broadcast_arrays(to_numpy(x0).astype(float), rows)
    exact = np.zeros(x0.shape)
    size = np.zeros(x0.shape)
    for i in np.ndindex(*x0.shape):
        x, a = (mpf(float(z[i])) for z in numbers)
        exact[i] = float((a * x * x - a - mpmath.log1p(-a)) / 2)
        size[i] = float(a * x * x + a - mpmath.log1p(-a))
    xp_assert_close(lm.prior_kl(x0, level), exact, like=x0, ulps=6, scale=size)


def test_prior_kl_of_pure_noise_is_0(xp, dtype, xp_assert_close):
    x0 = xp.asarray([[3.0, -8.0]], dtype=getattr(xp, dtype))
    xp_assert_close(lm.prior_kl(x0, 0.0), np.zeros((1, 2)), like=x0, ulps=0)
    with pytest.raises(ValueError, match="does not fit"):
        lm.prior_kl(x0, xp.asarray([0.5, 0.5], dtype=x0.dtype))


@given(data=st.data(), before=st.floats(0.05, 0.95), part=st.floats(0.5, 0.99))
def test_denoising_kl_is_half_the_snr_lost_times_the_squared_error(
    xp, dtype, xp_assert_close, to_numpy, data, before, part
):
    x0, guess = data.draw(strategies.paired(2, xp, dtype))
    now = before * part
    a = mpf(now)
    b = mpf(before)
    weight = float((b / (1 - b) - a / (1 - a)) / 2)
    desired = weight * (to_numpy(x0).astype(float) - to_numpy(guess).astype(float)) ** 2
    size = desired * (1 + abs(np.log(lm.posterior_variance(now, before))))  # of the log and back
    got = lm.denoising_kl(x0, guess, now, before)
    xp_assert_close(got, desired, like=x0, ulps=32, scale=size)


@given(data=st.data(), logvar=st.floats(-5, 2))
def test_denoising_kl_is_that_of_the_two_posteriors(
    xp, dtype, xp_assert_close, to_numpy, data, logvar
):
    """As the paper writes it, with x_t in both means; each row at its own two levels."""
    x0, guess, xt = data.draw(strategies.paired(3, xp, dtype, (2, 3)))
    now = [0.1, 0.6]
    before = [0.3, 0.7]
    levels = [xp.asarray(z, dtype=x0.dtype) for z in (now, before)]
    variance = xp.full_like(x0, logvar)
    got = lm.denoising_kl(x0, guess, *levels, variance)
    for i in range(2):
        a, b, c = (to_numpy(z)[i : i + 1].astype(float) for z in (x0, guess, xt))
        one, true = lm.q_posterior(a, c, now[i], before[i])
        two, _ = lm.q_posterior(b, c, now[i], before[i])
        desired = lm.kl_normal(one, np.log(true) + 0 * a, two, logvar + 0 * a)
        size = (4 + abs(logvar)) * (1 + (one - two) ** 2) * (1 + np.exp(-logvar))
        row = got[i : i + 1, ...]
        xp_assert_close(row, desired, like=x0, ulps=32, scale=size)


def test_denoising_kl_is_0_for_the_truth_and_refuses_another_length(xp, dtype, xp_assert_close):
    x0 = xp.asarray([[3.0, -1.5]], dtype=getattr(xp, dtype))
    xp_assert_close(lm.denoising_kl(x0, x0, 0.3, 0.4), np.zeros((1, 2)), like=x0, ulps=0)
    two = xp.asarray([0.3, 0.4], dtype=x0.dtype)
    with pytest.raises(ValueError, match="does not fit"):
        lm.denoising_kl(x0, x0, two, two)


def test_terms_of_the_bound_belong_to_one_example_each():
    """A batch of images has the terms of its images, one by one."""
    rng = np.random.default_rng(0)
    x0 = rng.uniform(-1, 1, (3, 2, 2))
    noise = rng.standard_normal((4, 3, 2, 2))
    levels = np.asarray([0.9, 0.5, 0.1, 0.01])

    def bound(x, eps):
        draws = iter(eps)
        return lm.variational_bound(
            x, levels, lambda xt, t: 0.5 * xt, lambda: next(draws), log_likelihood=gaussian
        )

    def gaussian(x, mean, logvar):
        return lm.normal_log_density(x, mean, logvar)

    whole = bound(x0, noise)
    for i in range(3):
        one = bound(x0[i : i + 1], noise[:, i : i + 1])
        np.testing.assert_allclose(whole.total[i], one.total[0], rtol=1e-12)
        np.testing.assert_allclose(whole.denoising[:, i], one.denoising[:, 0], rtol=1e-12)
        np.testing.assert_allclose(whole.prior[i], one.prior[0], rtol=1e-12)


# -- one term for each example --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_the_terms_of_all_timesteps_are_those_of_the_bound(kind):
    """Each example at its own t, with the noise and prediction that the whole bound had there."""
    rng = np.random.default_rng(0)
    levels = even_levels(6, 0.99, 0.01)
    x0 = rng.standard_normal((1, 3))
    noise = rng.standard_normal((6, 1, 3))
    draws = iter(noise)
    bound = lm.variational_bound(
        x0, levels, lambda xt, t: 0.3 * xt, lambda: next(draws), kind, lm.normal_log_density
    )
    xt = lm.q_sample(np.repeat(x0, 6, axis=0), levels, noise[:, 0])
    terms = lm.bound_term(
        np.repeat(x0, 6, axis=0), 0.3 * xt, np.arange(6), levels, kind, None, lm.normal_log_density
    ).sum(axis=1)
    np.testing.assert_allclose(terms[0], bound.reconstruction[0], rtol=1e-12)
    np.testing.assert_allclose(terms[1:], bound.denoising[:, 0], rtol=1e-12)


@given(st.floats(-1.5, 1.5))
def test_the_term_of_a_learned_variance_is_least_at_the_best_one(v):
    """For a prediction without error, beta-tilde (v = -1) leaves no divergence; others do."""
    levels = even_levels(5, 0.99, 0.01)
    x = np.ones((1, 2))
    term = lm.bound_term(x, x, np.asarray([2]), levels, "learned_range", 0 * x + v)
    best = lm.bound_term(x, x, np.asarray([2]), levels, "learned_range", 0 * x - 1.0)
    assert (term >= best - 1e-12).all() and np.allclose(best, 0.0)


def test_a_learned_variance_needs_its_output():
    x = np.ones((1, 2))
    with pytest.raises(ValueError, match="learned_range"):
        lm.bound_term(x, x, np.asarray([1]), even_levels(3), "learned_range")
    with pytest.raises(ValueError, match="variance_type"):
        lm.bound_term(x, x, np.asarray([1]), even_levels(3), "learned")
