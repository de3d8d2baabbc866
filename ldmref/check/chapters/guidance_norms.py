"""Guidance by norms and projections: CFG-Zero*, renormalised, tangential and magnitude-aware."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host

chapter = Chapter("guidance")


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
