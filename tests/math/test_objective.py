"""Weights against exact fractions; losses against plain loops; three predictions, one loss."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing import strategies

TYPES = ("eps", "x0", "v")


@st.composite
def steps(draw):
    """Return (alpha_bar, alpha_bar_prev), within a factor of 2, as float32 numbers."""
    before = draw(strategies.alpha_bar_values(0.01, 0.98))
    return float(np.float32(before * draw(st.floats(0.55, 0.999)))), before


def ratio(alpha_bar):
    return Fraction(alpha_bar) / (1 - Fraction(alpha_bar))


def exact_elbo_weights(now, before):
    of_x0 = (ratio(before) - ratio(now)) / 2
    return {"x0": of_x0, "eps": of_x0 / ratio(now), "v": of_x0 * (1 - Fraction(now))}


def exact_min_snr_weights(alpha_bar, gamma):
    capped = min(ratio(alpha_bar), Fraction(gamma))
    return {
        "x0": capped,
        "eps": capped / ratio(alpha_bar),
        "v": capped / (ratio(alpha_bar) + 1),
    }


@pytest.mark.parametrize("kind", TYPES)
@given(levels=st.lists(steps(), min_size=3, max_size=3))
def test_elbo_weight_equals_exact_fractions(xp, dtype, xp_assert_close, kind, levels):
    now, before = (xp.asarray(x, dtype=getattr(xp, dtype)) for x in zip(*levels, strict=True))
    exact = np.asarray([float(exact_elbo_weights(*level)[kind]) for level in levels])
    xp_assert_close(lm.elbo_weight(now, before, kind), exact, like=now, ulps=6)


@given(steps())
def test_elbo_weight_is_of_x0_by_default(level):
    weight = lm.elbo_weight(*level)
    assert type(weight) is float and weight == lm.elbo_weight(*level, "x0")


@given(data=st.data(), level=steps())
def test_three_predictions_have_one_bound(xp, dtype, to_numpy, data, level):
    """Errors of eps, x0 and v that belong together, each with its own weight, count the same."""
    x0, eps, error = data.draw(strategies.paired(3, xp, dtype, (2, 3)))
    now, before = level
    xt = lm.q_sample(x0, now, eps)
    wrong = {"x0": x0 + error, "eps": lm.eps_from_x0(xt, x0 + error, now)}
    wrong["v"] = lm.v_from_x0_eps(wrong["x0"], wrong["eps"], now)
    right = {"x0": x0, "eps": eps, "v": lm.v_from_x0_eps(x0, eps, now)}
    bound = float(exact_elbo_weights(now, before)["x0"]) * to_numpy(error).astype(float) ** 2
    for kind in TYPES:
        got = to_numpy(lm.elbo_weight(now, before, kind) * (wrong[kind] - right[kind]) ** 2)
        # d = wrong - right is at most 8 / sqrt(1 - abar); its terms, up to 27 / sqrt(1 - abar) and
        # within 4 ulp each, round it by less than 400 ulp / sqrt(1 - abar), and d^2 by 2 * 8 * 400
        ulp = np.finfo(dtype).eps
        slack = 6400 * ulp * float(exact_elbo_weights(now, before)[kind]) / (1 - now)
        np.testing.assert_allclose(got, bound, rtol=16 * ulp, atol=slack)


@pytest.mark.parametrize(
    "function", [lambda k: lm.elbo_weight(0.2, 0.5, k), lambda k: lm.min_snr_weight(0.5, k)]
)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "", None])
def test_other_prediction_types_are_refused(function, kind):
    with pytest.raises(ValueError, match="must be eps, x0 or v"):
        function(kind)


@given(steps(), strategies.alpha_bar_values(0.01, 0.9))
def test_eps_weight_equals_exact_fractions(xp, dtype, xp_assert_close, level, variance):
    now, before = level
    beta = float(np.float32((before - now) / before))
    exact = Fraction(beta) ** 2 / (2 * Fraction(variance) * (1 - Fraction(beta)))
    exact = np.asarray([float(exact / (1 - Fraction(now)))])
    arrays = [xp.asarray([z], dtype=getattr(xp, dtype)) for z in (beta, variance, now)]
    xp_assert_close(lm.eps_weight(*arrays), exact, like=arrays[0], ulps=8)


@given(steps())
def test_eps_weight_with_beta_tilde_is_the_elbo_weight(level):
    now, before = level
    beta = lm.posterior_variance(now, before, "fixed_large")
    weight = lm.eps_weight(beta, lm.posterior_variance(now, before), now)
    np.testing.assert_allclose(weight, lm.elbo_weight(now, before, "eps"), rtol=1e-13)


def test_the_x0_weight_of_latent_diffusion_is_another():
    """0.5 * sqrt(abar) / (2.0 * 1 - abar), as written: 591 times too small, then 599 too large."""
    alpha_bar = lm.alphas_cumprod(lm.scaled_linear_betas(1000))
    theirs = 0.5 * np.sqrt(alpha_bar) / (2.0 * 1 - alpha_bar)
    off = lm.elbo_weight(alpha_bar[1:], alpha_bar[:-1]) / theirs[1:]
    assert 591 < off[0] < 592 and 598 < 1 / off[-1] < 599


@pytest.mark.parametrize("kind", TYPES)
@given(
    levels=st.lists(strategies.alpha_bar_values(0.01, 0.99), min_size=4, max_size=4),
    gamma=st.sampled_from([0.25, 1.0, 5.0, 20.0]),
)
def test_min_snr_weight_equals_exact_fractions(xp, dtype, xp_assert_close, kind, levels, gamma):
    levels = [*levels, 0.75, 0.875]  # SNR 3 and 7, on both sides of 5
    array = xp.asarray(levels, dtype=getattr(xp, dtype))
    exact = np.asarray([float(exact_min_snr_weights(a, gamma)[kind]) for a in levels])
    xp_assert_close(lm.min_snr_weight(array, kind, gamma), exact, like=array, ulps=4)
    for number in (float, np.float64):
        one = lm.min_snr_weight(number(levels[0]), kind, gamma)
        np.testing.assert_allclose(one, exact[0], rtol=1e-15)


def test_min_snr_weight_is_of_eps_with_gamma_5_by_default():
    for alpha_bar in (0.75, 0.875):
        assert lm.min_snr_weight(alpha_bar) == lm.min_snr_weight(alpha_bar, "eps", 5.0)
    np.testing.assert_allclose(lm.min_snr_weight(0.875), 5 / 7, rtol=1e-15)
    assert lm.min_snr_weight(0.75) == 1.0


def test_min_snr_weight_holds_at_the_ends(xp, dtype, xp_assert_close):
    ends = xp.asarray([0.0, 1.0], dtype=getattr(xp, dtype))
    zero = np.zeros(2)
    xp_assert_close(lm.min_snr_weight(ends, "v"), zero, like=ends, ulps=0)
    xp_assert_close(lm.min_snr_weight(ends[1:]), zero[1:], like=ends, ulps=0)
    xp_assert_close(lm.min_snr_weight(ends[:1], "x0"), zero[:1], like=ends, ulps=0)


@given(data=st.data())
def test_simple_loss_is_the_mean_of_each_example(xp, dtype, xp_assert_close, to_numpy, data):
    prediction, target = data.draw(strategies.paired(2, xp, dtype))
    wide = (to_numpy(prediction).astype(float) - to_numpy(target).astype(float)) ** 2
    desired = np.asarray([row.sum() / row.size for row in wide])
    xp_assert_close(lm.simple_loss(prediction, target), desired, like=prediction, ulps=16)


def test_hybrid_loss_adds_a_thousandth_of_the_bound(xp, dtype, xp_assert_close):
    simple, bound = (xp.asarray(z, dtype=getattr(xp, dtype)) for z in ([2.0, 0.0], [3.0, 500.0]))
    desired = np.asarray([2.003, 0.5])
    xp_assert_close(lm.hybrid_loss(simple, bound), desired, like=simple, ulps=2)
    desired = np.asarray([3.5, 250.0])
    xp_assert_close(lm.hybrid_loss(simple, bound, 0.5), desired, like=simple, ulps=2)
