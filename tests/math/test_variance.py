"""Variances of the reverse step against exact fractions and the conditioning of Gaussians."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing import strategies


@st.composite
def steps(draw):
    """Return (alpha_bar, alpha_bar_prev), within a factor of 2, as float32 numbers."""
    before = draw(strategies.alpha_bar_values(0.01, 0.98))
    return float(np.float32(before * draw(st.floats(0.55, 0.999)))), before


def exact_variances(now, before):
    """Return beta-tilde as the variance of a product of two Gaussians, and beta."""
    now = Fraction(now)
    before = Fraction(before)
    alpha = now / before
    return {
        "fixed_small": 1 / (1 / (1 - before) + alpha / (1 - alpha)),
        "fixed_large": 1 - alpha,
    }


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
@given(levels=st.lists(steps(), min_size=3, max_size=3))
def test_posterior_variance_equals_exact_fractions(xp, dtype, xp_assert_close, kind, levels):
    now, before = (xp.asarray(x, dtype=getattr(xp, dtype)) for x in zip(*levels, strict=True))
    exact = np.asarray([float(exact_variances(*level)[kind]) for level in levels])
    got = lm.posterior_variance(now, before, kind)
    xp_assert_close(got, exact, like=now, ulps=6)


@given(steps())
def test_posterior_variance_of_python_numbers_is_a_python_number(level):
    small, large = (lm.posterior_variance(*level, kind) for kind in exact_variances(*level))
    assert type(small) is float and small == lm.posterior_variance(*level)
    np.testing.assert_allclose(small, float(exact_variances(*level)["fixed_small"]), rtol=1e-14)
    assert small < large
    assert lm.posterior_variance(level[0], 1.0) == 0.0
    assert lm.posterior_variance(level[0], 1.0, "fixed_large") == 1.0 - level[0]


def test_posterior_variance_refuses_other_kinds():
    with pytest.raises(ValueError, match="fixed_small or fixed_large, not 'learned'"):
        lm.posterior_variance(0.25, 0.5, "learned")


@given(steps(), st.floats(0, 1))
def test_the_true_variance_for_gaussian_data_lies_between_the_two(level, spread):
    """Var(x_s | x_t) for x_0 ~ N(0, spread^2), by conditioning (x_s, x_t) as a Gaussian pair."""
    now, before = level
    at_s = before * spread**2 + 1 - before
    at_t = now * spread**2 + 1 - now
    covariance = np.sqrt(now / before) * at_s
    true = at_s - covariance**2 / at_t
    small, large = (lm.posterior_variance(*level, k) for k in ("fixed_small", "fixed_large"))
    assert small * (1 - 1e-9) <= true <= large * (1 + 1e-9)
    if spread in (0, 1):
        np.testing.assert_allclose(true, (small, large)[int(spread)], rtol=1e-10)


def test_variances_of_ddpm_s_own_schedule():
    """Spot values of the linear schedule from 1e-4 to 0.02."""
    levels = np.append(1.0, lm.alphas_cumprod(lm.linear_betas(1000, 1e-4, 0.02)))
    variance = lm.posterior_variance(levels[1:], levels[:-1])
    np.testing.assert_allclose(variance[[0, 487, 999]], [0.0, 0.00979, 0.02], atol=5e-6)


@pytest.mark.parametrize("floor", [None, 1e-20, 0.05])
@given(strategies.betas(min_size=2, max_size=8))
def test_clipped_logvar_equals_exact_fractions(floor, betas):
    exact = []
    level = Fraction(1)
    for beta in map(Fraction, map(float, betas)):
        before = level
        level = level * (1 - beta)
        exact.append(float(beta * (1 - before) / (1 - level)))
    if floor is None:
        exact[0] = exact[1]
        got = lm.posterior_logvar_clipped(betas)
    else:
        exact = [max(v, floor) for v in exact]
        got = lm.posterior_logvar_clipped(betas, floor)
    # T ulp of each 1 - alpha_bar >= betas[0], in numerator and denominator, and 4 of the quotient
    rounding = (2 * len(betas) + 4) * np.finfo(float).eps / betas[0]
    np.testing.assert_allclose(got, np.log(exact), rtol=1e-15, atol=rounding)


def test_clipped_logvar_stays_in_its_library(xp, dtype, xp_assert_close):
    betas = xp.asarray([0.5, 0.5, 0.25], dtype=getattr(xp, dtype))
    third = 0.25 * 0.75 / (1 - 0.1875)
    desired = np.log([1 / 3, 1 / 3, third])
    xp_assert_close(lm.posterior_logvar_clipped(betas), desired, like=betas, ulps=8)
    desired = np.log([1e-20, 1 / 3, third])
    xp_assert_close(lm.posterior_logvar_clipped(betas, 1e-20), desired, like=betas, ulps=8)


def test_clipped_logvar_needs_two_steps():
    with pytest.raises(ValueError, match="at least 2"):
        lm.posterior_logvar_clipped(np.asarray([0.5]))
    assert lm.posterior_logvar_clipped(np.asarray([0.5, 0.5])).shape == (2,)


@given(data=st.data())
def test_learned_range_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    v = data.draw(strategies.arrays((2, 3), xp, dtype, bound=2))
    upper, lower = (data.draw(strategies.alpha_bars(2, xp, dtype, 1e-4, 1.0)) for _ in range(2))
    desired = np.zeros((2, 3))
    size = np.zeros((2, 3))
    for i, j in np.ndindex(2, 3):
        f = (mpmath.mpf(float(v[i, j])) + 1) / 2
        large, small = (mpmath.log(mpmath.mpf(float(z[i]))) for z in (upper, lower))
        desired[i, j] = float(f * large + (1 - f) * small)
        size[i, j] = (abs(float(v[i, j])) + 1) * float(abs(large) + abs(small))
    got = lm.learned_range_logvar(v, upper, lower)
    xp_assert_close(got, desired, like=v, ulps=4, scale=size)


def test_learned_range_ends_in_the_two_variances(xp, dtype, xp_assert_close):
    v = xp.asarray([[-1.0, 0.0, 1.0, 3.0]], dtype=getattr(xp, dtype))
    desired = np.log([[0.01, 0.02, 0.04, 0.16]])
    xp_assert_close(lm.learned_range_logvar(v, 0.04, 0.01), desired, like=v, ulps=8)


def test_learned_range_refuses_another_length():
    v = np.zeros((3, 2))
    two = np.full(2, 0.5)
    three = np.full(3, 0.5)
    for betas in ((two, three), (three, two)):
        with pytest.raises(ValueError, match="does not fit"):
            lm.learned_range_logvar(v, *betas)
