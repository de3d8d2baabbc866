"""Statements of docs/math beyond the formulas of single functions, with their conditions.

A test names its page and quotes the statement; the last test fails if the page no longer says so.
If a condition is easily dropped, the test shows that the statement without it is false.
"""

import re
import runpy
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import integrate, special, stats

from ldmref import math as lm
from ldmref.samplers import runge_kutta
from ldmref.samplers.interfaces import Interval
from ldmref.samplers.runge_kutta import DORMAND_PRINCE
from ldmref.testing.mixture import Mixture

ROOT = Path(__file__).parents[2]
STATEMENTS: list[tuple[str, str, str]] = []


def states(page: str, *quotations: str):
    """Decorator: the page has these sentences or formulas, which the test shows to be true."""

    def register(test):
        STATEMENTS.extend((test.__name__, page, quotation) for quotation in quotations)
        return test

    return register


def two_points(spread: float = 1e-6) -> Mixture:
    """Data at -1 and 1: mean 0, variance 1."""
    return Mixture(np.full(2, 0.5), np.asarray([[-1.0], [1.0]]), np.full(2, spread))


def one_gaussian(std: float) -> Mixture:
    return Mixture(np.ones(1), np.zeros((1, 1)), np.full(1, std))


# -- objective.md ---------------------------------------------------------------------------------

GRID = np.linspace(-9, 9, 6001)


def noised_density(data: Mixture, alpha_bar: float) -> np.ndarray:
    """Return the density of sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps on the grid."""
    return data.scaled(np.sqrt(alpha_bar)).density(GRID[:, None], np.sqrt(1 - alpha_bar))


def reverse_moments(data: Mixture, at_s: float, at_t: float, xt: float) -> tuple[float, float]:
    """Variance and excess kurtosis of q(x_s | x_t), by Bayes' rule on a grid."""
    alpha = at_t / at_s
    density = noised_density(data, at_s) * stats.norm.pdf(
        xt, np.sqrt(alpha) * GRID, np.sqrt(1 - alpha)
    )
    density /= density.sum()
    centred = GRID - density @ GRID
    variance = density @ centred**2
    return variance, density @ centred**4 / variance**2 - 3


DATA = [two_points(), two_points(0.3).scaled(0.9), one_gaussian(1.0), one_gaussian(0.4)]


@states(
    "objective.md",
    r"\tilde\beta = \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}\,\beta \;\le\; \mathrm{Var}(x_s|x_t)",
    "The lower bound holds at every $`x_t`$ and for all data",
)
@pytest.mark.parametrize("data", [*DATA, one_gaussian(2.0)])
@pytest.mark.parametrize("levels", [(0.5, 0.4), (0.99, 0.1)])
def test_beta_tilde_is_below_the_variance_at_every_state(data, levels):
    at_s, at_t = levels
    small = lm.posterior_variance(at_t, at_s)
    for xt in (-2.0, 0.0, 0.7):
        assert reverse_moments(data, at_s, at_t, xt)[0] > small * (1 - 1e-6)


@states(
    "objective.md",
    r"\mathbb{E}_{x_t} \mathrm{Var}(x_s|x_t) \;\le\; \beta",
    "whose coordinates have at most unit variance",
)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("levels", [(0.5, 0.4), (0.99, 0.1)])
def test_beta_is_above_the_mean_variance_of_unit_data(data, levels):
    at_s, at_t = levels
    xs = GRID[::60]
    density = noised_density(data, at_t)[::60]
    variances = [reverse_moments(data, at_s, at_t, xt)[0] for xt in xs]
    mean = density @ variances / density.sum()
    large = lm.posterior_variance(at_t, at_s, "fixed_large")
    assert mean < large * (1 + 1e-6)
    if data.covariance()[0, 0] == 1 and len(data.weights) == 1:
        assert mean == pytest.approx(large, rel=1e-6)


@states(
    "objective.md",
    r"the two points $`\pm 1`$ give 0.222 at $`x_t = 0`$, and $`\mathcal{N}(0, 4)`$ gives 0.227 "
    "everywhere",
    "this range does not always contain the best variance",
)
def test_beta_is_not_above_the_variance_at_every_state_nor_for_wider_data():
    large = lm.posterior_variance(0.4, 0.5, "fixed_large")
    assert large == pytest.approx(0.2)
    assert reverse_moments(two_points(), 0.5, 0.4, 0.0)[0] == pytest.approx(0.2222, abs=5e-5)
    for xt in (-1.0, 0.0, 2.0):
        assert reverse_moments(one_gaussian(2.0), 0.5, 0.4, xt)[0] == pytest.approx(
            0.2273, abs=5e-5
        )


@states(
    "objective.md",
    "a chain of few Gaussian steps is a real restriction",
    r"variance $`\beta/\alpha`$",
)
def test_exact_reverse_steps_are_gaussian_only_if_they_are_short():
    """The excess kurtosis of a Gaussian is 0, that of two separate peaks -2."""
    kurtoses = [
        reverse_moments(two_points(), 0.9, 0.9 * alpha, 0.0)[1] for alpha in (0.1, 0.9, 0.99, 0.999)
    ]
    assert kurtoses[0] < -1.5
    assert np.all(np.diff(np.abs(kurtoses)) < 0)
    assert abs(kurtoses[-1]) < 0.02


@states("objective.md", "**Telescoping.**", "**Bayes' rule.**", "**Jensen's inequality.**")
def test_the_bound_s_terms_are_the_log_ratio_of_the_chains_at_every_path():
    """Before the expectation: an identity of log densities, for any means and variances of p."""
    rng = np.random.default_rng(0)
    betas = np.asarray([0.1, 0.3, 0.6, 0.8])
    levels = np.append(1.0, np.cumprod(1 - betas))
    x = rng.standard_normal(5)
    means = rng.standard_normal(4)
    stds = rng.uniform(0.3, 2, 4)

    def log(value, mean, std):
        return stats.norm.logpdf(value, mean, std)

    reverse = [log(x[t], means[t], stds[t]) for t in range(4)]  # log p(x_t | x_{t+1})
    forward = [log(x[t + 1], np.sqrt(1 - betas[t]) * x[t], np.sqrt(betas[t])) for t in range(4)]
    chains = -log(x[4], 0, 1) - sum(reverse) + sum(forward)

    terms = (
        log(x[4], np.sqrt(levels[4]) * x[0], np.sqrt(1 - levels[4])) - log(x[4], 0, 1) - reverse[0]
    )
    for t in range(1, 4):
        mean, variance = lm.q_posterior(x[:1], x[t + 1 : t + 2], levels[t + 1], levels[t])
        terms += log(x[t], mean[0], np.sqrt(variance)) - reverse[t]
    assert float(terms) == pytest.approx(chains, rel=1e-12)


@states(
    "objective.md",
    "150 times as much as one at $`t = 500`$",
    "the factor is 109",
    "cosine schedule 179",
)
@pytest.mark.parametrize(
    ("betas", "ratio"),
    [(lm.scaled_linear_betas, 150), (lm.linear_betas, 109), (lm.cosine_betas, 179)],
)
def test_the_bound_s_weight_of_eps_falls_from_the_first_step_to_the_middle(betas, ratio):
    levels = lm.alphas_cumprod(betas(1000))
    first, middle = (float(lm.elbo_weight(levels[t], levels[t - 1], "eps")) for t in (1, 500))
    assert round(first / middle) == ratio


@states("objective.md", "closes at the rate $`2/T`$")
def test_the_gap_of_the_bound_closes_at_the_rate_of_the_image():
    """The entropy's own oracle is in test_bound.py; this is the number next to the image."""
    gap = runpy.run_path(str(ROOT / "scripts" / "math_plots" / "objective.py"))["gap"]
    for steps in (64, 256):
        assert 1.8 < steps * gap(steps, "fixed_large") < 2.3


@states("objective.md", "the simple losses of two targets are different objectives")
@states("../training.md", r"$`\omega_t = \bar\alpha_t`$")
def test_the_simple_loss_of_eps_is_that_of_v_with_another_weight():
    rng = np.random.default_rng(1)
    x0, eps, eps_hat = rng.standard_normal((3, 2, 5))
    level = np.asarray([0.9, 0.2])
    xt = lm.q_sample(x0, level, eps)
    v_hat = lm.v_from_x0_eps(lm.x0_from_eps(xt, eps_hat, level), eps_hat, level)
    loss_v = lm.simple_loss(v_hat, lm.v_from_x0_eps(x0, eps, level))
    np.testing.assert_allclose(lm.simple_loss(eps_hat, eps), level * loss_v, rtol=1e-12)


def printed_sum(z: float, pole: bool, terms: int = 12):
    """The page's formula for e^(z^2) erfc(z), with or without the term of the pole."""
    h = mpmath.mpf(1) / 2
    z = mpmath.mpf(z)
    nodes = [(k + mpmath.mpf(1) / 2) * h for k in range(terms)]
    total = 2 * h * z / mpmath.pi * mpmath.fsum(mpmath.exp(-c * c) / (c * c + z * z) for c in nodes)
    residue = 2 * mpmath.exp(z * z) / (1 + mpmath.exp(2 * mpmath.pi * z / h))
    return total + residue if pole else total


@states("objective.md", "the weight was then 2 and 1, respectively")
def test_min_snr_of_v_in_noise_with_one_added_elsewhere():
    ratio = 1e-3
    weight = lm.min_snr_weight(ratio / (1 + ratio), "v")
    added_to_the_weight = min(ratio, 5.0) / ratio + 1
    added_to_both = min(ratio + 1, 5.0) / (ratio + 1)
    assert float(weight) < 0.0011
    assert (added_to_the_weight, added_to_both) == (2.0, 1.0)


@states(
    "objective.md",
    r"\text{if } 0 \le z < \pi/h",
    r"7\cdot10^{-18}",
    r"5 % too large at $`z = 12`$, and 69 times too large at 12.6",
)
def test_the_sum_for_erfc_needs_the_pole_below_pi_over_h_and_not_above():
    with mpmath.workdps(40):
        for z in np.linspace(0, 15, 61):
            true = mpmath.exp(mpmath.mpf(z) ** 2) * mpmath.erfc(mpmath.mpf(z))
            got = printed_sum(z, pole=z < 2 * np.pi)
            assert abs(got - true) < 2e-17 * max(1, z)
            assert abs(got / true - 1) < 5e-16
        remainder = float(mpmath.exp(-((mpmath.pi * 2) ** 2)))
        assert f"{remainder:.0e}" == "7e-18"
        wrong = [
            printed_sum(z, pole=True) / (mpmath.exp(mpmath.mpf(z) ** 2) * mpmath.erfc(z))
            for z in (12, 12.6)
        ]
    assert float(wrong[0]) == pytest.approx(1.05, abs=0.005)
    assert float(wrong[1]) == pytest.approx(69, abs=1)


@states("forward.md", r"$`1 / \sqrt{\bar\alpha} = 14.6`$")
@states("schedules.md", r"$`\bar\alpha`$ is still 0.0047")
@states("samplers.md", r"$`\sigma = 20{,}291`$")
@states("../design.md", "sigma = 20,291")
def test_ends_of_the_schedules():
    last = float(lm.alphas_cumprod(lm.scaled_linear_betas(1000))[-1])
    assert f"{last:.4f}" == "0.0047"
    assert f"{1 / np.sqrt(last):.1f}" == "14.6"
    cosine = lm.sigma_from_alpha_bar(lm.alphas_cumprod(lm.cosine_betas(1000)))
    assert round(float(cosine[-1])) == 20_291


# -- forward.md -----------------------------------------------------------------------------------


@states(
    "forward.md",
    r"$`\nabla_{x_t} \log q(x_t \mid x_0) = -\epsilon / \sqrt{1 - \bar\alpha}`$",
    r"\mathbb{E}\left[\nabla_{x_t} \log q(x_t | x_0) \,\middle|\, x_t\right] = \nabla \log p(x_t)",
)
def test_noise_gives_the_score_of_one_example_and_its_expectation_that_of_all():
    data = two_points()
    level = 0.6
    xt = 0.5
    std = np.sqrt(1 - level)
    noise = (xt - np.sqrt(level) * np.asarray([-1.0, 1.0])) / std
    of_one = lm.score_from_eps(noise, level)
    step = 1e-5
    for x0, score in zip((-1.0, 1.0), of_one, strict=True):
        up, down = (stats.norm.logpdf(xt + d, np.sqrt(level) * x0, std) for d in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(float(score), rel=1e-8)
    noisy = data.scaled(np.sqrt(level))
    up, down = (noisy.log_density(np.full((1, 1), xt + d), std)[0] for d in (step, -step))
    of_all = (up - down) / (2 * step)
    assert np.all(np.abs(of_one - of_all) > 0.1)  # no single example has it
    share = stats.norm.pdf(noise)
    assert share @ of_one / share.sum() == pytest.approx(of_all, rel=1e-8)


@states("forward.md", "the variance after 1000 steps is 224 instead of 1")
def test_one_noise_in_all_steps_adds_amplitudes():
    x = np.zeros((1, 1))
    for beta in lm.linear_betas(1000):
        x = lm.q_step(x, beta, np.ones((1, 1)))
    assert round(float(x[0, 0]) ** 2) == 224


@states("forward.md", "`betas[t]` is 18 to 19 times too small")
def test_beta_of_a_longer_step_is_not_that_of_the_schedule():
    betas = lm.scaled_linear_betas(1000)
    levels = lm.alphas_cumprod(betas)
    t = np.arange(21, 1000, 20)
    ratio = (1 - levels[t] / levels[t - 20]) / betas[t]
    assert round(ratio.min()) == 18
    assert round(ratio.max()) == 19


@states("forward.md", "At both ends only $`v`$ and $`u`$ still do")
def test_eps_says_nothing_about_the_data_in_pure_noise_and_v_does():
    eps = np.asarray([[1.0], [1.0]])
    x0 = np.asarray([[0.0], [5.0]])
    for level, one_state in ((0.0, eps), (1.0, x0)):
        xt = lm.q_sample(x0, level, eps)
        np.testing.assert_array_equal(xt, one_state)  # knows eps or x0 alone
        v = lm.v_from_x0_eps(x0, eps, level)
        np.testing.assert_array_equal(lm.x0_from_v(xt, v, level), x0)
        np.testing.assert_array_equal(lm.eps_from_v(xt, v, level), eps)
    for s in (0.0, 1.0):
        xs = lm.flow_sample(x0, eps, s)
        u = lm.flow_velocity(x0, eps)
        np.testing.assert_array_equal(lm.x0_from_velocity(xs, u, s), x0)
        np.testing.assert_array_equal(lm.eps_from_velocity(xs, u, s), eps)


@states("forward.md", "is a shift by $`k^2`$ at that end")
def test_two_shifts_are_one_by_the_square():
    s = np.linspace(0, 1, 11)
    twice = lm.shift_flow_time(lm.shift_flow_time(s, 3.0), 3.0)
    np.testing.assert_allclose(twice, lm.shift_flow_time(s, 9.0), rtol=1e-14)


# -- guidance.md ----------------------------------------------------------------------------------


def class_score(
    data: Mixture, k: int, x: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (grad log p(x), grad log p(k | x)) of a mixture with classes as components."""
    score = (data.denoise(x, sigma) - x) / sigma**2
    own = Mixture(np.ones(1), data.means[k : k + 1], data.stds[k : k + 1])
    return score, (own.denoise(x, sigma) - x) / sigma**2 - score


def powered(data: Mixture, k: int, scale: float, sigma: float) -> np.ndarray:
    """Return p(x) p(k | x)^scale on the grid, normalised."""
    x = GRID[:, None]
    density = data.density(x, sigma) * data.posterior(x, sigma)[:, k] ** scale
    return density / density.sum()


def std_of(density: np.ndarray) -> float:
    return float(np.sqrt(density @ (GRID - density @ GRID) ** 2))


@states(
    "guidance.md",
    r"p_w(x | y) \propto p(x)\, p(y | x)^w",
    "by Bayes' rule; other $`w`$ give other densities",
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_the_guided_score_is_that_of_the_conditional_density_only_at_scale_1(scale):
    data = two_points(0.5)
    sigma = 0.8
    x = np.asarray([[0.3]])
    score, classifier = class_score(data, 1, x, sigma)
    guided = lm.classifier_guidance(score, classifier, scale)[0, 0]
    at = int(np.argmin(np.abs(GRID - 0.3)))
    log = np.log(powered(data, 1, scale, sigma))
    slope = (log[at + 1] - log[at - 1]) / (GRID[at + 1] - GRID[at - 1])
    assert guided == pytest.approx(slope, rel=1e-4)
    conditional = (score + classifier)[0, 0]
    assert (abs(guided - conditional) < 1e-12) == (scale == 1.0)


@states("guidance.md", "A class far from all others is hardly changed")
def test_guidance_narrows_a_class_beside_others_and_not_one_far_away():
    near = two_points(0.5)
    far = Mixture(np.full(2, 0.5), np.asarray([[-4.0], [4.0]]), np.full(2, 0.5))
    assert std_of(powered(near, 1, 6.0, 0.1)) < 0.95 * std_of(powered(near, 1, 1.0, 0.1))
    assert std_of(powered(far, 1, 6.0, 0.1)) == pytest.approx(
        std_of(powered(far, 1, 1.0, 0.1)), rel=1e-4
    )


@states("guidance.md", "of neighbouring noise levels are not the noised versions of each other")
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_guided_densities_are_those_of_a_diffusion_only_at_scale_1(scale):
    """Noise from 0.5 to 1 adds 0.75 to the variance of a diffusion."""
    low, high = (std_of(powered(two_points(0.5), 1, scale, sigma)) ** 2 for sigma in (0.5, 1.0))
    assert (abs(high - low - 0.75) < 1e-6) == (scale == 1.0)


@states("guidance.md", "Whether the variance divides by $`n`$ or $`n - 1`$ does not matter")
def test_the_divisor_of_the_variance_cancels_in_rescaled_guidance():
    guided, cond = np.random.default_rng(2).standard_normal((2, 3, 5)) * 2
    plain = guided * (cond.std(axis=1, keepdims=True) / guided.std(axis=1, keepdims=True))
    np.testing.assert_allclose(lm.rescale_guidance(guided, cond, 1.0), plain, rtol=1e-14)


# -- schedules.md ---------------------------------------------------------------------------------


@states("schedules.md", r"$`\rho = 1`$ is even in $`\sigma`$")
def test_karras_sigmas_with_rho_1_are_even():
    np.testing.assert_allclose(lm.karras_sigmas(5, 1.0, 9.0, 1.0), [9, 7, 5, 3, 1], rtol=1e-14)


@states("schedules.md", r"\log \mathrm{SNR} = -2 \log \sigma", "half of it in DPM-Solver")
def test_the_lambda_of_dpm_solver_is_half_the_log_snr():
    level = np.asarray([0.1, 0.5, 0.9])
    half = np.log(np.sqrt(level) / np.sqrt(1 - level))
    np.testing.assert_allclose(lm.log_snr(level), 2 * half, atol=1e-15)
    np.testing.assert_allclose(half, -np.log(lm.sigma_from_alpha_bar(level)), atol=1e-15)


@states("schedules.md", "Without the cap of 0.999 the last $`\\beta`$ of both curves is 1")
def test_both_falling_curves_end_at_the_cap():
    for betas in (lm.cosine_betas(1000), lm.sigmoid_betas(1000)):
        assert float(betas[-1]) == 0.999
        assert np.all(betas[:-1] < 0.999)


# -- score.md -------------------------------------------------------------------------------------


@states("score.md", r"the variance of VE is $`\sigma(t)^2 - \sigma_{\min}^2`$")
def test_ve_has_the_variance_of_its_equation_given_its_own_start():
    sde = lm.VESDE(0.5, 4.0)
    variance, _ = integrate.quad(lambda t: float(sde.diffusion(t)) ** 2, 0, 0.7)
    assert sde.transition(0.0, 0.7)[1] == pytest.approx(variance, rel=1e-10)
    assert float(sde.std(0.7)) ** 2 == pytest.approx(variance + 0.5**2, rel=1e-10)


@states("score.md", "the relative difference is 7 %", "differs from $`e^{-B}`$ by up to 0.0008")
def test_the_chain_of_ddpm_differs_from_the_diffusion():
    chain = lm.alphas_cumprod(lm.VPSDE().betas(1000))
    limit = np.asarray([lm.VPSDE().alpha_bar((i + 1) / 1000) for i in range(1000)])
    assert f"{np.abs(chain - limit).max():.4f}" == "0.0008"
    assert f"{abs(limit[-1] / chain[-1] - 1):.2f}" == "0.07"


@states(
    "score.md",
    r"0.00004 with $`g^2`$ in the flow",
    r"11 with $`\tfrac12 g^2`$ in the reverse SDE",
)
def test_exchanged_factors_of_the_score_give_the_wrong_variance():
    """The variance v of N(0, 1) from t = 1 to 0: dv/dt = 2 c v for the drift c x, minus g^2."""
    sde = lm.VPSDE()

    def end(share_of_g2, noise):
        def slope(v, t):
            g2 = sde.diffusion(t) ** 2
            drift = -0.5 * sde.beta(t) + share_of_g2 * g2  # of x, with the score -x
            return 2 * drift * v - noise * g2

        return float(lm.integrate_rk4(slope, np.ones(1), np.linspace(1.0, 0.0, 401))[0])

    assert end(0.5, 0.0) == pytest.approx(1, rel=1e-6)
    assert end(1.0, 1.0) == pytest.approx(1, rel=1e-6)
    assert f"{end(1.0, 0.0):.5f}" == "0.00004"
    assert round(end(0.5, 1.0)) == 11


@states("score.md", r"only in the limit $`\delta \to 0`$", r"$`\delta = 0.2`$ is 1.11")
@pytest.mark.parametrize(("size", "settles"), [(0.2, 1.11), (0.002, 1.00)])
def test_langevin_steps_keep_the_density_only_in_the_limit(size, settles):
    """The variance after many steps from N(0, 1), propagated exactly through the linear step."""
    keep = lm.langevin_step(np.ones(1), -np.ones(1), np.zeros(1), size)[0]
    add = lm.langevin_step(np.zeros(1), np.zeros(1), np.ones(1), size)[0]
    variance = 1.0
    for _ in range(5000):
        variance = keep**2 * variance + add**2
    assert variance == pytest.approx(1 / (1 - size / 2), rel=1e-6)
    assert f"{variance:.2f}" == f"{settles:.2f}"


@states("score.md", r"p^{d/(d+2)}\,\lVert\nabla\log p\rVert^2", r"$`64 / 6 = 10.7`$ instead of 6")
def test_langevin_steps_of_a_size_for_each_example_sample_another_density():
    """N(0, I) in 6 dimensions: from the stated density the mean of |x|^2 stays, from p it rises."""
    d = 6
    n = 20_000
    rng = np.random.default_rng(3)
    stated = rng.standard_normal((n, d))
    radius = np.sqrt(rng.chisquare(d + 2, (n, 1)) * (d + 2) / d)  # density p^(d/(d+2)) |x|^2
    stated *= radius / np.linalg.norm(stated, axis=1, keepdims=True)
    means = []
    for x in (stated, rng.standard_normal((n, d))):
        for _ in range(200):
            noise = rng.standard_normal((n, d))
            x = lm.langevin_step(x, -x, noise, lm.langevin_step_size(-x, noise, 0.1))
        means.append((x**2).sum(axis=1).mean())
    assert means[0] == pytest.approx(64 / 6, rel=0.03)
    assert means[1] > 8


@states("score.md", r"which adds $`\log_2 127.5`$ bits per dimension")
def test_pixels_that_are_equally_likely_have_8_bits_as_a_density_too():
    """Bytes spread over their bins are uniform on [-1 - 1/255, 1 + 1/255], of width 256 / 127.5."""
    log_density = np.full((1, 3), -np.log(256 / 127.5))
    bits = lm.bits_per_dimension(-log_density.sum(axis=1), 3)
    np.testing.assert_allclose(bits + np.log2(127.5), 8.0, rtol=1e-14)


# -- samplers.md ----------------------------------------------------------------------------------


@states(
    "samplers.md",
    r"(1 - e^{-k})\, x_0 + \varphi_2 D_1 + \left(1 - \tfrac{2 \varphi_2}{k}\right) D_2",
    "half the weight of $`D_2`$",
)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("h", [0.1, 2.0])
def test_dpmpp_3m_halves_the_weight_of_half_the_second_derivative(eta, h):
    k = (1 + eta) * h
    phi2 = 1 - (1 - np.exp(-k)) / k

    def weight(function):
        kernel = lambda u: (1 + eta) * np.exp(-(1 + eta) * (h - u)) * function(u / h)  # noqa: E731
        return integrate.quad(kernel, 0, h)[0]

    assert weight(lambda u: 1.0) == pytest.approx(1 - np.exp(-k), rel=1e-10)
    assert weight(lambda u: u) == pytest.approx(phi2, rel=1e-10)
    assert weight(lambda u: u**2) == pytest.approx(1 - 2 * phi2 / k, rel=1e-8)  # of D_2
    assert weight(lambda u: u**2 / 2) == pytest.approx(
        0.5 - phi2 / k, rel=1e-8
    )  # of the derivative


def from_slopes(x, x0, sigma, sigma_next):
    """One step of Dormand and Prince's method as textbooks write it, in x's type."""
    slopes = []
    for node, row in zip(DORMAND_PRINCE.nodes, DORMAND_PRINCE.matrix, strict=True):
        stage = sigma + float(node) * (sigma_next - sigma)
        moved = sum((float(a) * slope for a, slope in zip(row, slopes, strict=True)), 0 * x)
        slopes.append((x + (sigma_next - sigma) * moved - x0) / stage)
    total = sum(float(b) * slope for b, slope in zip(DORMAND_PRINCE.weights, slopes, strict=True))
    return x + (sigma_next - sigma) * total


@states("samplers.md", "wrong by more than a full unit of the data in float32", "less than 0.001")
def test_combinations_of_slopes_lose_the_data_in_float32():
    """The prediction is constant, so the path is straight and known."""
    rng = np.random.default_rng(0)
    sigma = 20_291.0
    sigma_next = 500.0
    x = sigma * rng.standard_normal(1000)
    x0 = rng.standard_normal(1000)
    exact = x0 + sigma_next / sigma * (x - x0)
    np.testing.assert_allclose(from_slopes(x, x0, sigma, sigma_next), exact, atol=1e-6)
    single = x.astype(np.float32)
    x0_single = x0.astype(np.float32)
    slopes = from_slopes(single, x0_single, sigma, sigma_next)
    assert slopes.dtype == np.float32
    assert abs(slopes - exact).max() > 1
    step = runge_kutta(DORMAND_PRINCE)
    differences = step(
        lambda x, s: x0_single, single, Interval(0, 1, 1, sigma, sigma_next), (), lambda: single
    )[0]
    assert abs(differences - exact).max() < 1e-3


# -- autoencoders.md ------------------------------------------------------------------------------


@states(
    "autoencoders.md",
    r"$`\sigma_x^2 = \tfrac12`$, its mean over $`d`$ elements to $`\sigma_x^2 = d/2`$",
)
@pytest.mark.parametrize(("variance", "divisor"), [(0.5, 1), (2.5, 5)])
def test_squared_errors_are_gaussian_log_likelihoods_up_to_a_constant(variance, divisor):
    x, a, b = np.random.default_rng(4).standard_normal((3, 2, 5))
    likelihoods = [lm.gaussian_log_likelihood(x, y, variance) for y in (a, b)]
    errors = [lm.squared_error(x, y) / divisor for y in (a, b)]
    np.testing.assert_allclose(likelihoods[0] - likelihoods[1], errors[1] - errors[0], rtol=1e-12)


@states("autoencoders.md", r"\sum_i \left(x_i l_i - \log(1 + e^{l_i})\right)")
def test_the_sum_of_the_bernoulli_likelihood_is_over_both_terms():
    x = np.asarray([[1.0, 0.0, 1.0]])
    logits = np.asarray([[0.5, -1.0, 2.0]])
    got = lm.bernoulli_log_likelihood(x, logits)[0]
    p = special.expit(logits)
    assert got == pytest.approx(stats.bernoulli.logpmf(x, p).sum(), rel=1e-12)
    assert abs(got - (np.sum(x * logits) - np.log1p(np.exp(logits[0, 0])))) > 0.1


@states("autoencoders.md", r"\omega_{\max}\right)", r"$`\omega_{\max} = 10^4`$")
def test_the_adaptive_weight_is_limited_where_the_discriminator_is_flat():
    flat = np.zeros(2)
    gradient = np.asarray([3.0, 4.0])
    assert float(lm.adaptive_weight(gradient, flat)) == 1e4
    assert 5.0 / 1e-6 > 1e4  # the ratio alone


@states("autoencoders.md", "An angle computed from its cosine alone is wrong by $`10^{-8}`$")
def test_arccosines_lose_half_of_the_digits():
    angle = 1e-9
    assert abs(np.arccos(np.cos(angle)) - angle) > 5e-10
    assert np.arccos(1 - np.finfo(float).eps) == pytest.approx(2.1e-8, rel=0.01)


# -- layers.md ------------------------------------------------------------------------------------


@states("layers.md", "independent with mean zero and unit variance")
def test_scores_have_unit_variance_if_the_elements_have_mean_zero():
    """The variance of a sum of d independent products, and that with a mean of 2."""
    n = 200_000
    d = 4
    q, k = np.random.default_rng(5).standard_normal((2, n, d))
    error = 5 * np.sqrt(8 / n)  # the fourth moment of such a score is below 9
    assert abs(np.var((q * k).sum(axis=1) / np.sqrt(d)) - 1) < error
    assert np.var(((q + 2) * (k + 2)).sum(axis=1) / np.sqrt(d)) > 8


@states(
    "layers.md",
    "ignore a shift of their input and a positive factor",
    "a negative factor changes the sign",
)
def test_normalisation_ignores_positive_factors_and_not_negative_ones():
    x = np.random.default_rng(6).standard_normal((2, 4, 3))
    for normalise in (
        lambda x: lm.group_norm(x, None, None, 2, 0.0),
        lambda x: lm.layer_norm(x, None, None, 0.0),
    ):
        np.testing.assert_allclose(normalise(3 * x + 5), normalise(x), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(normalise(-3 * x + 5), -normalise(x), rtol=1e-9, atol=1e-12)


@states(
    "layers.md",
    r"8i \dots 8i + 14, \qquad 8i - 7 \dots 8i + 7",
    r"(or $`2i - 1`$) for the first row",
)
@pytest.mark.parametrize(("above", "rows"), [(0, (0, 14)), (1, (-7, 7))])
def test_three_halvings_see_15_rows(above, rows):
    """Which of 64 rows reach output 4 (of 8): by convolutions of ones with the padding."""
    seen = np.eye(64)
    for _ in range(3):
        padded = np.vstack([np.zeros((above, 64)), seen, np.zeros((1, 64))])
        seen = np.stack([padded[i : i + 3].sum(axis=0) for i in range(0, len(seen), 2)])
    columns = np.flatnonzero(seen[4])
    assert (columns[0] - 32, columns[-1] - 32) == rows
    assert len(columns) == 15


@states("layers.md", "bfloat16 cannot tell 999 from 1000")
def test_bfloat16_cannot_tell_999_from_1000():
    """Its 8 significant bits count in fours between 512 and 1024."""
    bits = np.asarray([999.0, 1000.0], np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    assert rounded.astype(np.uint32).view(np.float32).tolist() == [1000.0, 1000.0]


# -- evaluation.md, evaluate.md -------------------------------------------------------------------


@states("evaluation.md", "It is biased upwards")
def test_the_frechet_distance_of_equal_distributions_falls_with_the_size_of_the_samples():
    rng = np.random.default_rng(7)
    means = []
    for n in (30, 300):
        pairs = rng.standard_normal((10, 2, n, 4))
        moments = [[(x.mean(axis=0), np.cov(x.T)) for x in pair] for pair in pairs]
        means.append(np.mean([float(lm.frechet_distance(*a, *b)) for a, b in moments]))
    assert means[0] > 5 * means[1] > 0


@states("evaluation.md", "whose density is that of $`z`$ over $`\\kappa^d`$")
def test_the_density_of_scaled_latents():
    z = np.asarray([[0.3, -1.0, 2.0]])
    of_scaled = stats.norm.logpdf(4.0 * z, 0, 4.0).sum()
    assert of_scaled == pytest.approx(stats.norm.logpdf(z).sum() - 3 * np.log(4.0), rel=1e-14)


@states("../evaluate.md", "$`L_0`$ can be negative for continuous latents")
def test_the_decoder_s_term_can_be_negative_for_continuous_data_and_need_not_be():
    x0 = np.zeros((1, 1))
    levels = np.asarray([0.9999, 0.5, 1e-4])
    signs = [
        float(
            lm.variational_bound(
                x0,
                levels,
                lambda xt, t, off=off: x0 + off,
                lambda: x0,
                "fixed_large",
                lm.normal_log_density,
            ).reconstruction[0]
        )
        for off in (0.0, 1.0)
    ]
    assert signs[0] < 0 < signs[1]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("test", "page", "quotation"), STATEMENTS)
def test_the_page_says_what_is_tested(test, page, quotation):
    text = (ROOT / "docs" / "math" / page).read_text()
    assert plain(quotation) in plain(text), f"{page} was changed: see whether {test} still fits"
