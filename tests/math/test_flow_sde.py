"""Stochastic flow steps: transitions against mpmath, densities against scipy, chains exactly."""

import math
from functools import partial
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mpmath import mpf
from scipy import stats

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 40
TIMES = strategies.alpha_bar_values(0.05, 0.95)
LEVELS = st.sampled_from([0.1, 0.5, 0.7, 1.0])


def exact_parts(xs, u, s):
    """(x0, eps) of one number of the state, as mpf."""
    return mpf(xs) - mpf(s) * mpf(u), mpf(xs) + (1 - mpf(s)) * mpf(u)


@given(data=st.data(), s=TIMES, s_next=TIMES, g=st.sampled_from([0.0, 0.25, 0.7, 1.5]))
def test_sde_transition_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, s, s_next, g):
    assume(s_next < s)
    xs, u = data.draw(strategies.paired(2, xp, dtype))
    mean, std = lm.flow_sde_transition(xs, u, s, s_next, g)
    exact = []
    size = []
    for x, v in zip(to_numpy(xs).ravel().tolist(), to_numpy(u).ravel().tolist(), strict=True):
        _, eps = exact_parts(x, v, s)
        push = mpf(g) ** 2 / (2 * mpf(s)) * eps
        exact.append(float(mpf(x) + (mpf(s_next) - mpf(s)) * (mpf(v) + push)))
        size.append(abs(x) + abs(v) + g * g / (2 * s) * (abs(x) + abs(v)))
    shape = tuple(xs.shape)
    xp_assert_close(mean, np.reshape(exact, shape), like=xs, ulps=8, scale=np.reshape(size, shape))
    assert std == pytest.approx(g * math.sqrt(s - s_next), rel=1e-14)


@given(data=st.data(), s=TIMES, s_next=TIMES, share=st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_renoise_transition_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, **drawn):
    s, s_next, share = (drawn[name] for name in ("s", "s_next", "share"))
    xs, u = data.draw(strategies.paired(2, xp, dtype))
    std = share * s_next
    mean, same = lm.flow_renoise_transition(xs, u, s, s_next, std)
    exact = []
    size = []
    for x, v in zip(to_numpy(xs).ravel().tolist(), to_numpy(u).ravel().tolist(), strict=True):
        x0, eps = exact_parts(x, v, s)
        kept = mpmath.sqrt(max(mpf(s_next) ** 2 - mpf(std) ** 2, 0))
        exact.append(float((1 - mpf(s_next)) * x0 + kept * eps))
        size.append(abs(x) + abs(v))
    shape = tuple(xs.shape)
    xp_assert_close(mean, np.reshape(exact, shape), like=xs, ulps=8, scale=np.reshape(size, shape))
    assert same == std


@given(data=st.data(), level=LEVELS)
def test_stds_equal_mpmath(xp, dtype, xp_assert_close, data, level):
    drawn = data.draw(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=4))
    pairs = [(max(p), min(p)) for p in drawn if max(p) > 1.1 * min(p)]
    assume(pairs)
    s, t = (xp.asarray([p[i] for p in pairs], dtype=getattr(xp, dtype)) for i in (0, 1))
    exact = {"cps": [], "precise": [], "posterior": [], "ancestral": [], "grpo": [], "clamped": []}
    for a, b in ((mpf(a), mpf(b)) for a, b in pairs):
        r = b * (1 - a) / (a * (1 - b))
        down = b * (1 + mpf(level) * (b / a - 1))
        exact["cps"].append(b * mpmath.sin(mpf(level) * mpmath.pi / 2))
        exact["precise"].append(b * mpmath.sqrt(1 - r ** (mpf(level) ** 2)))
        exact["posterior"].append(b * mpmath.sqrt(1 - r**2))
        exact["ancestral"].append(mpmath.sqrt(b**2 - (down * (1 - b) / (1 - down)) ** 2))
        exact["grpo"].append(mpf(level) * mpmath.sqrt(a / (1 - a)))
        exact["clamped"].append(mpf(level) * mpmath.sqrt(a / (1 - min(a, mpf("0.9")))))
    got = {
        "cps": lm.cps_std(t, level),
        "precise": lm.precise_std(s, t, level),
        "posterior": lm.flow_posterior_std(s, t),
        "ancestral": lm.ancestral_flow_std(s, t, level),
        "grpo": lm.flow_grpo_diffusion(s, 0.9, level),
        "clamped": lm.flow_grpo_clamped_diffusion(s, 0.9, level),
    }
    for name, values in exact.items():
        numbers = np.asarray([float(v) for v in values])
        xp_assert_close(got[name], numbers, like=s, ulps=64, scale=1.0)


def test_scalars_and_arrays_agree_at_the_ends(xp):
    s = xp.asarray([1.0, 0.5], dtype=xp.float64)
    for law in (
        lambda s: lm.flow_grpo_diffusion(s, 0.96),
        lambda s: lm.flow_grpo_clamped_diffusion(s, 0.8),
        lambda s: lm.precise_std(s, 0.25),
        lambda s: lm.flow_posterior_std(s, 0.25),
        lambda s: lm.ancestral_flow_std(s, 0.25),
    ):
        assert [float(v) for v in law(s)] == pytest.approx([law(1.0), law(0.5)], rel=1e-12)
    for law in (lm.precise_std, lm.flow_posterior_std, lm.ancestral_flow_std):
        assert law(0.5, 0.0) == 0.0
    assert lm.flow_posterior_std(1.0, 0.25) == lm.precise_std(1.0, 0.25) == 0.25


@given(TIMES, TIMES, TIMES, st.floats(0.1, 2.0))
def test_share_that_precise_keeps_multiplies_over_steps(a, b, c, eta):
    """Its noise does not depend on the number of steps; that of CPS does."""
    low, middle, high = sorted((a, b, c))
    assume(low < middle < high)

    def kept(s, t):
        return math.sqrt(max(1 - (lm.precise_std(s, t, eta) / t) ** 2, 0.0))

    assert kept(high, low) == pytest.approx(kept(high, middle) * kept(middle, low), abs=1e-7)


@pytest.mark.parametrize("eta", [0.3, 0.7, math.sqrt(2)])
def test_precise_solves_the_sde_of_flow_grpo_while_x0_keeps_its_value(eta):
    """4000 short steps of the SDE with x0 = 1.2: the state's mean and variance at the end."""
    s, t, x0, x, variance = 0.8, 0.5, 1.2, 0.3, 0.0
    eps = (x - (1 - s) * x0) / s
    mean, std = lm.flow_renoise_transition(x, eps - x0, s, t, lm.precise_std(s, t, eta))
    times = np.linspace(s, t, 4001).tolist()
    for a, b in pairwise(times):
        g = lm.flow_grpo_diffusion(a, 0.9, eta)
        ends = []
        for value in (x, x + 1.0):
            noise = (value - (1 - a) * x0) / a
            ends.append(lm.flow_sde_transition(value, noise - x0, a, b, g))
        variance = (ends[1][0] - ends[0][0]) ** 2 * variance + ends[0][1] ** 2
        x = ends[0][0]
    assert (x, variance) == pytest.approx((mean, std**2), rel=1e-3)


@given(TIMES, TIMES)
def test_precise_is_the_posterior_at_root_two_and_ancestral_is_not(s, s_next):
    assume(s_next < 0.99 * s)
    assert lm.precise_std(s, s_next, math.sqrt(2)) == pytest.approx(
        lm.flow_posterior_std(s, s_next), rel=1e-9
    )
    assert lm.ancestral_flow_std(s, s_next, 0.0) == 0.0


def test_ancestral_noise_is_not_that_of_the_posterior():
    """They agree in variance-exploding coordinates; the flow's sigma_d is another."""
    assert lm.ancestral_flow_std(0.75, 0.5) == pytest.approx(0.433, abs=1e-3)
    assert lm.flow_posterior_std(0.75, 0.5) == pytest.approx(0.471, abs=1e-3)


@given(data=st.data(), average=st.booleans())
def test_log_density_and_kl_equal_scipy(xp, dtype, xp_assert_close, to_numpy, data, average):
    x, mean = data.draw(strategies.paired(2, xp, dtype, bound=2))
    std, other = 0.75, 0.5
    rows = [to_numpy(a).astype(np.float64).reshape(x.shape[0], -1) for a in (x, mean)]
    reduce = np.mean if average else np.sum
    logs = stats.norm.logpdf(rows[0], rows[1], std)
    got = lm.transition_log_density(x, mean, std, average)
    size = np.abs(logs).sum(axis=1) + 50
    xp_assert_close(got, reduce(logs, axis=1), like=x, ulps=16, scale=size)
    kl = (rows[0] - rows[1]) ** 2 / (2 * other**2) + (std / other) ** 2 / 2 - 0.5
    kl = kl - math.log(std / other)
    got = lm.transition_kl(x, std, mean, other, average)
    xp_assert_close(got, reduce(kl, axis=1), like=x, ulps=16, scale=np.abs(kl).sum(axis=1) + 8)


def rounded(x, bits):
    """Round to a number of significant bits, as float32 (24) and bfloat16 (8) do."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


@pytest.mark.parametrize("bits", [24, 11, 8])
def test_floor_of_the_ratio_is_what_rounding_does(bits):
    """Two programs whose means differ by roundings: the spread of ln p - ln p~ is the floor.

    One mean is computed from the state times 1 + 2^-12, so that its roundings are independent.
    """
    rng = np.random.default_rng(3)
    std, n, count = 0.5, 300, 4096
    exact = rng.standard_normal((n, count))
    x = exact + std * rng.standard_normal((n, count))
    nudge = 1 + 2.0 ** -(bits - 4)
    ours = rounded(exact, bits)
    theirs = rounded(exact * nudge, bits) / nudge
    logs = [lm.transition_log_density(x, m, std) for m in (ours, theirs)]
    floor = lm.log_ratio_floor(1.0, std, count, 2.0 ** (1 - bits))
    assert np.std(logs[0] - logs[1]) == pytest.approx(floor, rel=0.15)
    assert lm.log_ratio_floor(1.0, std, count, 0.01, average=True) == pytest.approx(
        lm.log_ratio_floor(1.0, std, count, 0.01) / count
    )


@given(data=st.data(), s=TIMES)
def test_velocity_of_gaussian_data_holds_their_posterior_mean(
    xp, dtype, xp_assert_close, to_numpy, data, s
):
    (xs,) = data.draw(strategies.paired(1, xp, dtype))
    mean, variance = 0.75, 0.5
    u = lm.gaussian_flow_velocity(xs, s, mean, variance)
    gain = (1 - s) * variance / ((1 - s) ** 2 * variance + s * s)
    wide = to_numpy(xs).astype(np.float64)
    expected = mean + gain * (wide - (1 - s) * mean)
    scale = 8 * (np.abs(wide) + 1)
    xp_assert_close(lm.x0_from_velocity(xs, u, s), expected, like=xs, ulps=32, scale=scale)


def test_chain_moments_are_those_of_many_chains():
    rng = np.random.default_rng(11)
    times = [1.0, 0.9, 0.6, 0.3, 0.1]

    def step(x, u, s, t):
        return lm.flow_renoise_transition(x, u, s, t, lm.cps_std(t, 0.7))

    x = rng.standard_normal(400_000)
    for s, t in pairwise(times):
        mean, std = step(x, lm.gaussian_flow_velocity(x, s, 1.5, 0.25), s, t)
        x = mean + std * rng.standard_normal(len(x))
    mean, variance = lm.flow_chain_moments(step, times, 1.5, 0.25)
    assert x.mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / len(x)))
    assert x.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / len(x)))


@pytest.mark.parametrize("level", [0.0, 0.3, 0.7, 1.0])
def test_tempering_exponent_is_the_inverse_temperature(level):
    temperature = (1 + math.cos(level * math.pi / 2)) / 2
    assert lm.tempering_exponent(level) == pytest.approx(1 / temperature, rel=1e-14)


def test_an_ode_step_is_the_limit_of_both_kinds():
    step = partial(lm.flow_sde_transition, 1.25, -0.5, 0.75, 0.5)
    renoise = partial(lm.flow_renoise_transition, 1.25, -0.5, 0.75, 0.5)
    assert step(0.0) == (1.375, 0.0) == renoise(0.0)


def test_an_euler_step_has_no_noise_at_all():
    """Without fresh noise q is exactly 0, wherever s and s' are."""
    rng = np.random.default_rng(0)
    s = rng.uniform(1e-6, 1.0, 20_000)
    s_next = s * rng.uniform(0.0, 1.0, 20_000)
    assert not lm.ancestral_flow_std(s, s_next, 0.0).any()
    assert not lm.ancestral_flow_std(s, s, 1.0).any()


def test_ancestral_noise_is_accurate_to_its_units():
    """The formula in 50 digits, with steps of all lengths and levels near both ends."""
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(1)
    s = np.concatenate([rng.uniform(0.0, 1.0, 300), 1 - 10 ** rng.uniform(-9, -1, 100)])
    share = np.concatenate([rng.uniform(0.0, 1.0, 200), 1 - 10 ** rng.uniform(-9, -1, 200)])
    eta = rng.uniform(0.0, 1.0, 400)
    found = lm.ancestral_flow_std(s, s * share, eta)
    with mpmath.workdps(50):
        for a, b, level, q in zip(s, s * share, eta, found, strict=True):
            a, b, level = (mpmath.mpf(float(x)) for x in (a, b, level))
            down = b * (1 + level * (b / a - 1))
            want = mpmath.sqrt(b**2 - down**2 * ((1 - b) / (1 - down)) ** 2)
            assert abs(q / want - 1) <= 12 * 2.0**-52
