"""Schedules against mpmath at 50 digits, literal algorithms and known numbers."""

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
    """Return two numbers of [low, high] in order."""
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


def capped_ratios(f, n, cap=0.999):
    """min(1 - f((t+1)/n) / f(t/n), cap): betas of any falling curve f."""
    levels = [f(mpf(t) / n) for t in range(n + 1)]
    return [min(1 - b / a, mpf(cap)) for a, b in pairwise(levels)]


@pytest.mark.parametrize("n", [2, 3, 50, 400])
@pytest.mark.parametrize("s", [0.0, 0.008, 0.1])
def test_cosine_betas_equal_mpmath(n, s):
    exact = capped_ratios(lambda u: mpmath.cos((u + mpf(s)) / (1 + mpf(s)) * mpmath.pi / 2) ** 2, n)
    assert relative_error(lm.cosine_betas(n, s), exact) <= 4 * n * ULP


def logistic_curve(start, end, tau):
    """Chen 2023, algorithm 1, without its clipping."""

    def g(u):
        return 1 / (1 + mpmath.exp(-(mpf(start) + (mpf(end) - mpf(start)) * u) / mpf(tau)))

    return lambda u: (g(1) - g(u)) / (g(1) - g(0))


@pytest.mark.parametrize("n", [2, 3, 50, 400])
@pytest.mark.parametrize(
    "shape", [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.5), (-5.0, -1.0, 2.0), (1.0, 2.0, 0.25)]
)
def test_sigmoid_betas_equal_mpmath(n, shape):
    start, end, tau = shape
    exact = capped_ratios(logistic_curve(*shape), n)
    bound = (8 + 2 * (abs(start) + abs(end)) / tau) * ULP
    assert relative_error(lm.sigmoid_betas(n, *shape), exact) <= bound


def test_sigmoid_betas_of_a_sudden_curve_do_not_overflow():
    """At temperature 0.002 the exponents reach 1500, and e^710 is the largest double."""
    with mpmath.workdps(1500):
        exact = capped_ratios(logistic_curve(-3.0, 3.0, 0.002), 9, cap=0.5)
    got = lm.sigmoid_betas(9, tau=0.002, max_beta=0.5)
    large = [i for i, beta in enumerate(exact) if beta > 1e-300]
    assert len(large) >= 6 and np.all(np.isfinite(got)) and np.all(got >= 0)
    assert relative_error(got[large], [exact[i] for i in large]) <= 6008 * ULP


def test_default_shapes_are_the_papers():
    np.testing.assert_array_equal(lm.linear_betas(5), lm.linear_betas(5, 1e-4, 0.02))
    np.testing.assert_array_equal(
        lm.scaled_linear_betas(5), lm.scaled_linear_betas(5, 0.00085, 0.012)
    )
    np.testing.assert_array_equal(lm.cosine_betas(5), lm.cosine_betas(5, 0.008, 0.999))
    np.testing.assert_array_equal(lm.sigmoid_betas(5), lm.sigmoid_betas(5, -3.0, 3.0, 1.0, 0.999))


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
def test_schedules_end_at_the_requested_betas(make):
    np.testing.assert_allclose(make(7, 0.1, 0.4)[[0, -1]], [0.1, 0.4], rtol=4 * ULP)


@pytest.mark.parametrize("make", [lm.linear_betas, lm.scaled_linear_betas])
@pytest.mark.parametrize("bad", [(1, 0.1, 0.2), (9, 0.0, 0.2), (9, 0.3, 0.2), (9, 0.1, 1.0)])
def test_schedules_refuse_impossible_ranges(make, bad):
    with pytest.raises(ValueError, match=r"n >= 2|start <= end"):
        make(*bad)


def test_schedules_may_be_flat():
    np.testing.assert_array_equal(lm.linear_betas(2, 0.25, 0.25), [0.25, 0.25])
    np.testing.assert_array_equal(lm.scaled_linear_betas(3, 0.25, 0.25), [0.25, 0.25, 0.25])


@pytest.mark.parametrize("make", [lm.cosine_betas, lm.sigmoid_betas])
def test_falling_curves_refuse_one_step_and_keep_their_cap(make):
    with pytest.raises(ValueError, match="n >= 2"):
        make(1)
    assert make(2)[1] == 0.999
    betas = make(100, max_beta=0.5)
    assert betas.shape == (100,) and betas.dtype == np.float64
    assert betas.max() == betas[-1] == 0.5 and np.sum(betas == 0.5) < 9


@given(st.integers(2, 40))
def test_sigmoid_schedule_is_symmetric_about_its_middle(n):
    """alpha_bar(u) + alpha_bar(1 - u) = 1 for the default curve, up to the capped last step."""
    levels = np.cumprod(1 - lm.sigmoid_betas(n))[:-1]
    np.testing.assert_allclose(levels + levels[::-1], 1, rtol=1e-13)


@pytest.mark.parametrize("bad", [(2.0, 2.0, 1.0), (3.0, -3.0, 1.0), (-3.0, 3.0, 0.0)])
def test_sigmoid_betas_refuse_a_curve_that_does_not_rise(bad):
    with pytest.raises(ValueError, match=r"start < end and tau > 0"):
        lm.sigmoid_betas(9, *bad)


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
    first = alphas_bar_sqrt[0]
    last = alphas_bar_sqrt[-1]
    alphas_bar_sqrt = [a - last for a in alphas_bar_sqrt]
    alphas_bar_sqrt = [a * first / (first - last) for a in alphas_bar_sqrt]
    alphas_bar = [a**2 for a in alphas_bar_sqrt]
    alphas = [alphas_bar[0]] + [now / before for before, now in pairwise(alphas_bar)]
    return [1 - a for a in alphas]


SCHEDULES = [lm.linear_betas(100), lm.scaled_linear_betas(1000), lm.cosine_betas(50)]


@pytest.mark.parametrize("betas", [*SCHEDULES, np.asarray([0.1, 0.2])], ids=len)
def test_zero_terminal_snr_equals_the_paper_s_algorithm(betas):
    got = lm.rescale_zero_terminal_snr(betas)
    exact = np.asarray([float(b) for b in algorithm_1(betas)])
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        lm.alphas_cumprod(got), lm.alphas_cumprod(exact), rtol=1e-12, atol=1e-16
    )


def test_zero_terminal_snr_needs_two_steps():
    with pytest.raises(ValueError, match="n >= 2"):
        lm.rescale_zero_terminal_snr(np.asarray([0.1]))


@given(strategies.betas(min_size=3))
def test_zero_terminal_snr_keeps_the_first_level_and_ends_without_signal(betas):
    before = lm.alphas_cumprod(betas)
    after = lm.alphas_cumprod(lm.rescale_zero_terminal_snr(betas))
    assert after[-1] == 0
    np.testing.assert_allclose(after[0], before[0], rtol=1e-14)
    assert np.all(np.diff(after) < 0) and np.all(after <= before * (1 + 1e-9))
