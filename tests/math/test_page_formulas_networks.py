"""Displayed identities of the pages on autoencoders, layers and evaluation, from first principles.

The pages name these tests in a comment before each formula. Nothing here calls ldmref: functions
that compute a displayed formula are checked by the identities of `ldmref check`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest


def distribution(rng, *shape):
    """Positive numbers that add up to 1 along the last axis."""
    weights = rng.uniform(0.2, 1.0, shape)
    return weights / weights.sum(-1, keepdims=True)


# -- autoencoders.md ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_error_of_a_denoiser_splits_at_the_posterior_mean(seed):
    """E|x - h|^2 = E|x - E[x|y]|^2 + E|E[x|y] - h|^2 for every function h of the corrupted y."""
    rng = np.random.default_rng(seed)
    joint = distribution(rng, 20).reshape(4, 5)  # of x and y, discrete
    x, h = rng.standard_normal(4), rng.standard_normal(5)
    mean = (joint * x[:, None]).sum(0) / joint.sum(0)

    def expectation(values):
        return (joint * values).sum()

    whole = expectation((x[:, None] - h) ** 2)
    parts = expectation((x[:, None] - mean) ** 2), expectation((mean - h) ** 2 + 0 * x[:, None])
    assert whole == pytest.approx(sum(parts), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_evidence_is_the_bound_plus_a_divergence(seed):
    """log p(x) = E_q log p(x|z) - KL(q || p(z)) + KL(q || p(z|x)), for every q(z|x)."""
    rng = np.random.default_rng(seed)
    prior, likelihood, q = distribution(rng, 6), rng.uniform(0.1, 1, 6), distribution(rng, 6)
    evidence = (prior * likelihood).sum()
    posterior = prior * likelihood / evidence

    def divergence(a, b):
        return (a * np.log(a / b)).sum()

    bound = (q * np.log(likelihood)).sum() - divergence(q, prior)
    assert bound + divergence(q, posterior) == pytest.approx(np.log(evidence), rel=1e-12)
    assert bound < np.log(evidence)


@pytest.mark.parametrize("seed", range(3))
def test_importance_weighted_bounds_rise_to_the_evidence(seed):
    """ELBO = E L_1 <= E L_2 <= E L_3 <= log p(x), as sums over all samples of z."""
    rng = np.random.default_rng(seed)
    prior, likelihood, q = distribution(rng, 5), rng.uniform(0.1, 1, 5), distribution(rng, 5)
    weights = prior * likelihood / q
    lower = (q * np.log(weights)).sum()
    bounds = []
    for k in (1, 2, 3):
        samples = [list(indices) for indices in itertools.product(range(5), repeat=k)]
        bounds.append(sum(q[i].prod() * np.log(weights[i].mean()) for i in samples))
    assert bounds[0] == pytest.approx(lower, rel=1e-12)
    assert bounds[0] < bounds[1] < bounds[2] < np.log((prior * likelihood).sum())
    exact = prior * likelihood / (prior * likelihood).sum()
    assert np.ptp(prior * likelihood / exact) < 1e-12  # every weight is p(x)


# -- evaluation.md --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_bound_of_a_latent_model(seed):
    """-log p(x) <= E_q[-log p(x|z)] - H(q) + E_q[-log p(z)], with equality at the posterior."""
    rng = np.random.default_rng(seed)
    prior, likelihood, q = distribution(rng, 6), rng.uniform(0.1, 1, 6), distribution(rng, 6)
    joint = prior * likelihood

    def bound(q, excess=0.0):
        entropy = -(q * np.log(q)).sum()
        return (q * -np.log(likelihood)).sum() - entropy + (q * (excess - np.log(prior))).sum()

    evidence = -np.log(joint.sum())
    assert bound(q) > evidence
    assert bound(joint / joint.sum()) == pytest.approx(evidence, rel=1e-12)
    # a bound of -log p(z) in its place, such as that of a diffusion model, is still a bound
    assert bound(q, rng.uniform(0, 1, 6)) > bound(q)


# -- layers.md ------------------------------------------------------------------------------------


def test_softmax_ignores_a_shift():
    rng = np.random.default_rng(0)
    a, c = rng.standard_normal(7), 3.25

    def normalised(x):
        return np.exp(x) / np.exp(x).sum()

    shifted = np.exp(a) * np.exp(c) / (np.exp(a) * np.exp(c)).sum()
    assert normalised(a + c) == pytest.approx(shifted, rel=1e-12)
    assert shifted == pytest.approx(normalised(a), rel=1e-12)


@pytest.mark.parametrize(("above", "below"), [(0, 2), (1, 1)])
def test_rows_that_halvings_see(above, below):
    """Row i of the output of a 3 x 3 convolution of stride 2 sees rows 2i - above to 2i + below."""
    kernel, n, padded = np.ones(3), 64, np.zeros(64 + 2)
    seen = np.zeros(n)
    for row in range(n):  # which outputs does a single row reach?
        padded[:] = 0
        padded[above + row] = 1
        outputs = [padded[2 * i : 2 * i + 3] @ kernel for i in range(n // 2)]
        seen[row] = outputs[10]
    assert np.flatnonzero(seen).tolist() == [*range(20 - above, 20 + below + 1)]
    first, last = 4, 4
    for _ in range(3):
        first, last = 2 * first - above, 2 * last + below
    assert (first, last) == ((32, 46) if above == 0 else (25, 39))  # 8i .. 8i + 14, 8i -+ 7


def test_product_of_two_time_embeddings():
    """e(t) e(t') = sum of cos(omega_i (t - t'))."""
    h = 16
    for offset in (0, 1):
        omega = 10000.0 ** (-np.arange(h) / (h - offset))

        def e(t, omega=omega):
            return np.concatenate([np.cos(omega * t), np.sin(omega * t)])

        for t, other in ((3.0, 8.0), (999.0, 12.5)):
            assert e(t) @ e(other) == pytest.approx(np.cos(omega * (t - other)).sum(), abs=1e-10)
