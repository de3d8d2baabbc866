"""Guidance, and conditioning by Bayes' rule."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host


def ends_and_extrapolates(f: Functions, draw: Draw):
    uncond, cond, scale = draw.normal(2, 3), draw.normal(2, 3), draw.number(-2.0, 10.0)
    got = [f.classifier_free_guidance(uncond, cond, s) for s in (0.0, 1.0, scale)]
    u, c = to_host(uncond), to_host(cond)
    return draw.xp.stack(got), np.stack([u, c, (1 - scale) * u + scale * c]), 30.0


def commutes_with_the_prediction_type(f: Functions, draw: Draw):
    """Guiding eps and turning it into x0 is turning into x0 and guiding."""
    xt, u, c = draw.normal(3, 4), draw.normal(3, 4), draw.normal(3, 4)
    level, scale = draw.number(0.2, 0.9), draw.number(0.0, 8.0)
    first = f.x0_from_eps(xt, f.classifier_free_guidance(u, c, scale), level)
    x0s = (f.x0_from_eps(xt, u, level), f.x0_from_eps(xt, c, level))
    return first, f.classifier_free_guidance(*x0s, scale), 30.0


def score_of_the_sharpened_posterior(f: Functions, draw: Draw):
    """p(x) p(y|x)^s, with p(x) and p(x|y) Gaussian, is a Gaussian too."""
    x, scale = draw.normal(4, 3), draw.number(0.0, 8.0)
    (m1, v1), (m2, v2) = ((draw.number(-2, 2), draw.number(0.5, 2.0)) for _ in range(2))
    host = to_host(x)
    uncond, cond = draw.array((m1 - host) / v1), draw.array((m2 - host) / v2)
    precision = (1 - scale) / v1 + scale / v2
    want = (1 - scale) * m1 / v1 + scale * m2 / v2 - precision * host
    return f.classifier_free_guidance(uncond, cond, scale), want, 50.0


def contrast_is_the_conditional_one(f: Functions, draw: Draw):
    guided, cond = draw.normal(2, 4, 4), draw.normal(2, 4, 4)
    got = to_host(f.rescale_guidance(guided, cond, 1.0)).reshape(2, -1).std(axis=1, ddof=1)
    return got, to_host(cond).reshape(2, -1).std(axis=1, ddof=1)


def mixes_linearly(f: Functions, draw: Draw):
    guided, cond, phi = draw.normal(2, 8), draw.normal(2, 8), draw.number(0.0, 1.0)
    full = to_host(f.rescale_guidance(guided, cond, 1.0))
    want = phi * full + (1 - phi) * to_host(guided)
    return f.rescale_guidance(guided, cond, phi), want, 4.0


def mixture(draw: Draw, noise: float = 0.0):
    """Points of a mixture of three classes; score, grad of log p(class 0 | x), class 0's score."""
    x = draw.normal(4, 2)
    z = to_host(x)[:, None, :]
    weights, means = np.asarray([0.5, 0.3, 0.2]), draw.stream.uniform(-1, 1, (3, 2))
    variances = draw.stream.uniform(0.3, 1.0, 3) + noise
    log = np.log(weights / variances) - 0.5 * ((z - means) ** 2).sum(axis=-1) / variances
    share = np.exp(log) / np.exp(log).sum(axis=1, keepdims=True)
    scores = (means - z) / variances[:, None]
    score = (share[..., None] * scores).sum(axis=1)
    # the quotient rule on p(0 | x) = 1 / sum_k exp(log_k - log_0)
    odds = np.exp(log - log[:, :1])[..., None] * (scores - scores[:, :1])
    gradient = -odds.sum(axis=1) * share[:, :1]
    return x, score, gradient, scores[:, 0]


def score_of_one_class_of_a_mixture(f: Functions, draw: Draw):
    _, score, gradient, of_class = mixture(draw)
    return f.classifier_guidance(draw.array(score), draw.array(gradient)), of_class, 10.0


def gradient_of_the_mixture_s_own_classifier(f: Functions, draw: Draw):
    _, score, gradient, of_class = mixture(draw)
    return f.implicit_classifier(draw.array(of_class), draw.array(score)), gradient, 10.0


def noise_in_one_class_of_a_mixture(f: Functions, draw: Draw):
    level = draw.number(0.1, 0.9)
    _, score, gradient, of_class = mixture(draw, noise=1 - level)
    root = math.sqrt(1 - level)
    got = f.classifier_guidance_eps(draw.array(-root * score), draw.array(gradient), level)
    return got, -root * of_class, 10.0


def mean_of_a_tilted_gaussian(f: Functions, draw: Draw):
    """E[x exp(s g x)] / E[exp(s g x)] of N(mu, Sigma), by Gauss-Hermite quadrature."""
    mean, slope = draw.normal(5), draw.normal(5)
    variance, scale = draw.number(0.1, 0.5), draw.number(0.0, 3.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x = to_host(mean)[:, None] + math.sqrt(variance) * nodes
    tilted = weights * np.exp(scale * to_host(slope)[:, None] * (x - to_host(mean)[:, None]))
    want = (tilted * x).sum(axis=1) / tilted.sum(axis=1)
    return f.classifier_guidance_mean(mean, variance, slope, scale), want, 4.0


def joint_gaussian_has_the_textbook_conditionals(f: Functions, draw: Draw):
    """Against conditional mean and covariance, for which only blocks of the covariance count."""
    factor, z = draw.stream.standard_normal((5, 5)), draw.stream.standard_normal((4, 5))
    cov, size = factor @ factor.T + np.eye(5), draw.integer(1, 4)
    joint = draw.array(-np.linalg.solve(cov, z.T).T)

    def score(a, b):
        gain = np.linalg.solve(cov[b, b], cov[b, a]).T
        inner = cov[a, a] - gain @ cov[b, a]
        return -np.linalg.solve(inner, (z[:, a] - z[:, b] @ gain.T).T).T

    x, y = slice(0, size), slice(size, 5)
    got = f.conditional_scores(joint, size)
    return np.concatenate([to_host(g) for g in got], axis=1), np.concatenate(
        [score(x, y), score(y, x)], axis=1
    )


def known_part_is_diffused_data_unknown_part_stays(f: Functions, draw: Draw):
    x, known, eps, level = (
        draw.normal(3, 4),
        draw.normal(3, 4),
        draw.normal(3, 4),
        draw.number(0, 1),
    )
    mask = draw.array(draw.stream.integers(0, 2, (3, 4)))
    noised = math.sqrt(level) * to_host(known) + math.sqrt(1 - level) * to_host(eps)
    want = np.where(to_host(mask) == 1, to_host(x), noised)
    return f.replace_known(x, known, mask, level, eps), want, 4.0


IDENTITIES = [
    Identity("classifier_free_guidance", "the definition at 0, 1 and s", ends_and_extrapolates, 5),
    Identity("classifier_free_guidance", "linearity", commutes_with_the_prediction_type, 9,
             ("x0_from_eps",)),
    Identity("classifier_free_guidance", "products of Gaussians", score_of_the_sharpened_posterior,
             3),
    Identity("rescale_guidance", "numpy.std", contrast_is_the_conditional_one, 12),
    Identity("rescale_guidance", "linearity in phi", mixes_linearly, 4),
    Identity("classifier_guidance", "Bayes' rule in a mixture", score_of_one_class_of_a_mixture, 8),
    Identity("implicit_classifier", "Bayes' rule in a mixture",
             gradient_of_the_mixture_s_own_classifier, 16),
    Identity("classifier_guidance_eps", "Bayes' rule in a mixture", noise_in_one_class_of_a_mixture,
             2),
    Identity("classifier_guidance_mean", "Gauss-Hermite quadrature", mean_of_a_tilted_gaussian, 8),
    Identity("conditional_scores", "the conditional Gaussian",
             joint_gaussian_has_the_textbook_conditionals, 24),
    Identity("replace_known", "numpy.where", known_part_is_diffused_data_unknown_part_stays, 2),
]  # fmt: skip
