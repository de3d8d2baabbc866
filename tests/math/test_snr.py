"""Levels: alpha-bar, sigma, SNR and its logarithm, against mpmath at 50 digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
CONVERSIONS = {
    "snr": (lm.snr, lambda a: a / (1 - a)),
    "sigma_from_alpha_bar": (lm.sigma_from_alpha_bar, lambda a: mpmath.sqrt((1 - a) / a)),
    "alpha_bar_from_sigma": (lm.alpha_bar_from_sigma, lambda s: 1 / (1 + s * s)),
}


@pytest.mark.parametrize("name", CONVERSIONS)
@given(data=st.data())
def test_conversions_equal_mpmath(xp, dtype, xp_assert_close, name, data):
    function, exact = CONVERSIONS[name]
    values = strategies.sigma_values if "from_sigma" in name else strategies.alpha_bar_values
    drawn = data.draw(st.lists(values(), min_size=1, max_size=4))
    x = xp.asarray(drawn, dtype=getattr(xp, dtype))
    desired = np.asarray([float(exact(mpf(v))) for v in drawn])
    xp_assert_close(function(x), desired, like=x, ulps=3)


@given(data=st.data())
def test_sigma_and_alpha_bar_are_inverse(xp, dtype, xp_assert_close, data):
    alpha_bar = data.draw(strategies.alpha_bars(3, xp, dtype))
    sigma = lm.sigma_from_alpha_bar(alpha_bar)
    xp_assert_close(lm.alpha_bar_from_sigma(sigma), alpha_bar, ulps=8)
    xp_assert_close(lm.snr(alpha_bar), 1 / (sigma * sigma), ulps=12)


@given(strategies.alpha_bar_values(), strategies.alpha_bar_values())
def test_more_signal_is_less_sigma_and_more_snr(a, b):
    low = np.asarray(min(a, b))
    high = np.asarray(max(a, b))
    assert lm.sigma_from_alpha_bar(low) >= lm.sigma_from_alpha_bar(high)
    assert lm.snr(low) <= lm.snr(high)


def test_clean_data_have_sigma_0_and_pure_noise_snr_0():
    assert lm.sigma_from_alpha_bar(np.asarray(1.0)) == 0 == lm.snr(np.asarray(0.0))
    assert lm.alpha_bar_from_sigma(np.asarray(0.0)) == 1


def exact(function, x, to_numpy):
    return np.asarray([float(function(mpf(float(v)))) for v in to_numpy(x)])


@given(data=st.data())
def test_log_snr_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    a = data.draw(strategies.alpha_bars(3, xp, dtype))
    desired = exact(lambda v: mpmath.log(v / (1 - v)), a, to_numpy)
    terms = exact(lambda v: abs(mpmath.log(v)) + abs(mpmath.log1p(-v)), a, to_numpy)
    xp_assert_close(lm.log_snr(a), desired, like=a, ulps=3, scale=terms)


@given(data=st.data())
def test_log_snr_keeps_the_digits_of_tiny_levels(xp, dtype, xp_assert_close, to_numpy, data):
    """Near 0 and near 1; the float64 number 1 - alpha_bar loses its digits, log1p keeps them."""
    exponent = data.draw(st.integers(5, 30))
    a = xp.asarray([2.0**-exponent, 0.5], dtype=getattr(xp, dtype))
    desired = exact(lambda v: mpmath.log(v / (1 - v)), a, to_numpy)
    xp_assert_close(lm.log_snr(a), desired, like=a, ulps=3)
    assert float(lm.log_snr(a)[1]) == 0


@given(data=st.data())
def test_alpha_bar_from_log_snr_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    nats = data.draw(strategies.arrays((4,), xp, dtype))
    desired = exact(lambda v: 1 / (1 + mpmath.exp(-v)), nats, to_numpy)
    below = 4 + np.maximum(-to_numpy(nats), 0.0)
    xp_assert_close(
        lm.alpha_bar_from_log_snr(nats), desired, like=nats, ulps=1, scale=below * desired
    )


def test_alpha_bar_from_log_snr_ends_in_0_and_1(xp, dtype, to_numpy):
    ends = xp.asarray([-3000.0, 0.0, 3000.0], dtype=getattr(xp, dtype))
    np.testing.assert_array_equal(to_numpy(lm.alpha_bar_from_log_snr(ends)), [0.0, 0.5, 1.0])


@given(data=st.data())
def test_log_snr_and_alpha_bar_are_inverse(xp, dtype, xp_assert_close, data):
    nats = data.draw(strategies.arrays((4,), xp, dtype))
    back = lm.log_snr(lm.alpha_bar_from_log_snr(nats))
    xp_assert_close(back, nats, ulps=8, scale=xp.exp(abs(nats)) + abs(nats))


@given(data=st.data())
def test_log_snr_is_minus_twice_the_logarithm_of_sigma(xp, dtype, xp_assert_close, data):
    a = data.draw(strategies.alpha_bars(3, xp, dtype, 0.01, 0.99))
    xp_assert_close(lm.log_snr(a), -2 * xp.log(lm.sigma_from_alpha_bar(a)), ulps=32, scale=4.0)
    xp_assert_close(lm.log_snr(a), xp.log(lm.snr(a)), ulps=16, scale=4.0)


@given(strategies.alpha_bar_values())
def test_levels_may_be_python_numbers(a):
    for function in (lm.snr, lm.sigma_from_alpha_bar, lm.alpha_bar_from_sigma):
        alone = function(a)
        assert isinstance(alone, float)
        np.testing.assert_allclose(alone, function(np.asarray([a]))[0], rtol=1e-15)


def test_alpha_bar_from_log_snr_lets_gradients_through_at_0():
    torch = pytest.importorskip("torch")
    nats = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    lm.alpha_bar_from_log_snr(nats).sum().backward()
    level = 1 / (1 + np.exp(-np.asarray([0.0, 2.0])))
    np.testing.assert_allclose(nats.grad.numpy(), level * (1 - level), rtol=1e-14)
