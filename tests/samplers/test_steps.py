"""Steps against each other, against the formulas of the papers, and in every array library."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sampling import no_noise, solve

from ldmref import samplers
from ldmref.math import alpha_bar_from_sigma, karras_sigmas, q_posterior
from ldmref.samplers import SAMPLERS, Interval, ancestral, with_noise
from ldmref.samplers.steps import ancestral_sigmas, euler_step
from ldmref.testing.mixture import three_modes

MIXTURE = three_modes()
LEVELS = st.floats(0.01, 100.0)
ETAS = st.floats(0.0, 1.0)
X = 2.0 * np.random.default_rng(0).standard_normal((5, 2))
GRID = karras_sigmas(8, 0.1, 4.0).tolist()


def end(step, denoise=MIXTURE.denoise, grid=GRID, noise=no_noise):
    return solve(step, denoise, X, grid, noise).x


def fixed(seed=1):
    stream = np.random.default_rng(seed)
    return lambda: stream.standard_normal(X.shape)


# -- one function of eta --------------------------------------------------------------------------


@given(st.floats(0.5, 100.0), st.floats(0.01, 0.99))  # below, the oracle's 1 - alpha-bar cancels
def test_eta_one_is_the_ddpm_posterior(sigma, ratio):
    """ancestral(1) = q(x_s | x_t, x_0) divided by the root of alpha-bar, to 1e-12."""
    x0, xt, eps = np.random.default_rng(6).standard_normal((3, 5, 2))
    a, before = (float(alpha_bar_from_sigma(s)) for s in (sigma, ratio * sigma))
    mean, variance = q_posterior(x0, xt, a, before)
    want = (mean + np.sqrt(variance) * eps) / np.sqrt(before)
    got, predicted, history = ancestral(1.0)(
        lambda x, s: x0, xt / np.sqrt(a), Interval(0, 1, 1, sigma, ratio * sigma), (), lambda: eps
    )
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * max(1.0, sigma))
    assert predicted is x0 and history == ()


@given(st.floats(0.5, 100.0), st.floats(0.2, 0.99), ETAS)  # below, the oracle itself cancels
def test_ddim_formula_of_the_paper(sigma, ratio, eta):
    """Song et al. eq. 12, written in alpha-bar, divided by its root at the next level."""
    x0, xt, eps = np.random.default_rng(7).standard_normal((3, 5, 2))
    a, ap = (float(alpha_bar_from_sigma(s)) for s in (sigma, ratio * sigma))
    noise_in_xt = (xt - np.sqrt(a) * x0) / np.sqrt(1 - a)
    ddim_sigma = eta * np.sqrt((1 - ap) / (1 - a)) * np.sqrt(1 - a / ap)
    want = np.sqrt(ap) * x0 + np.sqrt(1 - ap - ddim_sigma**2) * noise_in_xt + ddim_sigma * eps
    for step in (ancestral(eta), with_noise(ancestral(0.0), eta)):
        interval = Interval(0, 1, 1, sigma, ratio * sigma)
        got, _, _ = step(lambda x, s: x0, xt / np.sqrt(a), interval, (), lambda: eps)
        scale = 1e-11 * max(1.0, sigma)
        np.testing.assert_allclose(got, want / np.sqrt(ap), rtol=1e-11, atol=scale)


@given(LEVELS, LEVELS, ETAS)
def test_ancestral_sigmas_keeps_the_variance(sigma, sigma_next, eta):
    down, up = ancestral_sigmas(sigma, sigma_next, eta)
    assert math.hypot(down, up) == pytest.approx(sigma_next, rel=1e-14)
    assert up >= 0.0 and (up == 0.0 or sigma_next < sigma)
    if sigma_next < sigma:
        want = eta * sigma_next * math.sqrt((sigma - sigma_next) * (sigma + sigma_next)) / sigma
        assert up == pytest.approx(want, rel=1e-6, abs=1e-7)


def test_ancestral_sigmas_of_numbers():
    assert ancestral_sigmas(5.0, 4.0, 0.0) == (4.0, 0.0)
    assert ancestral_sigmas(5.0, 4.0, 1.0) == pytest.approx((3.2, 2.4))
    assert ancestral_sigmas(5.0, 4.0, 0.5) == pytest.approx((math.sqrt(16 - 1.44), 1.2))
    assert ancestral_sigmas(5.0, 0.0, 1.0) == (0.0, 0.0)
    assert ancestral_sigmas(4.0, 5.0, 1.0) == (5.0, 0.0)


@pytest.mark.parametrize("eta", [-0.01, 1.01, math.nan])
def test_eta_outside_its_range_is_refused(eta):
    for make in (ancestral, samplers.dpmpp_sde, lambda e: with_noise(samplers.heun(), e)):
        with pytest.raises(ValueError, match="eta must be from 0 to 1"):
            end(make(eta), noise=fixed())


@given(LEVELS, LEVELS)
@example(18.256, 7.3024)  # where x0 and the noise cancel, and only the rounding is left
def test_straight_keeps_the_noise_of_x(sigma, sigma_next):
    x = np.asarray([1.0, -3.0])
    x0 = np.asarray([0.5, 2.0])
    eps = (x - x0) / sigma
    terms = np.abs(x0) + np.abs(sigma_next * eps)
    error = np.abs(euler_step(x, x0, sigma, sigma_next) - (x0 + sigma_next * eps))
    assert np.all(error <= 1e-15 * terms)
    np.testing.assert_array_equal(euler_step(x, x0, sigma, 0.0), x0)


# -- families meet --------------------------------------------------------------------------------

SAME = {  # step, the step that it must be
    "lms(1) is Euler": (samplers.lms(1), ancestral(0.0)),
    "lms(1, euler) is Euler": (samplers.lms(1, "euler"), ancestral(0.0)),
    "deis(1) is Euler": (samplers.deis(1), ancestral(0.0)),
    "dpm_solver(1) is Euler": (samplers.dpm_solver(1), ancestral(0.0)),
    "unip(1) is Euler": (samplers.unipc(1, corrector=False), ancestral(0.0)),
    "with_noise(0) is nothing": (with_noise(samplers.heun(), 0.0), samplers.heun()),
    "dpmpp_sde(0) is dpmpp_2s": (samplers.dpmpp_sde(0.0), samplers.dpmpp_2s()),
    "unip(2) is dpmpp_2m": (samplers.unipc(2, "bh2", corrector=False), samplers.dpmpp_2m()),
    "deis is log rule": (samplers.deis(), samplers.deis(2, "euler")),
}


@pytest.mark.parametrize("name", SAME)
def test_families_meet(name):
    one, other = SAME[name]
    np.testing.assert_allclose(end(one), end(other), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "ddim",
        "euler_a",
        "dpm_solver_2_a",
        "dpmpp_2s_a",
        "dpmpp_sde",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_heun",
        "dpmpp_3m_sde",
    ],
)
def test_eta_zero_is_the_deterministic_parent(name):
    parent = {
        "ddim": ancestral(0.0),
        "euler_a": ancestral(0.0),
        "dpm_solver_2_a": samplers.dpm_solver(2),
        "dpmpp_2s_a": samplers.dpmpp_2s(),
        "dpmpp_sde": samplers.dpmpp_2s(),
        "dpmpp_2m_sde": samplers.dpmpp_2m(),
        "dpmpp_2m_sde_heun": samplers.dpmpp_2m(0.0, "heun"),
        "dpmpp_3m_sde": samplers.dpmpp_3m(0.0),
    }[name]
    np.testing.assert_allclose(end(SAMPLERS[name].make(eta=0.0)), end(parent), rtol=0, atol=1e-12)


@given(ETAS)
def test_ancestral_form_of_the_straight_line_is_ancestral(eta):
    one = end(with_noise(ancestral(0.0), eta), noise=fixed())
    np.testing.assert_allclose(one, end(ancestral(eta), noise=fixed()), rtol=0, atol=1e-12)


def test_every_sampler_starts_with_the_straight_line_if_the_prediction_is_constant():
    """Then eps does not change along the path, and all deterministic methods are exact."""
    x0 = np.asarray([[0.3, -0.4]])
    for name, entry in SAMPLERS.items():
        if not entry.stochastic and name != "ipndm_v":  # its published weights do not add up to 1
            np.testing.assert_allclose(
                end(name, lambda x, s: x0), euler_step(X, x0, GRID[0], GRID[-1]), atol=1e-13
            )


@pytest.mark.parametrize("name", ["dpm_solver_2_a", "dpmpp_2s_a"])
def test_ancestral_forms_step_to_sigma_down_and_add_sigma_up(name):
    inner = {"dpm_solver_2_a": samplers.dpm_solver(2), "dpmpp_2s_a": samplers.dpmpp_2s()}[name]
    ones = np.ones_like(X)
    down, up = ancestral_sigmas(4.0, 1.5, 0.7)
    want = end(inner, grid=[4.0, down]) + up * ones
    got = end(SAMPLERS[name].make(eta=0.7), grid=[4.0, 1.5], noise=lambda: ones)
    np.testing.assert_allclose(got, want, rtol=1e-13)


# -- formulas of the papers, in slopes ------------------------------------------------------------


def slope(x, sigma):
    return (x - MIXTURE.denoise(x, sigma)) / sigma


def test_runge_kutta_methods_in_their_usual_form():
    s = 3.0
    t = 1.2
    h = t - s
    middle = 0.5 * (s + t)
    k1 = slope(X, s)
    k2 = slope(X + 0.5 * h * k1, middle)
    k3 = slope(X + 0.5 * h * k2, middle)
    k4 = slope(X + h * k3, t)
    want = {
        samplers.midpoint: X + h * k2,
        samplers.heun: X + 0.5 * h * (k1 + slope(X + h * k1, t)),
        samplers.rk4: X + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4),
    }
    for make, x in want.items():
        np.testing.assert_allclose(end(make(), grid=[s, t]), x, rtol=0, atol=1e-14)


def test_dpm_solver_in_the_papers_form():
    """Algorithms 1 and 2 of arXiv:2206.00927 in the noise prediction, with alpha = 1."""
    s = 3.0
    t = 0.7
    h = math.log(s / t)
    eps = slope(X, s)
    half = s * math.exp(-h / 2)
    u = X - half * math.expm1(h / 2) * eps
    want = X - t * math.expm1(h) * slope(u, half)
    np.testing.assert_allclose(end(samplers.dpm_solver(2), grid=[s, t]), want, atol=1e-13)
    s1 = s * math.exp(-h / 3)
    s2 = s * math.exp(-2 * h / 3)
    d1 = slope(X - s1 * math.expm1(h / 3) * eps, s1) - eps
    phi = math.expm1(2 * h / 3) / (2 * h / 3) - 1
    d2 = slope(X - s2 * math.expm1(2 * h / 3) * eps - s2 * 2 * phi * d1, s2) - eps
    want = X - t * math.expm1(h) * eps - t * 1.5 * (math.expm1(h) / h - 1) * d2
    np.testing.assert_allclose(end(samplers.dpm_solver(3), grid=[s, t]), want, atol=1e-13)


@pytest.mark.parametrize("eta,r", [(0.0, 0.5), (0.0, 0.3), (1.0, 0.5), (0.6, 1.0)])
def test_dpmpp_sde_in_k_diffusions_form(eta, r):
    s = 3.0
    t = 0.7
    middle = s * (t / s) ** r
    noises = np.random.default_rng(2).standard_normal((2, *X.shape))
    x0 = MIXTURE.denoise(X, s)
    down, up = ancestral_sigmas(s, middle, eta)
    u = (down / s) * X - math.expm1(math.log(down / s)) * x0 + up * noises[0]
    mixed = (1 - 1 / (2 * r)) * x0 + MIXTURE.denoise(u, middle) / (2 * r)
    down, up = ancestral_sigmas(s, t, eta)
    want = (down / s) * X - math.expm1(math.log(down / s)) * mixed + up * noises[1]
    stream = iter(noises)
    step = samplers.dpmpp_sde(eta, r)
    got = end(step, grid=[s, t], noise=lambda: next(stream))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [True, False])
def test_unipc_in_the_papers_form(order, variant, corrector):
    """UniP and UniC of arXiv:2302.04867 with B(h) and the published halves, at alpha = 1."""

    def update(x, sigma, sigma_next, x0, others, half):
        h = math.log(sigma / sigma_next)
        scale = -h if variant == "bh1" else math.expm1(-h)
        r = np.asarray([math.log(sigma / s) / h for s, _ in others])
        x = (sigma_next / sigma) * x - math.expm1(-h) * x0
        phi = math.expm1(-h) / -h - 1
        b = []
        for i in range(len(r)):
            b.append(phi * math.factorial(i + 1) / scale)
            phi = phi / -h - 1 / math.factorial(i + 2)
        rho = [0.5] if half else np.linalg.solve(np.vander(r, increasing=True).T, b) if b else []
        return x - scale * sum(
            (p * (y - x0) / q for p, q, (_, y) in zip(rho, r, others, strict=True)), 0.0 * x
        )

    x = X
    last = X
    past = []
    for n, (s, t) in enumerate(itertools.pairwise(GRID)):
        new = MIXTURE.denoise(x, s)
        if past and corrector:
            p = min(order, n)
            others = [*past[1:p], (s, new)]
            x = update(last, past[0][0], s, past[0][1], others, p == 1)
        p = min(order, n + 1)
        last = x
        x = update(x, s, t, new, past[: p - 1], p == 2)
        past = [(s, new), *past]
    got = end(samplers.unipc(order, variant, corrector))
    np.testing.assert_allclose(got, x, rtol=0, atol=1e-12)


def test_lcm_jumps_to_x0_and_adds_noise():
    eps = np.full_like(X, 0.25)
    x0 = MIXTURE.denoise(X, 3.0)
    got = end(samplers.lcm(), grid=[3.0, 0.8], noise=lambda: eps)
    np.testing.assert_array_equal(got, x0 + 0.8 * eps)
    np.testing.assert_array_equal(end(samplers.lcm(), grid=[3.0, 0.0]), x0)


def test_lcm_boundary_coefficients_that_are_left_out():
    """c_skip and c_out of the consistency model, at t = 19 of 1000 and above."""
    tau = 10.0 * np.arange(19, 1000)
    s = 0.5
    assert (s**2 / (tau**2 + s**2)).max() < 1e-5
    assert (1 - tau / np.sqrt(tau**2 + s**2)).max() < 1e-5
