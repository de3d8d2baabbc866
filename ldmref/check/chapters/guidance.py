"""Guidance, and conditioning by Bayes' rule."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host

chapter = Chapter("guidance")


# Roundings: 3 of terms up to 80, 4 of terms up to 40 in the oracle, of a scale of 30.
@chapter.identity("classifier_free_guidance", "the definition at 0, 1 and s", 12)
def interpolates_and_extrapolates(f: Functions, rng: RandomInputs) -> Comparison:
    (uncond, cond) = rng.normals(2, 2, 3)
    scale = rng.number(-2.0, 10.0)
    got = [f.classifier_free_guidance(uncond, cond, s) for s in (0.0, 1.0, scale)]
    return got, [uncond, cond, (1 - scale) * to_host(uncond) + scale * to_host(cond)], 30.0


# Roundings: 4 of terms up to 140 on each side, of a scale of 30.
@chapter.identity("classifier_free_guidance", "linearity", 38, uses=("x0_from_eps",), amplified=4.7)
def commutes_with_the_prediction_type(f: Functions, rng: RandomInputs) -> Comparison:
    """Guiding eps and converting to x0 equals converting to x0 and guiding."""
    xt, uncond, cond = rng.normals(3, 3, 4)
    alpha_bar = rng.number(0.2, 0.9)
    scale = rng.number(0.0, 8.0)
    got = f.x0_from_eps(xt, f.classifier_free_guidance(uncond, cond, scale), alpha_bar)
    x0s = [f.x0_from_eps(xt, eps, alpha_bar) for eps in (uncond, cond)]
    return got, f.classifier_free_guidance(*x0s, scale), 30.0


# Roundings: 4 of terms up to 100 on each side, of a scale of 50.
@chapter.identity("classifier_free_guidance", "products of Gaussians", 16)
def score_of_the_sharpened_posterior(f: Functions, rng: RandomInputs) -> Comparison:
    """p(x) p(y|x)^s, with p(x) and p(x|y) Gaussian, is Gaussian too."""
    x = rng.normal(4, 3)
    scale = rng.number(0.0, 8.0)
    (m1, v1), (m2, v2) = ((rng.number(-2, 2), rng.number(0.5, 2.0)) for _ in range(2))
    got = f.classifier_free_guidance((m1 - x) / v1, (m2 - x) / v2, scale)
    precision = (1 - scale) / v1 + scale / v2
    return got, (1 - scale) * m1 / v1 + scale * m2 / v2 - precision * to_host(x), 50.0


# Roundings: 8 in each of three standard deviations of 16 numbers.
@chapter.identity("rescale_guidance", "numpy.std", 24)
def standard_deviation_of_the_conditional(f: Functions, rng: RandomInputs) -> Comparison:
    guided, cond = rng.normals(2, 2, 4, 4)
    rescaled = f.rescale_guidance(guided, cond, 1.0)
    got, expected = (to_host(x).reshape(2, -1).std(axis=1, ddof=1) for x in (rescaled, cond))
    return got, expected


# Roundings: 4 on each side.
@chapter.identity("rescale_guidance", "linearity in phi", 8)
def mixes_linearly(f: Functions, rng: RandomInputs) -> Comparison:
    (guided, cond) = rng.normals(2, 2, 8)
    phi = rng.number(0.0, 1.0)
    expected = phi * f.rescale_guidance(guided, cond, 1.0) + (1 - phi) * guided
    return f.rescale_guidance(guided, cond, phi), expected, 4.0


def mixture(rng: RandomInputs, noise_variance: float = 0.0) -> tuple[np.ndarray, ...]:
    """(score, grad log p(class 0|x), score of class 0) at points of a mixture of three classes."""
    x = to_host(rng.normal(4, 2))[:, None, :]
    weights = np.asarray([0.5, 0.3, 0.2])
    means = rng.numpy.uniform(-1, 1, (3, 2))
    variances = rng.numpy.uniform(0.3, 1.0, 3) + noise_variance
    log = np.log(weights / variances) - 0.5 * ((x - means) ** 2).sum(axis=-1) / variances
    posterior = np.exp(log) / np.exp(log).sum(axis=1, keepdims=True)
    scores = (means - x) / variances[:, None]
    score = (posterior[..., None] * scores).sum(axis=1)
    # the quotient rule on p(0 | x) = 1 / sum_k exp(log_k - log_0)
    odds = np.exp(log - log[:, :1])[..., None] * (scores - scores[:, :1])
    gradient = -odds.sum(axis=1) * posterior[:, :1]
    return score, gradient, scores[:, 0]


# Roundings: log densities down to -40 and scores up to 17 are rounded in the oracle, of a scale
# of 10.
@chapter.identity("classifier_guidance", "Bayes' rule in a mixture", 64, amplified=40)
def score_of_one_class_of_a_mixture(f: Functions, rng: RandomInputs) -> Comparison:
    score, gradient, class_score = mixture(rng)
    return f.classifier_guidance(rng.array(score), rng.array(gradient)), class_score, 10.0


# Roundings: log densities down to -40 and scores up to 17 are rounded in the oracle, of a scale
# of 10.
@chapter.identity("implicit_classifier", "Bayes' rule in a mixture", 64, amplified=40)
def gradient_of_the_mixture_s_own_classifier(f: Functions, rng: RandomInputs) -> Comparison:
    score, gradient, class_score = mixture(rng)
    return f.implicit_classifier(rng.array(class_score), rng.array(score)), gradient, 10.0


# Roundings: log densities down to -15 are rounded in the oracle, scores up to 5, of a scale of
# 10.
@chapter.identity("classifier_guidance_eps", "Bayes' rule in a mixture", 10)
def noise_in_one_class_of_a_mixture(f: Functions, rng: RandomInputs) -> Comparison:
    alpha_bar = rng.number(0.1, 0.9)
    score, gradient, class_score = mixture(rng, noise_variance=1 - alpha_bar)
    std = math.sqrt(1 - alpha_bar)
    got = f.classifier_guidance_eps(rng.array(-std * score), rng.array(gradient), alpha_bar)
    return got, -std * class_score, 10.0


# Roundings: exponents up to 36 are rounded in the oracle, at ten nodes that count.
@chapter.identity("classifier_guidance_mean", "Gauss-Hermite quadrature", 16)
def mean_of_a_tilted_gaussian(f: Functions, rng: RandomInputs) -> Comparison:
    """E[x exp(s g x)] / E[exp(s g x)] of N(mu, Sigma), by Gauss-Hermite quadrature."""
    mean, gradient = rng.normals(2, 5)
    variance = rng.number(0.1, 0.5)
    scale = rng.number(0.0, 3.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    away = math.sqrt(variance) * nodes
    tilted = weights * np.exp(scale * to_host(gradient)[:, None] * away)
    expected = to_host(mean) + (tilted * away).sum(axis=1) / tilted.sum(axis=1)
    return f.classifier_guidance_mean(mean, variance, gradient, scale), expected, 4.0


# Roundings: 3 systems of equations, whose errors are 2 roundings of the matrix, by its inverse,
# below 1.
@chapter.identity("conditional_scores", "the conditional Gaussian", 6)
def joint_gaussian_has_the_textbook_conditionals(f: Functions, rng: RandomInputs) -> Comparison:
    """Compute conditional mean and covariance from the blocks of the covariance.

    The channels are jointly Gaussian, the pixels of an image independent.
    """
    factor = rng.numpy.standard_normal((5, 5))
    z = rng.numpy.standard_normal((12, 5))  # 2 images of 2 x 3 pixels
    cov = factor @ factor.T + np.eye(5)
    size = rng.integer(1, 4)

    def images(rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(2, 2, 3, -1), -1, 1)

    joint = rng.array(images(-np.linalg.solve(cov, z.T).T))

    def score(a: slice, b: slice) -> np.ndarray:
        gain = np.linalg.solve(cov[b, b], cov[b, a]).T
        conditional_cov = cov[a, a] - gain @ cov[b, a]
        return images(-np.linalg.solve(conditional_cov, (z[:, a] - z[:, b] @ gain.T).T).T)

    x = slice(0, size)
    y = slice(size, 5)
    got = dict(zip(("score of x", "score of y"), f.conditional_scores(joint, size), strict=True))
    return got, [score(x, y), score(y, x)], float(np.linalg.norm(cov, 2))


# Roundings: 4 on each side.
@chapter.identity("replace_known", "numpy.where", 8)
def known_part_is_diffused_data_unknown_part_stays(f: Functions, rng: RandomInputs) -> Comparison:
    (x, known, eps) = rng.normals(3, 3, 4)
    alpha_bar = rng.number(0, 1)
    mask = rng.array(rng.numpy.integers(0, 2, (3, 4)))
    noised = math.sqrt(alpha_bar) * to_host(known) + math.sqrt(1 - alpha_bar) * to_host(eps)
    expected = np.where(to_host(mask) == 1, to_host(x), noised)
    return f.replace_known(x, known, mask, alpha_bar, eps), expected, 4.0
