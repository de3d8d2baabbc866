"""Schedules and levels against mpmath at 50 digits, literal algorithms and known numbers."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
ULP = float(np.finfo(np.float64).eps)
SIZES = st.integers(2, 60)


def relative_error(got, exact):
    return max(abs(mpf(float(g)) - e) / abs(e) for g, e in zip(got, exact, strict=True))


@st.composite
def ranges(draw, low, high):
    """Two numbers of [low, high] in order."""
    return sorted([draw(st.floats(low, high)), draw(st.floats(low, high))])


@given(SIZES, ranges(1e-6, 0.9))
def test_linear_betas_equal_mpmath(n, ends):
    a, b = map(mpf, ends)
    exact = [a + (b - a) * t / (n - 1) for t in range(n)]
    assert relative_error(lm.linear_betas(n, *ends), exact) <= 2 * ULP


@given(SIZES, ranges(1e-6, 0.9))
def test_scaled_linear_betas_equal_mpmath(n, ends):
    a, b = (mpmath.sqrt(mpf(x)) for x in ends)
    exact = [(a + (b - a) * t / (n - 1)) ** 2 for t in range(n)]
    assert relative_error(lm.scaled_linear_betas(n, *ends), exact) <= 4 * ULP


@pytest.mark.parametrize("n", [2, 3, 50, 1000])
@pytest.mark.parametrize("s", [0.008, 0.1])
def test_cosine_betas_equal_mpmath(n, s):
    f = [
        mpmath.cos((mpf(t) / n + mpf(s)) / (1 + mpf(s)) * mpmath.pi / 2) ** 2 for t in range(n + 1)
    ]
    exact = [min(1 - f[t + 1] / f[t], mpf(0.999)) for t in range(n)]
    assert relative_error(lm.cosine_betas(n, s), exact) <= 1e-13 * n


@given(strategies.betas())
def test_alphas_cumprod_equals_mpmath(betas):
    exact = [mpmath.fprod(1 - mpf(b) for b in betas[: t + 1]) for t in range(len(betas))]
    assert relative_error(lm.alphas_cumprod(betas), exact) <= len(betas) * ULP


@pytest.mark.parametrize("make", [lm.linear_betas, lm.scaled_linear_betas, lm.cosine_betas])
@given(n=SIZES)
def test_schedules_grow_and_their_signal_fades(make, n):
    betas = make(n)
    assert betas.shape == (n,) and betas.dtype == np.float64
    assert np.all((betas > 0) & (betas < 1)) and np.all(np.diff(betas) >= -ULP)
    alpha_bar = lm.alphas_cumprod(betas)
    assert np.all(np.diff(alpha_bar) < 0) and alpha_bar[-1] > 0
    assert alpha_bar[0] == 1 - betas[0]  # index 0 already holds the first beta


@pytest.mark.parametrize("make", [lm.linear_betas, lm.scaled_linear_betas])
def test_schedules_end_where_they_are_told_to(make):
    np.testing.assert_allclose(make(7, 0.1, 0.4)[[0, -1]], [0.1, 0.4], rtol=4 * ULP)


@pytest.mark.parametrize("make", [lm.linear_betas, lm.scaled_linear_betas])
@pytest.mark.parametrize("bad", [(1, 0.1, 0.2), (9, 0.0, 0.2), (9, 0.3, 0.2), (9, 0.1, 1.0)])
def test_schedules_refuse_impossible_ranges(make, bad):
    with pytest.raises(ValueError, match=r"n >= 2|start <= end"):
        make(*bad)


def test_cosine_betas_refuse_one_step():
    with pytest.raises(ValueError, match="n >= 2"):
        lm.cosine_betas(1)


def test_cosine_betas_never_exceed_their_cap():
    assert lm.cosine_betas(100, max_beta=0.5).max() == 0.5


def test_stable_diffusion_sigmas_have_their_known_ends():
    """0.0291675, the published smallest sigma, is float32's; the exact one is 0.0291672."""
    betas = lm.scaled_linear_betas(1000)
    sigmas = lm.sigma_from_alpha_bar(lm.alphas_cumprod(betas))
    np.testing.assert_allclose(sigmas[0], np.sqrt(0.00085 / (1 - 0.00085)), rtol=1e-13)
    assert f"{sigmas[-1]:.4f}" == "14.6146"
    single = lm.sigma_from_alpha_bar(lm.alphas_cumprod(betas.astype(np.float32)))
    assert f"{single[0]:.7f}" == "0.0291675"
    np.testing.assert_allclose(single, sigmas, rtol=2e-5)


@pytest.mark.parametrize(("t", "known"), [(0, 0.0), (487, 0.00979), (999, 0.02)])
def test_ddpm_posterior_variances_are_the_known_ones(t, known):
    alpha_bar = np.concatenate([[1.0], lm.alphas_cumprod(lm.linear_betas(1000))])
    _, variance = lm.q_posterior(np.zeros(1), np.zeros(1), alpha_bar[t + 1], alpha_bar[t])
    assert abs(float(variance) - known) < 1e-5


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
    low, high = np.asarray(min(a, b)), np.asarray(max(a, b))
    assert lm.sigma_from_alpha_bar(low) >= lm.sigma_from_alpha_bar(high)
    assert lm.snr(low) <= lm.snr(high)


def test_clean_data_have_sigma_0_and_pure_noise_snr_0():
    assert lm.sigma_from_alpha_bar(np.asarray(1.0)) == 0 == lm.snr(np.asarray(0.0))
    assert lm.alpha_bar_from_sigma(np.asarray(0.0)) == 1


@given(data=st.data())
def test_alphas_cumprod_keeps_library_and_dtype(xp, dtype, xp_assert_close, data):
    betas = data.draw(strategies.betas(max_size=8))
    x = xp.asarray(betas, dtype=getattr(xp, dtype))
    xp_assert_close(lm.alphas_cumprod(x), np.cumprod(1 - betas), like=x, ulps=len(betas) + 1)


def algorithm_1(betas):
    """Algorithm 1 of arXiv:2305.08891, line by line, with 50 digits."""
    alphas = [1 - mpf(b) for b in betas]
    alphas_bar = [mpmath.fprod(alphas[: t + 1]) for t in range(len(alphas))]
    alphas_bar_sqrt = [mpmath.sqrt(a) for a in alphas_bar]
    first, last = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    alphas_bar_sqrt = [a - last for a in alphas_bar_sqrt]
    alphas_bar_sqrt = [a * first / (first - last) for a in alphas_bar_sqrt]
    alphas_bar = [a**2 for a in alphas_bar_sqrt]
    alphas = [alphas_bar[0]] + [now / before for before, now in pairwise(alphas_bar)]
    return [1 - a for a in alphas]


SCHEDULES = [lm.linear_betas(1000), lm.scaled_linear_betas(1000), lm.cosine_betas(50)]


@pytest.mark.parametrize("betas", [*SCHEDULES, np.asarray([0.1, 0.2])], ids=len)
def test_zero_terminal_snr_equals_the_paper_s_algorithm(betas):
    got = lm.rescale_zero_terminal_snr(betas)
    exact = np.asarray([float(b) for b in algorithm_1(betas)])
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        lm.alphas_cumprod(got), lm.alphas_cumprod(exact), rtol=1e-12, atol=1e-16
    )


@given(strategies.betas(min_size=3))
def test_zero_terminal_snr_keeps_the_first_level_and_ends_without_signal(betas):
    before = lm.alphas_cumprod(betas)
    after = lm.alphas_cumprod(lm.rescale_zero_terminal_snr(betas))
    assert after[-1] == 0
    np.testing.assert_allclose(after[0], before[0], rtol=1e-14)
    assert np.all(np.diff(after) < 0) and np.all(after <= before * (1 + 1e-9))


@given(st.integers(2, 40), ranges(1e-3, 100.0), st.floats(1.0, 10.0))
def test_karras_sigmas_equal_mpmath(n, ends, rho):
    low, high = (mpf(x) ** (1 / mpf(rho)) for x in ends)
    exact = [(high + mpf(i) / (n - 1) * (low - high)) ** mpf(rho) for i in range(n)]
    spread = float(high / low)  # steps are taken from the largest: its ulp counts at the smallest
    bound = (2 * rho * spread + (1 + spread) * abs(np.log(ends)).max()) * ULP
    assert relative_error(lm.karras_sigmas(n, *ends, rho), exact) <= bound


@given(st.integers(2, 40), ranges(1e-3, 100.0))
def test_exponential_sigmas_equal_mpmath(n, ends):
    low, high = map(mpf, ends)
    exact = [high * (low / high) ** (mpf(i) / (n - 1)) for i in range(n)]
    bound = 1e-15 * (1 + abs(np.log(ends)).max())
    assert relative_error(lm.exponential_sigmas(n, *ends), exact) <= bound


@pytest.mark.parametrize("grid", [lm.karras_sigmas, lm.exponential_sigmas])
@given(n=st.integers(1, 40))
def test_sigma_grids_fall_from_the_largest_to_the_smallest(grid, n):
    sigmas = grid(n, 0.0291675, 14.6146)
    assert sigmas.shape == (n,) and sigmas.dtype == np.float64
    assert np.all(np.diff(sigmas) < 0)
    ends = [14.6146, 0.0291675] if n > 1 else [14.6146]
    np.testing.assert_allclose(sigmas[[0, -1] if n > 1 else [0]], ends, rtol=1e-14)


@pytest.mark.parametrize("grid", [lm.karras_sigmas, lm.exponential_sigmas])
@pytest.mark.parametrize("bad", [(0, 0.1, 1.0), (5, 0.0, 1.0), (5, 2.0, 1.0)])
def test_sigma_grids_refuse_impossible_ranges(grid, bad):
    with pytest.raises(ValueError, match=r"n >= 1|sigma_min <= sigma_max"):
        grid(*bad)


@given(st.integers(2, 40))
def test_karras_sigmas_with_a_large_rho_become_exponential(n):
    near = lm.karras_sigmas(n, 0.1, 10.0, rho=1e6)
    np.testing.assert_allclose(near, lm.exponential_sigmas(n, 0.1, 10.0), rtol=1e-5)
