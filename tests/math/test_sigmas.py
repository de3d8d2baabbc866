"""Grids of noise levels against mpmath at 50 digits, scipy, and other programs' numbers."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.stats import beta

from ldmref import math as lm

mpmath.mp.dps = 50
ULP = float(np.finfo(np.float64).eps)


def relative_error(got, exact):
    return max(abs(mpf(float(g)) - e) / abs(e) for g, e in zip(got, exact, strict=True))


@st.composite
def ranges(draw, low, high):
    """Return two numbers of [low, high] in order."""
    return sorted([draw(st.floats(low, high)), draw(st.floats(low, high))])


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


@given(st.integers(2, 40), ranges(1e-3, 100.0))
def test_kl_optimal_sigmas_equal_mpmath(n, ends):
    low, high = (mpmath.atan(mpf(x)) for x in ends)
    exact = [mpmath.tan(high + mpf(i) / (n - 1) * (low - high)) for i in range(n)]
    for got, want in zip(lm.kl_optimal_sigmas(n, *ends), exact, strict=True):
        assert abs(got - want) <= 1e-15 * (want**2 + 1)


@given(st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_kl_optimal_sigmas_are_best_for_a_normal_distribution(n, seed):
    """Euler's method for data of N(0, 1), x0 = x / (1 + sigma^2), loses the least variance."""

    def remaining(sigmas):
        pairs = itertools.pairwise(sigmas)
        return math.prod(1.0 + (b / a - 1.0) * a**2 / (1.0 + a**2) for a, b in pairs)

    best = lm.kl_optimal_sigmas(n, 0.03, 15.0)
    moved = best.copy()
    moved[1:-1] *= np.exp(0.1 * np.random.default_rng(seed).uniform(-1.0, 1.0, n - 2))
    exact = math.sqrt((1.0 + 0.03**2) / (1.0 + 15.0**2))
    assert remaining(moved) <= remaining(best) < exact


GRIDS = [lm.karras_sigmas, lm.exponential_sigmas, lm.kl_optimal_sigmas, lm.beta_sigmas]


@pytest.mark.parametrize("grid", GRIDS)
@given(n=st.integers(1, 40))
def test_sigma_grids_fall_from_the_largest_to_the_smallest(grid, n):
    sigmas = grid(n, 0.0291675, 14.6146)
    assert sigmas.shape == (n,) and sigmas.dtype == np.float64
    assert np.all(np.diff(sigmas) < 0)
    ends = [14.6146, 0.0291675] if n > 1 else [14.6146]
    np.testing.assert_allclose(sigmas[[0, -1] if n > 1 else [0]], ends, rtol=1e-14)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bad", [(0, 0.1, 1.0), (5, 0.0, 1.0), (5, 2.0, 1.0)])
def test_sigma_grids_refuse_impossible_ranges(grid, bad):
    with pytest.raises(ValueError, match=r"n >= 1|sigma_min <= sigma_max"):
        grid(*bad)


@given(st.integers(2, 40))
def test_karras_sigmas_with_a_large_rho_become_exponential(n):
    near = lm.karras_sigmas(n, 0.1, 10.0, rho=1e6)
    np.testing.assert_allclose(near, lm.exponential_sigmas(n, 0.1, 10.0), rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_sigma_grids_may_stay_at_one_level(grid):
    np.testing.assert_allclose(grid(3, 2.0, 2.0), [2.0, 2.0, 2.0], rtol=1e-14)


def test_karras_sigmas_have_rho_7_and_beta_grids_0_6():
    np.testing.assert_array_equal(
        lm.karras_sigmas(5, 0.1, 9.0), lm.karras_sigmas(5, 0.1, 9.0, rho=7.0)
    )
    np.testing.assert_array_equal(lm.beta_timesteps(5, 99), lm.beta_timesteps(5, 99, 0.6, 0.6))
    np.testing.assert_array_equal(
        lm.beta_sigmas(5, 0.1, 9.0), lm.beta_sigmas(5, 0.1, 9.0, 0.6, 0.6)
    )


def quantile(p, a, b):
    """Return the inverse of the regularised incomplete beta function, by a root of 30 digits."""
    if p in (0, 1):
        return mpf(p)
    guess = beta.ppf(float(p), a, b)
    with mpmath.workdps(30):
        return mpmath.findroot(
            lambda x: mpmath.betainc(a, b, 0, x, regularized=True) - p, (guess * 0.999, guess)
        )


@pytest.mark.parametrize("shape", [(0.6, 0.6), (0.5, 1.5), (2.0, 3.0)])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_beta_grids_equal_mpmath(n, shape):
    exact = [999 * quantile(1 - mpf(i) / n, *shape) for i in range(n)]
    assert relative_error(lm.beta_timesteps(n, 1000, *shape), exact) <= 1e-12
    inner = [quantile(1 - mpf(i) / max(n - 1, 1), *shape) for i in range(n)]
    exact = [mpf("0.5") + (20 - mpf("0.5")) * q for q in inner]
    assert relative_error(lm.beta_sigmas(n, 0.5, 20.0, *shape), exact) <= 1e-12


@given(st.integers(2, 30))
def test_beta_grid_is_symmetric_and_dense_at_both_ends(n):
    """Beta(0.6, 0.6) is its own mirror image; its quantiles crowd where its density is large."""
    sigmas = lm.beta_sigmas(n, 1.0, 3.0)
    np.testing.assert_allclose(sigmas + sigmas[::-1], 4.0, rtol=1e-12)
    t = lm.beta_timesteps(n, 1000)
    assert t.shape == (n,) and t.dtype == np.float64 and t[0] == 999 and t[-1] > 0
    np.testing.assert_allclose(t[1:] + t[1:][::-1], 999, rtol=1e-10)
    if n > 4:
        gaps = -np.diff(sigmas)
        assert gaps[0] < 0.8 * gaps[len(gaps) // 2] > gaps[-1]


def comfyui(n, total):
    """ComfyUI's `beta_scheduler`, from its description: rounded timesteps without repetitions."""
    t = np.rint(beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * (total - 1))
    return list(dict.fromkeys(t.astype(int)))


@pytest.mark.parametrize("n", [1, 2, 10, 20, 50])
def test_beta_timesteps_rounded_are_those_of_comfyui(n):
    assert list(np.rint(lm.beta_timesteps(n, 1000)).astype(int)) == comfyui(n, 1000)


def test_beta_grid_of_many_steps_would_repeat_timesteps_when_rounded():
    t = lm.beta_timesteps(900, 1000)
    assert len(comfyui(900, 1000)) < 900 == len(np.unique(t))


def test_beta_timesteps_refuse_an_empty_grid_or_schedule():
    np.testing.assert_array_equal(lm.beta_timesteps(1, 2), [1.0])
    for bad in ((0, 1000), (5, 1)):
        with pytest.raises(ValueError, match="n >= 1 levels of total >= 2"):
            lm.beta_timesteps(*bad)


# the levels of ten steps and the last sigma, as ComfyUI lists them for Stable Diffusion
PUBLISHED_SIGMAS = {
    "sd": [14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
           0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662],
    "sdxl": [14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
             0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177],
}  # fmt: skip


@pytest.mark.parametrize("model", PUBLISHED_SIGMAS)
def test_align_your_steps_names_the_published_levels(model):
    """The timesteps (from one program) and the sigmas (from another) are the same levels."""
    table = lm.sigma_from_alpha_bar(lm.alphas_cumprod(lm.scaled_linear_betas(1000)))
    t = lm.align_your_steps_timesteps(model)
    assert t.shape == (10,) and t.dtype == np.int64 and np.all(np.diff(t) < 0)
    nearest = [int(np.argmin(abs(np.log(table / s)))) for s in PUBLISHED_SIGMAS[model]]
    assert list(t) == nearest


def test_align_your_steps_is_for_stable_diffusion_unless_said_otherwise():
    np.testing.assert_array_equal(
        lm.align_your_steps_timesteps(), lm.align_your_steps_timesteps("sd")
    )
    with pytest.raises(ValueError, match=r"no table for 'svd', only for sd, sdxl"):
        lm.align_your_steps_timesteps("svd")


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(1, 30))
def test_log_linear_sigmas_equal_mpmath(table, n):
    def level(i):
        place = mpf(i) * (len(table) - 1) / max(n - 1, 1)
        k = min(int(place), len(table) - 1)
        after = table[min(k + 1, len(table) - 1)]
        return mpf(table[k]) ** (1 - (place - k)) * mpf(after) ** (place - k)

    got = lm.log_linear_sigmas(np.asarray(table), n)
    assert got.shape == (n,) and got.dtype == np.float64
    bound = 4 * ULP * (1 + abs(np.log(table)).max()) * (1 + len(table))
    assert relative_error(got, [level(i) for i in range(n)]) <= bound


def test_log_linear_sigmas_of_as_many_levels_are_the_same_levels():
    table = [14.0, 3.0, 1.0, 0.02]
    np.testing.assert_allclose(lm.log_linear_sigmas(np.asarray(table), 4), table, rtol=1e-14)
    np.testing.assert_allclose(lm.log_linear_sigmas(np.asarray(table), 1), [14.0], rtol=1e-14)


@pytest.mark.parametrize("bad", [([1.0, 2.0], 0), ([1.0, 0.0], 3), ([1.0, -1.0], 3)])
def test_log_linear_sigmas_refuse_what_has_no_logarithm(bad):
    with pytest.raises(ValueError, match="n >= 1 levels along positive sigmas"):
        lm.log_linear_sigmas(np.asarray(bad[0]), bad[1])
