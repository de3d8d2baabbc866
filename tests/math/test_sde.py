"""Diffusions in continuous time against their differential equations, mpmath and their chains."""

import dataclasses
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.integrate import solve_ivp
from scipy.stats import norm

from ldmref.math import VESDE, VPSDE, LinearSDE, SubVPSDE, alphas_cumprod, cosine_betas
from ldmref.math.schedules import linear_betas, scaled_linear_betas
from ldmref.math.sde import functions_of
from ldmref.testing import strategies

mpmath.mp.dps = 50
SDES = {
    "vp": VPSDE(),
    "slow vp": VPSDE(0.5, 3.0),
    "even vp": VPSDE(2.0, 2.0),
    "sub-vp": SubVPSDE(),
    "slow sub-vp": SubVPSDE(0.5, 3.0),
    "ve": VESDE(),
    "short ve": VESDE(0.25, 4.0),
}
VPS = [name for name in SDES if name.endswith("vp")]
OF_TIME = ["drift_coefficient", "diffusion", "mean_coefficient", "std", "sigma", "alpha_bar"]
every_sde = pytest.mark.parametrize("name", SDES)


def exact(sde, t):
    """Return f, g^2, m, s^2 at time t, straight from the paper's definitions, with mpmath."""
    t = mpf(t)
    if isinstance(sde, VESDE):
        low = mpf(sde.sigma_min)
        ratio = mpf(sde.sigma_max) / mpf(sde.sigma_min)
        square = (low * ratio**t) ** 2
        return mpf(0), 2 * square * mpmath.log(ratio), mpf(1), square
    start = mpf(sde.beta_min)
    end = mpf(sde.beta_max)
    beta = start + t * (end - start)
    kept = mpmath.exp(-t * (start + beta) / 2)  # the trapezoid under a line
    if isinstance(sde, SubVPSDE):
        return -beta / 2, beta * (1 - kept**2), mpmath.sqrt(kept), (1 - kept) ** 2
    return -beta / 2, beta, mpmath.sqrt(kept), 1 - kept


def exact_of_time(sde, function, t):
    f, g2, m, s2 = exact(sde, t)
    return float(
        {
            "drift_coefficient": f,
            "diffusion": mpmath.sqrt(g2),
            "mean_coefficient": m,
            "std": mpmath.sqrt(s2),
            "sigma": mpmath.sqrt(s2) / m,
            "alpha_bar": m**2 / (m**2 + s2),
        }[function]
    )


def rounding(sde):
    """Allowed error: a few operations, and that of the exponential's argument, at its largest."""
    return 8.0 + (2 * sde.log_ratio if isinstance(sde, VESDE) else float(sde.integral(1.0)))


def times(xp, dtype, n=3, low=2.0**-10):
    values = st.lists(st.floats(low, 1.0, width=32), min_size=n, max_size=n)
    return values.map(lambda t: xp.asarray(t, dtype=getattr(xp, dtype)))


@every_sde
@given(data=st.data())
def test_functions_of_time_equal_mpmath(xp, dtype, xp_assert_close, to_numpy, name, data):
    sde = SDES[name]
    t = data.draw(times(xp, dtype))
    for function in OF_TIME:
        desired = np.asarray([exact_of_time(sde, function, float(u)) for u in to_numpy(t)])
        got = getattr(sde, function)(t)
        xp_assert_close(got, desired, like=t, ulps=rounding(sde))
        alone = getattr(sde, function)(float(to_numpy(t)[0]))
        assert isinstance(alone, float)
        assert alone == pytest.approx(desired[0], rel=rounding(sde) * 2.0**-52, abs=0)


@every_sde
@given(data=st.data())
def test_transition_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, name, data):
    """v = s(end)^2 - a^2 s(start)^2 for any linear process, with all digits even of short steps."""
    sde = SDES[name]
    end = data.draw(times(xp, dtype))
    share = data.draw(st.sampled_from([0.0, 0.5, 0.9990234375]))
    start = xp.asarray([share] * 3, dtype=end.dtype) * end
    want = []
    for first, last in zip(to_numpy(start), to_numpy(end), strict=True):
        (*_, m1, s1) = exact(sde, float(first))
        (*_, m2, s2) = exact(sde, float(last))
        want.append([float(m2 / m1), float(s2 - (m2 / m1) ** 2 * s1)])
    a, v = sde.transition(start, end)
    xp_assert_close(a, np.asarray(want)[:, 0], like=end, ulps=rounding(sde))
    xp_assert_close(v, np.asarray(want)[:, 1], like=end, ulps=3 * rounding(sde))
    host = sde.transition(float(to_numpy(start)[0]), float(to_numpy(end)[0]))
    assert host == pytest.approx(want[0], rel=3 * rounding(sde) * 2.0**-52, abs=0)
    assert all(isinstance(z, float) for z in host)


@every_sde
def test_transition_from_one_start_to_many_ends(xp, dtype, xp_assert_close, name):
    end = xp.asarray([0.25, 0.5, 1.0], dtype=getattr(xp, dtype))
    start = 0.125 + 0.0 * end
    for got, want in zip(
        SDES[name].transition(0.125, end), SDES[name].transition(start, end), strict=True
    ):
        xp_assert_close(got, want, ulps=32)


@every_sde
@given(data=st.data())
def test_time_undoes_sigma(xp, dtype, xp_assert_close, to_numpy, name, data):
    sde = SDES[name]
    t = data.draw(times(xp, dtype))
    sigma = xp.asarray([exact_of_time(sde, "sigma", float(u)) for u in to_numpy(t)], dtype=t.dtype)
    got = sde.time(sigma)
    assert got.dtype == t.dtype
    again = [exact_of_time(sde, "sigma", float(u)) for u in to_numpy(got)]
    xp_assert_close(sigma, np.asarray(again), like=t, ulps=4 * rounding(sde))
    alone = sde.time(float(to_numpy(sigma)[0]))
    assert isinstance(alone, float)
    scale = 4 * rounding(sde) * float(np.finfo(dtype).eps)
    assert alone == pytest.approx(float(to_numpy(t)[0]), rel=scale, abs=scale)


@every_sde
def test_moments_solve_the_process_own_differential_equations(name):
    """dm/dt = f m and d(s^2)/dt = 2 f s^2 + g^2, by an adaptive integrator."""
    sde = SDES[name]

    def slope(t, y):
        f = sde.drift_coefficient(t)
        g = sde.diffusion(t)
        return [f * y[0], 2 * f * y[1] + g * g]

    start = [1.0, 0.25**2 if name == "short ve" else 0.01**2 if name == "ve" else 0.0]
    ends = np.linspace(0.1, 1.0, 10)
    solved = solve_ivp(slope, (0.0, 1.0), start, "DOP853", ends, rtol=1e-11, atol=1e-14).y
    np.testing.assert_allclose(sde.mean_coefficient(ends), solved[0], rtol=1e-8)
    np.testing.assert_allclose(sde.std(ends) ** 2, solved[1], rtol=1e-8)


@every_sde
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_two_transitions_are_one(name, drawn):
    sde = SDES[name]
    (first, middle, last) = sorted(drawn)
    (a1, v1) = sde.transition(first, middle)
    (a2, v2) = sde.transition(middle, last)
    a, v = sde.transition(first, last)
    assert a1 * a2 == pytest.approx(a, rel=1e-13)
    assert a2**2 * v1 + v2 == pytest.approx(v, rel=1e-11, abs=1e-13)
    assert sde.transition(first, first) == (1.0, 0.0)


@every_sde
@given(data=st.data(), kind=st.sampled_from(["float", "np.float64", "0-d", "(n,)"]))
def test_drift_and_q_sample_take_a_time_for_all_or_for_each(
    xp, dtype, xp_assert_close, to_numpy, name, data, kind
):
    sde = SDES[name]
    (x, eps) = data.draw(strategies.paired(2, xp, dtype))
    of_dtype = getattr(xp, dtype)
    t = {
        "float": lambda: 0.375,
        "np.float64": lambda: np.float64(0.375),
        "0-d": lambda: xp.asarray(0.375, dtype=of_dtype),
        "(n,)": lambda: xp.asarray([0.375, 0.75, 0.125][: x.shape[0]], dtype=of_dtype),
    }[kind]()
    each = [0.375, 0.75, 0.125][: x.shape[0]] if kind == "(n,)" else [0.375] * x.shape[0]
    rows = [exact(sde, u) for u in each]
    wide = (-1,) + (1,) * (x.ndim - 1)
    f, m, s = (
        np.asarray([float(z) for z in column]).reshape(wide)
        for column in (
            [r[0] for r in rows],
            [r[2] for r in rows],
            [mpmath.sqrt(r[3]) for r in rows],
        )
    )
    x_, eps_ = (to_numpy(z).astype(np.float64) for z in (x, eps))
    xp_assert_close(sde.drift(x, t), f * x_, like=x, ulps=8)
    size = abs(m * x_) + abs(s * eps_)
    got = sde.q_sample(x, t, eps)
    xp_assert_close(got, m * x_ + s * eps_, like=x, ulps=rounding(sde), scale=size)


def test_times_of_another_length_are_refused(xp):
    with pytest.raises(ValueError, match="does not fit"):
        VPSDE().drift(xp.ones((3, 4)), xp.ones((2,)))


@every_sde
@given(data=st.data())
def test_prior_and_its_density_equal_scipy(xp, dtype, xp_assert_close, to_numpy, name, data):
    sde = SDES[name]
    (noise,) = data.draw(strategies.paired(1, xp, dtype))
    width = {"ve": 50.0, "short ve": 4.0}.get(name, 1.0)
    assert sde.prior_std == width
    x = sde.prior(noise)
    xp_assert_close(x, width * to_numpy(noise).astype(np.float64), like=noise, ulps=1)
    flat = to_numpy(x).astype(np.float64).reshape(noise.shape[0], -1)
    each = norm(0, width).logpdf(flat)
    xp_assert_close(
        sde.log_prior(x), each.sum(axis=1), like=noise, ulps=16, scale=abs(each).sum(axis=1) + 1
    )


def test_defaults_are_the_papers():
    assert (VPSDE().beta_min, VPSDE().beta_max) == (0.1, 20.0)
    assert (SubVPSDE().beta_min, SubVPSDE().beta_max) == (0.1, 20.0)
    assert (VESDE().sigma_min, VESDE().sigma_max) == (0.01, 50.0)


@pytest.mark.parametrize("kind", [VPSDE, SubVPSDE])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_betas_out_of_order_are_refused(kind, ends):
    with pytest.raises(ValueError, match=f"0 < beta_min <= beta_max, not {ends[0]}, {ends[1]}"):
        kind(*ends)
    assert kind(1e-300, 1e-300).beta_max == 1e-300


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_sigmas_out_of_order_are_refused(ends):
    with pytest.raises(ValueError, match=f"0 < sigma_min < sigma_max, not {ends[0]}, {ends[1]}"):
        VESDE(*ends)
    assert VESDE(1e-300, 2e-300).sigma_max == 2e-300


@every_sde
def test_a_process_is_a_value(name):
    sde = SDES[name]
    assert sde == dataclasses.replace(sde)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(sde, dataclasses.fields(sde)[0].name, 1.0)


def test_the_chain_of_ddpm_is_the_diffusion_in_small_steps():
    """alpha-bar of n steps tends to exp(-B) with an error of order 1 / n."""
    np.testing.assert_array_equal(VPSDE().betas(1000), linear_betas(1000, 1e-4, 0.02))
    errors = []
    for n in (1000, 2000, 4000):
        chain = alphas_cumprod(VPSDE().betas(n))
        limit = [VPSDE().alpha_bar((i + 1) / n) for i in range(n)]
        errors.append(np.abs(chain - limit).max())
    assert 8e-4 < errors[0] < 9e-4
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2.0, rtol=0.02)


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_from_betas_undoes_betas(n):
    sde = VPSDE(0.25, 1.5)
    back = VPSDE.from_betas(sde.betas(n))
    assert (back.beta_min, back.beta_max) == pytest.approx((sde.beta_min, sde.beta_max), rel=1e-14)
    assert type(SubVPSDE.from_betas(sde.betas(n))) is SubVPSDE


def test_from_betas_takes_linear_ones_only():
    for betas in (cosine_betas(50), scaled_linear_betas(1000)):
        with pytest.raises(ValueError, match="is linear here"):
            VPSDE.from_betas(betas)
    nearly = np.linspace(1e-4, 0.02, 9)
    for miss, fits in ((0.9e-6, True), (-0.9e-6, True), (1.1e-6, False), (-1.1e-6, False)):
        betas = nearly * (1 + miss * np.eye(9)[4])
        if fits:
            assert VPSDE.from_betas(betas).beta_max == pytest.approx(0.18)
        else:
            with pytest.raises(ValueError, match="is linear here"):
                VPSDE.from_betas(betas)


def test_the_chain_of_smld_is_the_exploding_diffusion():
    """Its noise levels are geometric, and each step adds the difference of their squares."""
    sde = VESDE(0.01, 50.0)
    levels = np.geomspace(0.01, 50.0, 12)
    t = np.arange(12) / 11
    np.testing.assert_allclose(sde.sigma(t), levels, rtol=1e-13)
    a, v = sde.transition(t[:-1], t[1:])
    np.testing.assert_array_equal(a, np.ones(11))
    np.testing.assert_allclose(v, np.diff(levels**2), rtol=1e-12)


@given(st.floats(2.0**-10, 1.0))
def test_sub_vp_has_vps_mean_and_less_variance(t):
    vp = VPSDE(0.5, 3.0)
    sub = SubVPSDE(0.5, 3.0)
    assert sub.mean_coefficient(t) == vp.mean_coefficient(t)
    assert 0 < sub.std(t) < vp.std(t) < 1
    assert sub.std(t) == pytest.approx(vp.std(t) ** 2, rel=1e-14)
    assert 0 < sub.diffusion(t) < vp.diffusion(t)


@given(st.floats(0, 1))
def test_vp_keeps_unit_variance(t):
    sde = VPSDE()
    assert sde.mean_coefficient(t) ** 2 + sde.std(t) ** 2 == pytest.approx(1.0, rel=1e-15)
    assert sde.alpha_bar(t) == pytest.approx(math.exp(-sde.integral(t)), rel=1e-13)
    assert sde.integral_inverse(sde.integral(t)) == pytest.approx(t, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, (0.5,)) for name in OF_TIME[:4]] + [("transition", (0.0, 0.5)), ("time", (0.5,))],
)
def test_the_base_class_leaves_the_process_open(name, arguments):
    assert LinearSDE().prior_std == 1.0
    with pytest.raises(NotImplementedError):
        getattr(LinearSDE(), name)(*arguments)


def test_scalars_are_computed_on_the_host(xp):
    assert functions_of(0.5) is math and functions_of(np.float64(0.5)) is math
    assert functions_of(xp.asarray(0.5)).exp is not math.exp
