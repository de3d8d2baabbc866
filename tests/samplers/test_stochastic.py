"""Final distributions of the samplers that add noise, with a stated level of confidence.

2,000 paths from exact samples at sigma = 10. The vector of both means and three second moments must
be within the 99.9 % confidence ellipsoid of the truth (chi-square, 5 degrees of freedom, with the
covariance that the paths show). The seeds are fixed and the number of steps is such that the bias
of the method is below the noise.
"""

from __future__ import annotations

import numpy as np
import pytest
from sampling import solve
from scipy.stats import chi2

from ldmref.math import karras_sigmas
from ldmref.samplers import SAMPLERS
from ldmref.testing.mixture import three_modes

PATHS = 2_000
LIMIT = chi2.ppf(0.999, 5)
STEPS = {"ddpm": 200, "euler_a": 200, "dpmpp_sde": 200, "euler_churn": 400}  # of weak order 1
STOCHASTIC = [name for name, entry in SAMPLERS.items() if entry.stochastic and entry.order]


def distance(x):
    """Squared Mahalanobis distance of the five moments of x from those of the mixture."""
    problem = three_modes()
    mean = problem.mean()
    covariance = problem.covariance()
    second = covariance + np.outer(mean, mean)
    truth = np.asarray([*mean, second[0, 0], second[0, 1], second[1, 1]])
    moments = np.stack([x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2])
    off = moments.mean(axis=1) - truth
    return len(x) * off @ np.linalg.solve(np.cov(moments), off)


def final(name, steps, seed):
    problem = three_modes()
    stream = np.random.default_rng(seed)
    start = problem.sample(PATHS, stream) + 10.0 * stream.standard_normal((PATHS, 2))
    sigmas = np.append(karras_sigmas(steps, 0.01, 10.0), 0.0)
    return solve(name, problem.denoise, start, sigmas, lambda: stream.standard_normal((PATHS, 2))).x


def test_samples_of_the_mixture_itself_pass():
    assert distance(three_modes().sample(PATHS, np.random.default_rng(0))) < LIMIT


@pytest.mark.parametrize("name", STOCHASTIC)
def test_final_moments_are_in_the_confidence_region(name):
    assert distance(final(name, STEPS.get(name, 100), seed=1)) < LIMIT


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "unipc"])
def test_deterministic_samplers_have_the_same_distribution(name):
    assert distance(final(name, 60, seed=2)) < LIMIT


def test_tcd_with_an_ordinary_denoiser_does_not_converge_to_the_data():
    """Its jumps are DDIM's, and each step replaces the same share of the noise."""
    assert distance(final("tcd", 50, seed=3)) > 5 * LIMIT
    assert distance(final("tcd", 200, seed=3)) > LIMIT


def test_lcm_with_an_ordinary_denoiser_does_not_converge_to_the_data():
    """Its declared order is 0: more steps leave it as far from the data as ever."""
    assert distance(final("lcm", 20, seed=3)) > 20 * LIMIT
    assert distance(final("lcm", 100, seed=3)) > 20 * LIMIT
