"""The bound and the exact likelihood where the density is known: a Gaussian mixture."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldmref.evaluate.intervals import estimate
from ldmref.evaluate.likelihood import chain_bound, flow_nats
from ldmref.math.likelihood import directional_derivative
from ldmref.math.schedules import alphas_cumprod, cosine_betas, linear_betas
from ldmref.testing.mixture import Mixture, three_modes

DATA = three_modes()


def exact_denoiser(alpha_bars, data=DATA, error=0.0):
    def predict(xt, t):
        a = alpha_bars[t]
        x0 = np.empty_like(xt)
        for value in np.unique(a):
            rows = a == value
            sigma = math.sqrt((1 - value) / value)
            x0[rows] = data.denoise(xt[rows] / math.sqrt(value), sigma)
        return x0 + error, None

    return predict


@pytest.mark.parametrize("timesteps", [19, 10])
def test_the_bound_lies_above_the_truth_and_near_it(timesteps):
    """The mean of bound minus -log p: above 0 by five standard errors, and a seventh of a nat.

    The chain has 20 steps; the gap closes as steps become small. The sum has all terms, or half.
    """
    rng = np.random.default_rng(0)
    alpha_bars = alphas_cumprod(linear_betas(20, 0.005, 0.7))
    x0 = DATA.sample(20_000, rng)
    terms = chain_bound(x0, alpha_bars, exact_denoiser(alpha_bars), "fixed_large", timesteps, rng)
    gap = estimate(sum(terms.values()) + DATA.log_density(x0))
    assert 0 < gap.mean - 2.5 * gap.half_width and gap.mean < 1 / 7
    assert abs(terms["prior"].mean()) < 1e-3


@pytest.mark.parametrize(
    ("variance", "expected", "rounding"), [("fixed_large", 0.0, 0.01), ("fixed_small", 1.1, 0.05)]
)
def test_at_a_thousand_steps_the_bound_is_as_close_as_the_page_says(variance, expected, rounding):
    """docs/evaluate.md: close to the truth with the fixed large variance alone."""
    rng = np.random.default_rng(0)
    alpha_bars = alphas_cumprod(linear_betas(1000))
    x0 = DATA.sample(1500, rng)
    terms = chain_bound(x0, alpha_bars, exact_denoiser(alpha_bars), variance, 100, rng)
    gap = estimate(sum(terms.values()) + DATA.log_density(x0))
    assert abs(gap.mean - expected) < 2.5 * gap.half_width + rounding and gap.half_width < 0.12


def test_a_worse_model_has_a_higher_bound():
    rng = np.random.default_rng(1)
    alpha_bars = alphas_cumprod(cosine_betas(200))
    x0 = DATA.sample(400, rng)
    bounds = []
    for error in (0.0, 0.1):
        noise = np.random.default_rng(2)
        predict = exact_denoiser(alpha_bars, error=error)
        terms = chain_bound(x0, alpha_bars, predict, "fixed_large", 50, noise)
        bounds.append(sum(terms.values()).mean())
    assert bounds[1] > bounds[0] + 0.5


def test_strata_sum_to_all_terms():
    """With as many timesteps as there are terms each is taken once, and fewer are unbiased."""
    alpha_bars = alphas_cumprod(linear_betas(40, 0.01, 0.2))
    x0 = np.full((4000, 1), 0.5)
    narrow = Mixture(np.ones(1), np.zeros((1, 1)), np.ones(1))
    predict = exact_denoiser(alpha_bars, narrow)
    sums = []
    for timesteps in (39, 1000, 6):
        rng = np.random.default_rng(3)
        terms = chain_bound(x0, alpha_bars, predict, "fixed_small", timesteps, rng)
        sums.append(estimate(terms["denoising"]))
    assert sums[0] == sums[1]
    assert abs(sums[2].mean - sums[0].mean) < 2.5 * (sums[2].half_width + sums[0].half_width)


def test_the_exact_likelihood_is_the_truth_within_one_percent():
    rng = np.random.default_rng(0)
    x0 = DATA.sample(200, rng)
    nats = flow_nats(x0, DATA.denoise, (0.01, 80.0), 60, 8, rng, directional_derivative)
    truth = -DATA.log_density(x0, 0.01)
    assert abs(nats.mean() - truth.mean()) < 0.01 * abs(truth.mean())


def test_of_one_gaussian_the_exact_likelihood_needs_no_luck():
    """Its divergence does not depend on the probe's signs: each example within 0.1 %."""
    one = Mixture(np.ones(1), np.asarray([[0.5, -1.0]]), np.asarray([0.7]))
    rng = None
    rng = np.random.default_rng(0)
    x0 = one.sample(20, rng)
    nats = flow_nats(x0, one.denoise, (1e-3, 1e4), 160, 1, rng, directional_derivative)
    np.testing.assert_allclose(nats, -one.log_density(x0), atol=2e-3)
