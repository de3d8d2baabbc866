"""Conditioning by Bayes' rule, on problems where the conditional score is known exactly."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.stats import multivariate_normal

from ldmref import math as lm
from ldmref.testing import strategies
from ldmref.testing.mixture import three_modes

PROBLEM = three_modes()
SCALES = st.integers(-40, 80).map(lambda k: k / 8)


def points(n=30, seed=3):
    return np.random.default_rng(seed).standard_normal((n, 2))


def classifier_gradient(problem, x, sigma):
    """grad log r_k of the mixture's own classifier, (n, k, d): a quotient, as autograd has it."""
    return problem.posterior_gradient(x, sigma) / problem.posterior(x, sigma)[..., None]


def component_score(problem, k, x, sigma):
    """Return the score of component k alone: that of p(x | y = k)."""
    return -(x - problem.means[k]) / (problem.stds[k] ** 2 + sigma**2)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_classifier_guidance_gives_the_score_of_the_component(k, sigma):
    x = points()
    gradient = classifier_gradient(PROBLEM, x, sigma)[:, k]
    exact = component_score(PROBLEM, k, x, sigma)
    got = lm.classifier_guidance(PROBLEM.score(x, sigma), gradient)
    np.testing.assert_allclose(got, exact, rtol=1e-10, atol=1e-10)
    back = lm.implicit_classifier(exact, PROBLEM.score(x, sigma))
    np.testing.assert_allclose(back, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("a", [0.05, 0.5, 0.95])
def test_guided_noise_prediction_gives_the_component_s_denoiser(a):
    """In variance-preserving coordinates: eps guided, then turned into x0, is E[x0 | x_t, y]."""
    k = 1
    xt = points()
    noise = np.sqrt(1 - a)
    there = PROBLEM.scaled(np.sqrt(a))
    eps = lm.eps_from_score(there.score(xt, noise), a)
    guided = lm.classifier_guidance_eps(eps, classifier_gradient(there, xt, noise)[:, k], a)
    shrink = PROBLEM.stds[k] ** 2 / (PROBLEM.stds[k] ** 2 + (1 - a) / a)
    exact = PROBLEM.means[k] + shrink * (xt / np.sqrt(a) - PROBLEM.means[k])
    np.testing.assert_allclose(lm.x0_from_eps(xt, guided, a), exact, rtol=1e-9, atol=1e-10)


@given(data=st.data(), scale=SCALES)
def test_classifier_guidance_equals_its_formula(xp, dtype, xp_assert_close, to_numpy, data, scale):
    score, gradient, a = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    wide = [to_numpy(z).astype(np.float64) for z in (score, gradient, a)]
    level = wide[2].reshape((-1,) + (1,) * (score.ndim - 1))
    push = scale * wide[1]
    got = lm.classifier_guidance(score, gradient, scale)
    size = abs(wide[0]) + abs(push)
    xp_assert_close(got, wide[0] + push, like=score, ulps=2, scale=size)
    got = lm.classifier_guidance_eps(score, gradient, a, scale)
    desired = wide[0] - np.sqrt(1 - level) * push
    xp_assert_close(got, desired, like=score, ulps=4, scale=size)
    got = lm.classifier_guidance_mean(score, 0.25, gradient, scale)
    xp_assert_close(got, wide[0] + 0.25 * push, like=score, ulps=3, scale=size)


@given(data=st.data())
def test_guidance_is_bayes_rule_unless_said_otherwise(xp, dtype, xp_assert_close, data):
    score, gradient, a = data.draw(strategies.diffusions(xp, dtype))
    for once, default in (
        (lm.classifier_guidance(score, gradient, 1.0), lm.classifier_guidance(score, gradient)),
        (
            lm.classifier_guidance_eps(score, gradient, a, 1.0),
            lm.classifier_guidance_eps(score, gradient, a),
        ),
        (
            lm.classifier_guidance_mean(score, 0.5, gradient, 1.0),
            lm.classifier_guidance_mean(score, 0.5, gradient),
        ),
    ):
        xp_assert_close(default, once, ulps=0)
    xp_assert_close(lm.classifier_guidance(score, gradient, 0.0), score, ulps=0)


@pytest.mark.parametrize("scale", [1.0, 2.5, -1.0])
def test_scale_sharpens_the_classifier(scale):
    """The score of p(x) p(y | x)^s, by differences of its logarithm."""
    x = points(8)
    h = 1e-5
    k = 2

    def log_density(x):
        return PROBLEM.log_density(x, 0.5) + scale * np.log(PROBLEM.posterior(x, 0.5)[:, k])

    steps = (h * np.eye(2)[i] for i in range(2))
    exact = np.stack([(log_density(x + e) - log_density(x - e)) / (2 * h) for e in steps], axis=1)
    got = lm.classifier_guidance(
        PROBLEM.score(x, 0.5), classifier_gradient(PROBLEM, x, 0.5)[:, k], scale
    )
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-6)


def test_gradient_of_a_torch_classifier_gives_the_conditional_score():
    """Data N(0, I), classifier sigmoid(w x + b), differentiated by autograd; oracle: mpmath."""
    torch = pytest.importorskip("torch")
    w = [1.5, -0.5]
    b = 0.3
    x = torch.tensor(points(4), dtype=torch.float64, requires_grad=True)
    logits = x @ torch.tensor(w, dtype=torch.float64) + b
    (gradient,) = torch.autograd.grad(torch.nn.functional.logsigmoid(logits).sum(), x)
    got = lm.classifier_guidance(-x.detach(), gradient, 2.0)

    def log_density(*at):
        logit = sum(mpf(c) * z for c, z in zip(w, at, strict=True)) + mpf(b)
        return -sum(z**2 for z in at) / 2 - 2 * mpmath.log1p(mpmath.exp(-logit))

    for row, at in zip(got.numpy(), x.detach().numpy(), strict=True):
        place = tuple(map(mpf, map(float, at)))
        exact = [mpmath.diff(log_density, place, order) for order in ((1, 0), (0, 1))]
        np.testing.assert_allclose(row, np.asarray(exact, float), rtol=1e-12)


@pytest.mark.parametrize("variance", [0.04, 0.5])
def test_shifted_mean_is_the_mean_of_the_tilted_gaussian(variance):
    """N(mu, Sigma) times exp(s g x), normalised as numbers on a fine grid."""
    mean = 0.7
    gradient = -1.3
    scale = 2.0
    x = mean + np.sqrt(variance) * np.linspace(-12, 12, 20001)
    log_weight = -0.5 * (x - mean) ** 2 / variance + scale * gradient * x
    weight = np.exp(log_weight - log_weight.max())
    got = lm.classifier_guidance_mean(np.asarray([mean]), variance, np.asarray([gradient]), scale)
    np.testing.assert_allclose(got[0], (weight * x).sum() / weight.sum(), rtol=1e-8)


def test_shifted_mean_takes_a_variance_for_each_element(xp, dtype, xp_assert_close):
    mean = xp.asarray([[1.0, 1.0], [1.0, 1.0]], dtype=getattr(xp, dtype))
    variance = xp.asarray([[2.0], [0.0]], dtype=mean.dtype)
    want = xp.asarray([[7.0, 7.0], [1.0, 1.0]], dtype=mean.dtype)
    xp_assert_close(lm.classifier_guidance_mean(mean, variance, mean, 3.0), want, ulps=0)


def joint_gaussian(seed):
    """Mean and covariance of (x, y) in 2 + 3 dimensions."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((5, 5))
    return rng.standard_normal(5), root @ root.T + 0.5 * np.eye(5)


@pytest.mark.parametrize("seed", range(3))
def test_score_of_a_joint_gaussian_holds_both_conditional_scores(seed):
    """Against the textbook conditionals, of which only the covariance's blocks are inverted."""
    mean, cov = joint_gaussian(seed)
    z = np.random.default_rng(seed + 10).standard_normal((7, 5))
    score = -np.linalg.solve(cov, (z - mean).T).T
    got = lm.conditional_scores(score, 2)
    blocks = {"x": slice(0, 2), "y": slice(2, 5)}
    for mine, (a, b) in zip(got, (("x", "y"), ("y", "x")), strict=True):
        a = blocks[a]
        b = blocks[b]
        gain = cov[a, b] @ np.linalg.inv(cov[b, b])
        centre = mean[a] + (z[:, b] - mean[b]) @ gain.T
        inner = cov[a, a] - gain @ cov[b, a]
        exact = -np.linalg.solve(inner, (z[:, a] - centre).T).T
        np.testing.assert_allclose(mine, exact, rtol=1e-8, atol=1e-9)


def test_conditional_score_is_the_gradient_of_the_conditional_log_density():
    """log p(x | y) = log p(x, y) - log p(y) by scipy, differentiated by differences."""
    mean, cov = joint_gaussian(4)
    z = np.random.default_rng(9).standard_normal(5)
    h = 1e-5

    def log_conditional(x):
        both = multivariate_normal(mean, cov).logpdf(np.append(x, z[2:]))
        return both - multivariate_normal(mean[2:], cov[2:, 2:]).logpdf(z[2:])

    exact = [
        (log_conditional(z[:2] + e) - log_conditional(z[:2] - e)) / (2 * h) for e in h * np.eye(2)
    ]
    score = -np.linalg.solve(cov, z - mean)[None]
    np.testing.assert_allclose(lm.conditional_scores(score, 2)[0][0], exact, rtol=1e-6)


@given(data=st.data(), shape=strategies.shapes(min_dims=2))
def test_the_two_conditional_scores_make_the_joint_one(xp, dtype, xp_assert_close, data, shape):
    joint = data.draw(strategies.arrays(shape, xp, dtype))
    size = data.draw(st.integers(0, shape[1]))
    of_x, of_y = lm.conditional_scores(joint, size)
    assert of_x.shape[1] == size and of_x.shape[2:] == joint.shape[2:]
    xp_assert_close(xp.concat([of_x, of_y], axis=1), joint, ulps=0)


@given(data=st.data(), a=strategies.alpha_bar_values(0.0, 1.0))
def test_known_part_is_noised_and_unknown_part_untouched(
    xp, dtype, xp_assert_close, to_numpy, data, a
):
    x, known, eps = (z / 3 for z in data.draw(strategies.paired(3, xp, dtype)))
    unknown = data.draw(st.integers(0, 1))
    got = lm.replace_known(x, known, unknown * xp.ones_like(x), a, eps)
    want = x if unknown else lm.q_sample(known, a, eps)
    xp_assert_close(got, want, ulps=0)
    wide = [to_numpy(z).astype(np.float64) for z in (known, eps)]
    if not unknown:
        terms = np.sqrt(a) * wide[0], np.sqrt(1 - a) * wide[1]
        size = abs(terms[0]) + abs(terms[1])
        xp_assert_close(got, terms[0] + terms[1], like=x, ulps=4, scale=size)


def test_mask_may_be_soft_and_broadcast(xp, dtype, xp_assert_close):
    kind = getattr(xp, dtype)
    x = xp.ones((2, 3), dtype=kind)
    mask = xp.asarray([[1.0], [0.25]], dtype=kind)
    got = lm.replace_known(x, 5 * x, mask, 1.0, x)
    want = xp.asarray([[1.0, 1.0, 1.0], [4.0, 4.0, 4.0]], dtype=kind)
    xp_assert_close(got, want, ulps=0)


def test_replacement_conditions_a_sampler_only_roughly():
    """x equals y, so x given y is y; of the noised pair the model expects a shrunk x only."""
    s2 = 1.0
    sigma2 = 1.0
    known = 3.0
    a = 1 / (1 + sigma2)
    x = lm.replace_known(
        np.zeros((1, 2)), np.asarray([[0.0, known]]), np.asarray([[1.0, 0.0]]), a, np.zeros((1, 2))
    ) / np.sqrt(a)
    joint = np.full((2, 2), s2)
    expected = joint @ np.linalg.solve(joint + sigma2 * np.eye(2), x[0])
    np.testing.assert_allclose(expected[0], known * s2 / (2 * s2 + sigma2))


def test_levels_of_another_length_are_refused(xp):
    x = xp.ones((3, 4))
    with pytest.raises(ValueError, match="does not fit"):
        lm.replace_known(x, x, x, 0.5 * xp.ones((2,)), x)
    with pytest.raises(ValueError, match="does not fit"):
        lm.classifier_guidance_eps(x, x, 0.5 * xp.ones((3, 1)))
