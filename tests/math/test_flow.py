"""Flow matching: straight lines against mpmath, and the same family as every other diffusion."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.differences import read_differences
from ldmref.testing import strategies
from ldmref.testing.mixture import Mixture, three_modes

mpmath.mp.dps = 50
TIMES = strategies.alpha_bar_values(0.0, 1.0)


def scalar_levels(function, data, xp, dtype, low=0.0, high=1.0):
    """Return the function of an array of levels, the levels as mpf, and an example of the array."""
    values = st.just(low) | strategies.alpha_bar_values(max(low, 1e-6), high)
    drawn = data.draw(st.lists(values, min_size=1, max_size=4))
    x = xp.asarray(drawn, dtype=getattr(xp, dtype))
    return function(x), [mpf(v) for v in drawn], x


def numbers(exact):
    return np.asarray([float(v) for v in exact])


@given(data=st.data())
def test_flow_sample_equals_the_closed_form(xp, dtype, xp_assert_close, to_numpy, data):
    x0, eps, s = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    wide = [to_numpy(z).astype(np.longdouble) for z in (x0, eps, s)]
    time = wide[2].reshape((-1,) + (1,) * (x0.ndim - 1))
    terms = (1 - time) * wide[0], time * wide[1]
    size = (abs(terms[0]) + abs(terms[1])).astype(np.float64)
    desired = (terms[0] + terms[1]).astype(np.float64)
    xp_assert_close(lm.flow_sample(x0, eps, s), desired, like=x0, ulps=3, scale=size)


@given(data=st.data())
def test_flow_runs_from_data_at_0_to_noise_at_1(xp, dtype, xp_assert_close, data):
    x0, eps = data.draw(strategies.paired(2, xp, dtype))
    xp_assert_close(lm.flow_sample(x0, eps, 0.0), x0, ulps=0)
    xp_assert_close(lm.flow_sample(x0, eps, 1.0), eps, ulps=0)


@given(data=st.data(), s=TIMES, later=TIMES)
def test_flow_velocity_is_the_slope_of_the_line(xp, dtype, xp_assert_close, data, s, later):
    """x_{s'} = x_s + (s' - s) u between any two times: one Euler step is exact."""
    x0, eps = data.draw(strategies.paired(2, xp, dtype))
    u = lm.flow_velocity(x0, eps)
    xp_assert_close(u, eps - x0, ulps=0)
    step = lm.flow_sample(x0, eps, s) + (later - s) * u
    xp_assert_close(step, lm.flow_sample(x0, eps, later), ulps=6, scale=32.0)


@given(data=st.data())
def test_x0_and_eps_come_back_from_velocity_at_every_time(xp, dtype, xp_assert_close, data):
    x0, eps, s = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    xs = lm.flow_sample(x0, eps, s)
    u = lm.flow_velocity(x0, eps)
    size = abs(x0) + abs(eps)
    xp_assert_close(lm.x0_from_velocity(xs, u, s), x0, ulps=4, scale=size)
    xp_assert_close(lm.eps_from_velocity(xs, u, s), eps, ulps=4, scale=size)


@given(st.floats(-4, 4), st.floats(-4, 4), TIMES)
def test_velocity_conversions_solve_the_linear_system(xs, u, s):
    """x_s and u are two linear equations for x0 and eps."""
    matrix = mpmath.matrix([[1 - mpf(s), mpf(s)], [-1, 1]])
    x0, eps = mpmath.lu_solve(matrix, [mpf(xs), mpf(u)])
    state = np.asarray([[xs]])
    slope = np.asarray([[u]])
    assert abs(lm.x0_from_velocity(state, slope, s)[0, 0] - x0) < 4e-15
    assert abs(lm.eps_from_velocity(state, slope, s)[0, 0] - eps) < 4e-15


@given(data=st.data())
def test_noise_level_of_a_flow_time_equals_mpmath(xp, dtype, xp_assert_close, data):
    got, s, like = scalar_levels(lm.sigma_from_flow_time, data, xp, dtype, 0.0, 0.999)
    xp_assert_close(got, numbers(v / (1 - v) for v in s), like=like, ulps=2)
    got, sigma, like = scalar_levels(lm.flow_time_from_sigma, data, xp, dtype, 0.0, 1000.0)
    xp_assert_close(got, numbers(v / (1 + v) for v in sigma), like=like, ulps=2)


@given(data=st.data())
def test_alpha_bar_of_a_flow_time_equals_mpmath(xp, dtype, xp_assert_close, data):
    got, s, like = scalar_levels(lm.alpha_bar_from_flow_time, data, xp, dtype)
    exact = [(1 - v) ** 2 / ((1 - v) ** 2 + v**2) for v in s]
    xp_assert_close(got, numbers(exact), like=like, ulps=6)
    got, a, like = scalar_levels(lm.flow_time_from_alpha_bar, data, xp, dtype)
    exact = [mpmath.sqrt(1 - v) / (mpmath.sqrt(v) + mpmath.sqrt(1 - v)) for v in a]
    xp_assert_close(got, numbers(exact), like=like, ulps=4)


def test_times_of_data_and_of_noise():
    assert lm.sigma_from_flow_time(0.0) == 0 == lm.flow_time_from_sigma(0.0)
    assert lm.alpha_bar_from_flow_time(0.0) == 1 == lm.flow_time_from_alpha_bar(0.0)
    assert lm.alpha_bar_from_flow_time(1.0) == 0 == lm.flow_time_from_alpha_bar(1.0)


@given(data=st.data())
def test_times_and_levels_are_inverse(xp, dtype, xp_assert_close, data):
    s = data.draw(strategies.alpha_bars(3, xp, dtype, 0.01, 0.99))
    sigma = lm.sigma_from_flow_time(s)
    alpha_bar = lm.alpha_bar_from_flow_time(s)
    xp_assert_close(lm.flow_time_from_sigma(sigma), s, ulps=4)
    xp_assert_close(lm.flow_time_from_alpha_bar(alpha_bar), s, ulps=8, scale=16.0)
    xp_assert_close(lm.alpha_bar_from_sigma(sigma), alpha_bar, ulps=16)


@given(data=st.data())
def test_straight_path_is_the_variance_preserving_one_rescaled(xp, dtype, xp_assert_close, data):
    """x_s / sqrt((1-s)^2 + s^2) is q_sample at alpha_bar(s), and x_s / (1-s) is x0 + sigma eps."""
    x0, eps, s = data.draw(strategies.diffusions(xp, dtype, 0.01, 0.99))
    each = xp.reshape(s, (-1,) + (1,) * (x0.ndim - 1))
    xs = lm.flow_sample(x0, eps, s)
    preserving = xs / xp.sqrt((1 - each) ** 2 + each**2)
    xp_assert_close(
        preserving, lm.q_sample(x0, lm.alpha_bar_from_flow_time(s), eps), ulps=16, scale=16.0
    )
    exploding = x0 + xp.reshape(lm.sigma_from_flow_time(s), each.shape) * eps
    xp_assert_close(xs / (1 - each), exploding, ulps=16, scale=abs(exploding) + 16 / (1 - each))


@given(data=st.data())
def test_velocity_and_v_say_the_same(xp, dtype, xp_assert_close, data):
    """u = (r v - (1 - 2 s) x_s) / r^2 with r^2 = (1-s)^2 + s^2: a v network is a flow network."""
    x0, eps, s = data.draw(strategies.diffusions(xp, dtype, 0.05, 1.0))
    each = xp.reshape(s, (-1,) + (1,) * (x0.ndim - 1))
    r2 = (1 - each) ** 2 + each**2
    a = lm.alpha_bar_from_flow_time(s)
    xs = lm.flow_sample(x0, eps, s)
    v = lm.v_from_x0_eps(x0, eps, a)
    u = (xp.sqrt(r2) * v - (1 - 2 * each) * xs) / r2
    xp_assert_close(u, lm.flow_velocity(x0, eps), ulps=16, scale=32.0)
    xt = xs / xp.sqrt(r2)
    xp_assert_close(lm.x0_from_v(xt, v, a), lm.x0_from_velocity(xs, u, s), ulps=32, scale=32.0)
    xp_assert_close(lm.eps_from_v(xt, v, a), lm.eps_from_velocity(xs, u, s), ulps=32, scale=32.0)


def marginal_velocity(problem, xs, s):
    """Return E[eps - x0 | x_s], by the exact denoiser at x_s / (1 - s) = x0 + sigma eps."""
    x = xs / (1 - s)
    sigma = s / (1 - s)
    x0 = problem.denoise(x, sigma)
    return (x - x0) / sigma - x0


@pytest.mark.parametrize("s", [0.05, 0.4, 0.9])
def test_expected_velocity_holds_the_score(s):
    """eps_from_velocity of E[u | x] is E[eps | x], hence -s times the score of p(x_s)."""
    xs = np.random.default_rng(8).standard_normal((40, 2))
    u = marginal_velocity(three_modes(), xs, s)
    score = three_modes().scaled(1 - s).score(xs, s)
    np.testing.assert_allclose(lm.eps_from_velocity(xs, u, s), -s * score, rtol=1e-10, atol=1e-12)
    mean = three_modes().denoise(xs / (1 - s), s / (1 - s))
    np.testing.assert_allclose(lm.x0_from_velocity(xs, u, s), mean, rtol=1e-10, atol=1e-12)


def test_flow_of_the_expected_velocity_is_the_probability_flow():
    """dx_s/ds = E[u | x_s] carries a Gaussian where the closed form of the sigma flow does."""
    problem = Mixture(np.ones(1), np.asarray([[0.7, -1.0]]), np.asarray([0.6]))
    start = np.random.default_rng(4).standard_normal((5, 2))
    x = start
    times = np.linspace(0.95, 0.05, 401)
    for s, t in pairwise(times):
        h = t - s
        middle = (s + t) / 2
        k1 = marginal_velocity(problem, x, s)
        k2 = marginal_velocity(problem, x + h / 2 * k1, middle)
        k3 = marginal_velocity(problem, x + h / 2 * k2, middle)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + marginal_velocity(problem, x + h * k3, t))
    first, last = (lm.sigma_from_flow_time(s) for s in (0.95, 0.05))
    exact = problem.flow(start / (1 - 0.95), first, last)
    np.testing.assert_allclose(x / (1 - 0.05), exact, rtol=1e-8)


@pytest.mark.parametrize("shift", [0.01, 0.5, 1.0, 3.0, 20.0])
@given(data=st.data())
def test_shift_equals_mpmath(xp, dtype, xp_assert_close, data, shift):
    got, s, like = scalar_levels(lambda s: lm.shift_flow_time(s, shift), data, xp, dtype)
    exact = [mpf(shift) * v / (1 + (mpf(shift) - 1) * v) for v in s]
    xp_assert_close(got, numbers(exact), like=like, ulps=4)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.01, 0.99))
def test_shifts_multiply_sigma_and_each_other(a, b, s):
    shifted = lm.shift_flow_time(s, a)
    sigma = lm.sigma_from_flow_time(shifted)
    np.testing.assert_allclose(sigma, a * lm.sigma_from_flow_time(s), rtol=1e-12)
    np.testing.assert_allclose(
        lm.shift_flow_time(shifted, b), lm.shift_flow_time(s, a * b), rtol=1e-13
    )


@pytest.mark.parametrize("shift", [0.1, 0.3, 3.0, 7.0])
def test_shift_leaves_data_and_noise_alone(shift):
    assert lm.shift_flow_time(0.0, shift) == 0.0 and lm.shift_flow_time(1.0, shift) == 1.0


def test_shift_is_that_of_stable_diffusion_3():
    """Diffusers shifts the end points of its grid twice: it ends at 0.00893, as it prints."""
    assert lm.shift_flow_time(0.3) == lm.shift_flow_time(0.3, 3.0)
    assert f"{lm.shift_flow_time(lm.shift_flow_time(1 / 1000)):.5f}" == "0.00893"


@given(data=st.data(), mean=st.floats(-2.0, 2.0), std=st.floats(0.1, 2.0))
def test_logit_normal_times_have_their_density(data, mean, std):
    """ds/dz, from mpmath, is the ratio of the normal density to the paper's, eq. 19."""
    z = data.draw(st.floats(-3.0, 3.0))
    s = mpf(1) / (1 + mpmath.exp(-(mpf(mean) + mpf(std) * mpf(z))))
    got = lm.logit_normal_time(np.asarray([z]), mean, std)
    np.testing.assert_allclose(got, [float(s)], rtol=1e-13)
    logit = mpmath.log(s / (1 - s))
    paper = mpmath.exp(-((logit - mpf(mean)) ** 2) / (2 * mpf(std) ** 2))
    paper /= mpf(std) * mpmath.sqrt(2 * mpmath.pi) * s * (1 - s)
    normal = mpmath.exp(-(mpf(z) ** 2) / 2) / mpmath.sqrt(2 * mpmath.pi)
    slope = mpf(std) * s * (1 - s)
    assert abs(float(paper * slope / normal) - 1.0) < 1e-12


def test_logit_normal_times_favour_the_middle_and_the_mean_moves_them():
    z = np.random.default_rng(0).standard_normal(10_000)
    assert np.median(lm.logit_normal_time(z, 0.0)) == pytest.approx(0.5, abs=0.02)
    assert np.median(lm.logit_normal_time(z, 1.0)) > 0.7
    assert np.std(lm.logit_normal_time(z, 0.0, 0.3)) < np.std(lm.logit_normal_time(z, 0.0, 1.0))


@given(data=st.data(), scale=st.floats(-1.0, 1.75))
def test_mode_times_are_the_papers_formula(xp, dtype, xp_assert_close, to_numpy, data, scale):
    got, _, x = scalar_levels(lambda u: lm.mode_time(u, scale), data, xp, dtype)
    wide = [mpf(float(v)) for v in to_numpy(x)]
    exact = [1 - v - mpf(scale) * (mpmath.cos(mpmath.pi * v / 2) ** 2 - 1 + v) for v in wide]
    xp_assert_close(got, numbers(exact), like=x, ulps=8, scale=np.ones(len(wide)))


@given(data=st.data())
def test_cosmap_times_are_the_papers_formula(xp, dtype, xp_assert_close, to_numpy, data):
    got, _, x = scalar_levels(lm.cosmap_time, data, xp, dtype)
    wide = [mpmath.pi / 2 * mpf(float(v)) for v in to_numpy(x)]
    exact = [mpmath.sin(a) / (mpmath.sin(a) + mpmath.cos(a)) for a in wide]
    xp_assert_close(got, numbers(exact), like=x, ulps=8)


@given(data=st.data())
def test_weights_of_training_scripts(xp, dtype, xp_assert_close, to_numpy, data):
    got, _, x = scalar_levels(lm.cosmap_weight, data, xp, dtype)
    wide = [mpf(float(v)) for v in to_numpy(x)]
    exact = [2 / (mpmath.pi * (1 - 2 * v + 2 * v**2)) for v in wide]
    xp_assert_close(got, numbers(exact), like=x, ulps=8)
    got, _, x = scalar_levels(lm.sigma_sqrt_weight, data, xp, dtype, 1e-3)
    wide = [mpf(float(v)) for v in to_numpy(x)]
    xp_assert_close(got, numbers([v**-2 for v in wide]), like=x, ulps=2)


@given(st.floats(0.0, 1.0), st.floats(-1.0, 2 / (np.pi - 2)))
def test_mode_times_fall_and_are_symmetric(u, scale):
    """So their density is that of the times counted from the other end, as diffusers does."""
    s = lm.mode_time(np.asarray([u, min(u + 1e-3, 1.0)]), scale)
    assert s[1] <= s[0] + 1e-15 and -1e-15 <= s.min() and s.max() <= 1 + 1e-15
    mirrored = lm.mode_time(np.asarray([1 - u]), scale)
    assert mirrored == pytest.approx(1 - s[:1], abs=1e-14)


def test_cosmap_weight_is_the_density_of_its_times():
    """The share of times below s is the integral of the weight: arctan(s / (1 - s)) 2 / pi."""
    u = (np.arange(200_000) + 0.5) / 200_000
    times = lm.cosmap_time(u)
    for s in (0.1, 0.3, 0.5, 0.9):
        grid = s * u
        share = s * lm.cosmap_weight(grid).mean()
        assert (times < s).mean() == pytest.approx(share, abs=1e-5)


def test_mode_of_scale_0_is_uniform_and_1_75_is_at_most_the_paper_s():
    u = np.linspace(0, 1, 11)
    np.testing.assert_allclose(lm.mode_time(u, 0.0), 1 - u, atol=1e-15)
    middle = np.diff(lm.mode_time(np.asarray([0.5, 0.5 + 1e-6]), 2 / (np.pi - 2)))
    assert abs(float(middle[0])) < 1e-11


def test_densities_and_weights_are_those_of_the_scripts_of_diffusers():
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("diffusers.training_utils")
    draw = utils.compute_density_for_timestep_sampling
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    theirs = draw("mode", 1000, None, None, 1.29, generator=generators[0]).numpy()
    u = torch.rand(1000, generator=generators[1]).numpy()
    np.testing.assert_allclose(lm.mode_time(u, 1.29), theirs, atol=1e-6)
    s = torch.linspace(0.001, 1, 50)
    for name, ours in (("cosmap", lm.cosmap_weight), ("sigma_sqrt", lm.sigma_sqrt_weight)):
        theirs = utils.compute_loss_weighting_for_sd3(name, s).numpy()
        np.testing.assert_allclose(ours(s.numpy().astype(float)), theirs, rtol=1e-5)


def test_logit_mean_of_diffusers_has_the_other_sign():
    """Its scripts take the number as an index into timesteps that fall."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    utils = pytest.importorskip("diffusers.training_utils")
    generator = torch.Generator().manual_seed(0)
    draw = utils.compute_density_for_timestep_sampling
    u = draw("logit_normal", 20_000, 0.8, 1.0, generator=generator)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    theirs = np.median(scheduler.timesteps[(u * 1000).long()].numpy()) / 1000
    ours = float(lm.logit_normal_time(np.zeros(1), 0.8)[0])
    assert theirs == pytest.approx(1 - ours, abs=0.01)
    (row,) = [row for row in read_differences() if "test_logit_mean_of" in row.test]
    assert f"flow time {1 - ours:.3f} instead of {ours:.3f}" in row.number


@given(
    s=st.sampled_from([2.0**-10, 0.1, 0.25, 0.5, 0.75, 0.96875]),
    mean=st.sampled_from([-1.0, 0.0, 0.5]),
    std=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_logit_normal_density_is_the_slope_of_its_distribution(s, mean, std):
    """P(s' < s) is that of a normal logit, by mpmath, whose derivative is the density."""

    def below(value):
        return mpmath.ncdf((mpmath.log(value / (1 - value)) - mean) / std)

    got = float(lm.logit_normal_density(np.asarray([s]), mean, std)[0])
    assert got == pytest.approx(float(mpmath.diff(below, mpf(s))), rel=1e-12)


@given(mean=st.sampled_from([-1.0, 0.0, 1.0]), std=st.sampled_from([0.5, 1.5]))
def test_times_of_training_follow_their_density(mean, std):
    """The share of quantiles below a time is the integral of the density."""
    z = np.asarray([float(mpmath.sqrt(2) * mpmath.erfinv(2 * q - 1)) for q in (0.2, 0.5, 0.9)])
    times = lm.logit_normal_time(z, mean, std)
    for q, time in zip((0.2, 0.5, 0.9), times, strict=True):
        nodes, weights = np.polynomial.legendre.leggauss(400)
        logits = mean - 12 * std + (np.log(time / (1 - time)) - mean + 12 * std) * (nodes + 1) / 2
        s = 1 / (1 + np.exp(-logits))
        width = (np.log(time / (1 - time)) - mean + 12 * std) / 2
        share = (lm.logit_normal_density(s, mean, std) * s * (1 - s) * weights).sum() * width
        assert share == pytest.approx(q, abs=1e-9)


@given(data=st.data())
def test_logit_normal_density_in_every_library(xp, dtype, xp_assert_close, to_numpy, data):
    got, exact, s = scalar_levels(lm.logit_normal_density, data, xp, dtype, 0.01, 0.99)
    want = [
        mpmath.npdf(mpmath.log(v / (1 - v))) / (v * (1 - v))
        for v in map(mpf, to_numpy(s).astype(float).tolist())
    ]
    logits = np.abs(numbers([mpmath.log(v / (1 - v)) for v in exact]))
    scale = numbers(want) * (4 + logits**2)
    xp_assert_close(got, numbers(want), like=s, ulps=8, scale=scale)
