"""docs/math/differences.md: its tests exist; its numbers for programs that are not installed here.

The lines of CompVis/latent-diffusion and openai/guided-diffusion that matter are repeated here.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from ldmref import math as lm

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "math" / "differences.md").read_text()


def test_every_test_that_the_page_names_exists():
    named = set(re.findall(r"`(test_\w+)(?:\[[^`]*)?`", PAGE))
    source = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in source} == set()


# -- CompVis/latent-diffusion, ldm/modules/diffusionmodules/util.py -------------------------------


def compvis_ddim_timesteps(steps: int) -> np.ndarray:
    """make_ddim_timesteps, "uniform", for 1000 training timesteps."""
    c = 1000 // steps
    ddim_timesteps = np.asarray(list(range(0, 1000, c)))
    return ddim_timesteps + 1


def numbers(text: str) -> list[int]:
    """Return the numbers in `3, 9 to 11, 27`."""
    ranges = [list(map(int, part.split(" to "))) for part in text.split(",")]
    return [n for r in ranges for n in range(r[0], r[-1] + 1)]


def test_compvis_ddim_leaves_its_table():
    """make_ddim_sampling_parameters indexes alphas_cumprod, of length 1000, with these."""
    (row,) = (line for line in PAGE.splitlines() if "IndexError" in line)
    _, what, listed, _, _ = row.split("|")
    table = np.arange(1000)
    bad = []
    for steps in range(1, 1001):
        try:
            table[compvis_ddim_timesteps(steps)]
        except IndexError:
            bad.append(steps)
    assert numbers(listed) == bad
    assert f"{len(bad)} of the numbers of steps from 1 to 1000" in what


def test_compvis_ddim_makes_more_steps_than_asked():
    assert len(compvis_ddim_timesteps(30)) == 31
    assert len(compvis_ddim_timesteps(50)) == 50


# -- openai/guided-diffusion, guided_diffusion/losses.py ------------------------------------------


def guided_diffusion_log_likelihood(x, means, log_scales):
    """discretized_gaussian_log_likelihood, with approx_standard_normal_cdf."""

    def cdf(x):
        return 0.5 * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))

    def log(p):
        return np.log(np.maximum(p, 1e-12))

    centered_x = x - means
    inv_stdv = np.exp(-log_scales)
    cdf_plus = cdf(inv_stdv * (centered_x + 1.0 / 255.0))
    cdf_min = cdf(inv_stdv * (centered_x - 1.0 / 255.0))
    inside = np.where(x > 0.999, log(1.0 - cdf_min), log(cdf_plus - cdf_min))
    return np.where(x < -0.999, log(cdf_plus), inside)


def excess_cost(x, mean, std):
    """Return the nats that guided-diffusion's likelihood takes too much for a pixel."""
    exact = lm.discretized_gaussian_log_likelihood(x, mean, np.full_like(x, 2 * np.log(std)))
    return exact - guided_diffusion_log_likelihood(x, mean, np.log(std))


def test_likelihood_of_guided_diffusion_in_the_tails():
    std = 0.1
    distance = np.asarray([4.0, 5.0, 6.0, 10.0, 20.0])
    x = np.full_like(distance, 2 * 200 / 255 - 1)
    mean = x - distance * std
    excess = excess_cost(x, mean, std)
    np.testing.assert_array_equal(excess[:3].round(2), [0.42, 1.54, 3.83])
    np.testing.assert_array_equal(excess[3:].round(), [-26, -176])
    clamped = guided_diffusion_log_likelihood(x, mean, np.log(std))[3:]
    np.testing.assert_array_equal(clamped, np.log(1e-12))
    assert clamped[0].round(1) == -27.6


@pytest.mark.parametrize("std", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.3])
def test_likelihood_of_guided_diffusion_on_average(mean, std):
    x = 2 * np.arange(256) / 255 - 1
    mean = np.full_like(x, mean)
    logvar = np.full_like(x, 2 * np.log(std))
    p = np.exp(lm.discretized_gaussian_log_likelihood(x, mean, logvar))
    assert 0 <= p @ excess_cost(x, mean, std) < 1e-4


def test_the_hybrid_loss_counts_nats_where_guided_diffusion_counts_bits():
    """`_vb_terms_bpd` divides each KL by ln 2; `training_losses` multiplies it by T / 1000."""
    rng = np.random.default_rng(0)
    steps = 1000
    alphas_cumprod = lm.alphas_cumprod(lm.cosine_betas(steps))
    x0 = rng.standard_normal((5, 8))
    x0_pred = x0 + 0.1 * rng.standard_normal((5, 8))
    v = rng.uniform(-1, 1, (5, 8))
    t = np.asarray([1, 10, 300, 700, 900])
    simple = np.zeros(5)

    def normal_kl(mean1, logvar1, mean2, logvar2):
        difference = (mean1 - mean2) ** 2 * np.exp(-logvar2)
        return 0.5 * (-1.0 + logvar2 - logvar1 + np.exp(logvar1 - logvar2) + difference)

    a = alphas_cumprod[t][:, None]
    a_prev = alphas_cumprod[t - 1][:, None]
    beta = 1 - a / a_prev
    coefficient = np.sqrt(a_prev) * beta / (1 - a)
    posterior_variance = beta * (1 - a_prev) / (1 - a)
    share = (v + 1) / 2
    logvar = share * np.log(beta) + (1 - share) * np.log(posterior_variance)
    kl = normal_kl(coefficient * x0, np.log(posterior_variance), coefficient * x0_pred, logvar)
    vb_terms_bpd = kl.mean(axis=1) / np.log(2.0)
    theirs = simple + vb_terms_bpd * steps / 1000.0

    terms = lm.bound_term(x0, x0_pred, t, alphas_cumprod, "learned_range", v)
    ours = lm.hybrid_loss(simple, steps * terms.mean(axis=1), 0.001)
    np.testing.assert_allclose(ours / theirs, np.log(2.0), rtol=1e-10)
