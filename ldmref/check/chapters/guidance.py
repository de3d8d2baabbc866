"""Guidance, conditioning by Bayes' rule, several directions and norms; also of batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ldmref.check.batches import NormalImages, PerExample, UniformImages, batch_law
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

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


# -- directions ------------------------------------------------------------------------------------


# Roundings: 3 of the interpolation on each side.
@chapter.identity("magnitude_quantile", "numpy.quantile", 6)
def quantile_of_the_magnitudes(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.normal(3, 2, 4)
    ratio = rng.number(0.0, 1.0)
    expected = np.quantile(np.abs(to_host(x)).reshape(3, -1), ratio, axis=1)
    return f.magnitude_quantile(x, ratio), expected


# Roundings: 3 of the quantile, a quotient and a product, on each side.
@chapter.identity("dynamic_threshold", "numpy.quantile and numpy.clip", 10)
def clips_at_the_quantile_and_divides_by_it(f: Functions, rng: RandomInputs) -> Comparison:
    x0 = rng.normal(3, 2, 4) * rng.number(0.2, 5.0)
    ratio = rng.number(0.5, 1.0)
    bound = rng.number(0.5, 2.0)
    expected = []
    for one in to_host(x0):
        s = max(np.quantile(np.abs(one), ratio), bound)
        expected.append(np.clip(one, -s, s) / s * bound)
    return f.dynamic_threshold(x0, ratio, bound), np.stack(expected), bound


# Roundings: 8 of each of two sums of 8 products, 3 more, and the same in the oracle, of an x of
# norm up to 5.
@chapter.identity("parallel_part", "numpy.linalg.lstsq", 38)
def least_squares_on_the_direction(f: Functions, rng: RandomInputs) -> Comparison:
    x, direction = rng.normals(2, 2, 2, 4)
    expected = []
    for one, d in zip(to_host(x), to_host(direction), strict=True):
        column = d.reshape(-1, 1)
        expected.append((column @ np.linalg.lstsq(column, one.reshape(-1))[0]).reshape(d.shape))
    return f.parallel_part(x, direction), np.stack(expected), 5.0


# Roundings: 19 of a projection and 6 more on each side, of differences of norm up to 7 times a
# scale up to 8 and a weight up to 2.
@chapter.identity("perpendicular_negative_guidance", "orthonormal basis by numpy.linalg.qr", 50)
def negative_part_is_perpendicular(f: Functions, rng: RandomInputs) -> Comparison:
    empty, cond, negative = rng.normals(3, 2, 8)
    scale = rng.number(0.0, 8.0)
    weight = rng.number(0.0, 2.0)
    expected = []
    for u, c, n in zip(*map(to_host, (empty, cond, negative)), strict=True):
        basis = np.linalg.qr(np.stack([c - u, n - u], axis=1))[0]
        perpendicular = basis[:, 1] * (basis[:, 1] @ (n - u))
        expected.append(u + scale * ((c - u) - weight * perpendicular))
    got = f.perpendicular_negative_guidance(empty, cond, negative, scale, weight)
    return got, np.stack(expected), 112.0


# Roundings: 3 of terms up to 80 on each side, of a scale of 40.
@chapter.identity(
    "perturbed_attention_guidance",
    "classifier-free guidance",
    12,
    uses=("classifier_free_guidance",),
)
def worse_model_takes_the_place_of_the_unconditional(f: Functions, rng: RandomInputs) -> Comparison:
    """Against the conditional prediction alone, it is guidance of scale 1 + s."""
    cond, worse = rng.normals(2, 2, 6)
    scale = rng.number(0.0, 8.0)
    got = f.perturbed_attention_guidance(cond, cond, worse, scale)
    return got, f.classifier_free_guidance(worse, cond, 1.0 + scale), 40.0


# Roundings: 4 of terms up to 80, 19 of a projection that is taken away and added again, and 3 in
# the oracle, of a scale of 40.
@chapter.identity(
    "adaptive_projected_guidance",
    "classifier-free guidance",
    26,
    uses=("classifier_free_guidance",),
)
def eta_one_is_classifier_free_guidance(f: Functions, rng: RandomInputs) -> Comparison:
    uncond, cond = rng.normals(2, 2, 6)
    scale = rng.number(0.0, 8.0)
    got, _ = f.adaptive_projected_guidance(uncond, cond, scale, 1.0)
    return got, f.classifier_free_guidance(uncond, cond, scale), 40.0


# Roundings: 8 of a norm, 19 of a projection and 7 more on each side, of terms up to 80, of a scale
# of 40.
@chapter.identity("adaptive_projected_guidance", "algorithm 1, example by example", 136)
def algorithm_one_with_momentum(f: Functions, rng: RandomInputs) -> Comparison:
    uncond, cond, average = rng.normals(3, 2, 8)
    scale = rng.number(0.0, 8.0)
    eta = rng.number(0.0, 1.0)
    radius = rng.number(0.5, 6.0)
    momentum = rng.number(-0.9, 0.9)
    guided = []
    averages = []
    for u, c, a in zip(*map(to_host, (uncond, cond, average)), strict=True):
        difference = c - u + momentum * a
        averages.append(difference)
        limited = difference * min(1.0, radius / math.sqrt(difference @ difference))
        unit = c / np.linalg.norm(c)
        parallel = (limited @ unit) * unit
        guided.append(c + (scale - 1.0) * (limited - parallel + eta * parallel))
    got = f.adaptive_projected_guidance(uncond, cond, scale, eta, radius, momentum, average)
    return list(got), [np.stack(guided), np.stack(averages)], 40.0


# -- norms -----------------------------------------------------------------------------------------


# Roundings: 24 of a projection and 4 more on each side, of norms up to 6 times a scale up to 8.
@chapter.identity("zero_star_guidance", "numpy.linalg.lstsq", 56)
def least_squares_fit_of_the_unconditional(f: Functions, rng: RandomInputs) -> Comparison:
    uncond, cond = rng.normals(2, 2, 8)
    scale = rng.number(0.0, 8.0)
    expected = []
    for u, c in zip(to_host(uncond), to_host(cond), strict=True):
        fitted = u * np.linalg.lstsq(u[:, None], c)[0]
        expected.append(fitted + scale * (c - fitted))
    return f.zero_star_guidance(uncond, cond, scale), np.stack(expected), 48.0


# Roundings: 3 of the scale of the velocity, 24 of a projection and 4 more, on both sides.
@chapter.identity("zero_star_guidance", "two Gaussians", 62, uses=("gaussian_flow_velocity",))
def velocities_of_wide_and_narrow_data(f: Functions, rng: RandomInputs) -> Comparison:
    """Guide between N(0, 1) and N(0, v), whose velocities differ in length only."""
    xs = rng.normal(3, 6)
    s = rng.number(0.6, 0.9)
    variance = rng.number(0.1, 0.4)
    scale = rng.number(0.0, 8.0)
    uncond = f.gaussian_flow_velocity(xs, s, 0.0, 1.0)
    cond = f.gaussian_flow_velocity(xs, s, 0.0, variance)
    slope = (s - (1 - s) * variance) / ((1 - s) ** 2 * variance + s * s)
    return f.zero_star_guidance(uncond, cond, scale), slope * to_host(xs), 30.0


# Roundings: 9 in each of two norms and 3 more on each side.
@chapter.identity("renormalize_guidance", "numpy.linalg.norm", 42)
def norms_of_images_tokens_and_rows(f: Functions, rng: RandomInputs) -> Comparison:
    guided, cond = rng.normals(2, 2, 2, 2, 4)
    factor = rng.number(0.3, 2.0)
    got = {}
    expected = []
    for over, grow in (("image", False), ("image", True), ("token", True), ("row", True)):
        got[f"{over} {grow}"] = f.renormalize_guidance(guided, cond, over, factor, grow)
        want = np.array(to_host(guided))
        wanted = to_host(cond)
        for part in list_parts(over):
            ratio = factor * np.linalg.norm(wanted[part]) / np.linalg.norm(want[part])
            want[part] *= ratio if grow else min(ratio, 1.0)
        expected.append(want)
    return got, expected, 4.0


def list_parts(over: str) -> list[tuple[int | slice, ...]]:
    """Return the indices of the parts of images (2, 2, 2, 4) that have a norm."""
    every = slice(None)
    if over == "image":
        return [(i,) for i in range(2)]
    if over == "token":
        return [(i, every, every, slice(j, j + 2)) for i in range(2) for j in (0, 2)]
    return [(i, c, j) for i in range(2) for c in range(2) for j in range(2)]


# Roundings: 20 of an angle and 24 of a projection on each side, of an SVD in the oracle, of norms
# up to 6 times a scale up to 8. The singular values differ by a factor of 2 and more, which
# amplifies the angle by 4 / 3 at most.
@chapter.identity("tangential_guidance", "numpy.linalg.svd", 120, amplified=2)
def projection_on_the_first_singular_vector(f: Functions, rng: RandomInputs) -> Comparison:
    cond, other = rng.normals(2, 2, 8)
    uncond = 0.5 * cond + 0.25 * other
    scale = rng.number(0.0, 8.0)
    expected = []
    for u, c in zip(to_host(uncond), to_host(cond), strict=True):
        first = np.linalg.svd(np.stack([c, u]), full_matrices=False)[2][0]
        damped = (u @ first) * first
        expected.append(damped + scale * (c - damped))
    return f.tangential_guidance(uncond, cond, scale), np.stack(expected), 48.0


# Roundings: 20 of a ratio of norms up to 2 times the exponent, and 6 more, on each side.
@chapter.identity("magnitude_aware_guidance", "the definition, example by example", 92)
def scale_falls_with_the_relative_change(f: Functions, rng: RandomInputs) -> Comparison:
    uncond, cond = rng.normals(2, 2, 8)
    scale = rng.number(0.0, 8.0)
    strength = rng.number(0.1, 1.0)
    expected = []
    for u, c in zip(to_host(uncond), to_host(cond), strict=True):
        ratio = math.dist(c, u) / math.hypot(*u)
        expected.append(u + (1.0 + (scale - 1.0) * math.exp(-strength * ratio)) * (c - u))
    got = f.magnitude_aware_guidance(uncond, cond, scale, strength)
    return got, np.stack(expected), 30.0


# Roundings: 16 of two norms and 6 more, on each side, of outputs up to 30.
@chapter.identity("normalized_attention_guidance", "the definition, token by token", 44)
def guided_tokens_stay_near_the_positive_ones(f: Functions, rng: RandomInputs) -> Comparison:
    positive, negative = rng.normals(2, 2, 3, 6)
    scale = rng.number(0.0, 8.0)
    largest = rng.number(1.0, 3.0)
    blend = rng.number(0.0, 1.0)
    order = 1 if rng.number(0.0, 1.0) < 0.5 else 2
    expected = []
    for z, other in zip(
        to_host(positive).reshape(6, 6), to_host(negative).reshape(6, 6), strict=True
    ):
        guided = z * scale - other * (scale - 1.0)
        ratio = np.linalg.norm(guided, order) / np.linalg.norm(z, order)
        expected.append(blend * guided * min(ratio, largest) / ratio + (1.0 - blend) * z)
    got = f.normalized_attention_guidance(positive, negative, scale, largest, blend, order)
    return got, np.stack(expected).reshape(2, 3, 6), 15.0


# -- batches ---------------------------------------------------------------------------------------

image = NormalImages()
alpha_bar = PerExample(0.1, 0.9)


def guide_tokens(f: Functions, positive: Array, negative: Array, scale: float) -> Any:
    """Guide the pixels of each image as one token, so that a row is the same token alone."""
    tokens = [x.reshape((x.shape[0], 1, -1)) for x in (positive, negative)]
    return f.normalized_attention_guidance(*tokens, scale).reshape(positive.shape)


def guide_away_from_a_similar_one(f: Functions, other: Array, cond: Array, scale: float) -> Any:
    """Guide with predictions whose singular values differ, as those of a network do."""
    return f.tangential_guidance(0.5 * cond + 0.25 * other, cond, scale)


# Roundings: 3 of values up to the scale, twice.
batch_law(chapter, "classifier_free_guidance", 6, size=40.0, uncond=image, cond=image, scale=5.0)
batch_law(chapter, "classifier_guidance", 6, size=12.0, score=image, grad_log_p_y=image, scale=2.0)
batch_law(chapter, "implicit_classifier", 6, cond=image, uncond=image)
batch_law(
    chapter,
    "perturbed_attention_guidance",
    8,
    size=40.0,
    guided=image,
    cond=image,
    perturbed=image,
    scale=3.0,
)
# Roundings: 3 of the root of 1 - alpha-bar, 4 of values up to 12, twice.
batch_law(
    chapter,
    "classifier_guidance_eps",
    14,
    size=12.0,
    eps=image,
    grad_log_p_y=image,
    alpha_bar=alpha_bar,
    scale=2.0,
)
batch_law(
    chapter,
    "classifier_guidance_mean",
    8,
    size=12.0,
    mean=image,
    variance=UniformImages(0.1, 1.0),
    grad_log_p_y=image,
    scale=2.0,
)
# Roundings: 3 of the quantile, a quotient and a product, twice.
batch_law(
    chapter,
    "dynamic_threshold",
    12,
    x0=NormalImages(3.0),
    ratio=0.9,
    bound=PerExample(0.5, 2.0),
)
# Roundings: 8 in each of two standard deviations, 4 of the rest, twice.
batch_law(chapter, "rescale_guidance", 40, guided=image, cond=image, phi=0.7)
# Roundings: 24 of a projection on a direction of 16 numbers and 4 of the rest, twice.
batch_law(
    chapter,
    "perpendicular_negative_guidance",
    56,
    size=60.0,
    empty=image,
    cond=image,
    negative=image,
    scale=5.0,
    weight=1.0,
)
batch_law(chapter, "zero_star_guidance", 64, size=60.0, uncond=image, cond=image, scale=5.0)
# Roundings: 20 in each of two norms and 4 of the rest, twice.
batch_law(
    chapter,
    "renormalize_guidance",
    88,
    guided=image,
    cond=image,
    over="image",
    factor=0.8,
    grow=True,
)
batch_law(
    chapter,
    "normalized_attention_guidance",
    88,
    size=20.0,
    call=guide_tokens,
    positive=image,
    negative=image,
    scale=4.0,
)
batch_law(
    chapter,
    "magnitude_aware_guidance",
    88,
    size=12.0,
    uncond=image,
    cond=image,
    scale=5.0,
    strength=0.5,
)
# Roundings: 20 in each of two inner products and 8 of the rest, twice; the angle is amplified.
batch_law(
    chapter,
    "tangential_guidance",
    192,
    size=60.0,
    call=guide_away_from_a_similar_one,
    uncond=image,
    cond=image,
    scale=5.0,
)
batch_law(
    chapter,
    "adaptive_projected_guidance",
    64,
    size=60.0,
    uncond=image,
    cond=image,
    scale=5.0,
    eta=0.5,
    radius=3.0,
)
# Roundings: 3 of two roots and 4 of values up to 4, twice.
batch_law(
    chapter,
    "replace_known",
    14,
    x=image,
    known=image,
    mask=UniformImages(0.0, 1.0),
    alpha_bar=alpha_bar,
    eps=image,
)


# -- mistakes --------------------------------------------------------------------------------------


def contrast(x: Array, axes: tuple[int, ...] = ()) -> Array:
    """Return the standard deviation over all axes but the first, or over other ones."""
    return np.std(x, axis=axes or (*range(1, x.ndim),), keepdims=True)


# fmt: off
chapter.known_mistakes("conditional_scores", {
    "the last axis is cut; the axis of channels, 1, is meant":
        lambda joint, size: (joint[..., :size], joint[..., size:]),
})
chapter.known_mistakes("classifier_free_guidance", {
    "a scale of 1 or less gives cond; the formula holds for every scale":
        lambda uncond, cond, scale: uncond + scale * (cond - uncond) if scale > 1 else cond,
})
chapter.known_mistakes("rescale_guidance", {
    "the ratio of both deviations is upside down":
        lambda y, cond, phi: phi * contrast(y) / contrast(cond) * y + (1 - phi) * y,
    "the deviations are over the batch as well; each example has its own":
        lambda y, cond, phi: phi * np.std(cond) / np.std(y) * y + (1 - phi) * y,
    "the rescaled prediction is mixed with the conditional one; with the guided one is meant":
        lambda y, cond, phi: phi * contrast(cond) / contrast(y) * y + (1 - phi) * cond,
    "the deviations are over axis 1 alone; over all axes but the first is meant":
        lambda y, cond, phi: phi * contrast(cond, (1,)) / contrast(y, (1,)) * y + (1 - phi) * y,
})
# fmt: on
