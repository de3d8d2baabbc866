"""Guidance along several directions: thresholds, projections, and a worse model."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host

chapter = Chapter("guidance")


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
