"""Guidance and conditioning of batches of images."""

from __future__ import annotations

from typing import Any

from ldmref.check.batches import NormalImages, PerExample, UniformImages, batch_law
from ldmref.check.identity import Chapter, Functions
from ldmref.math.arrays import Array

chapter = Chapter("guidance")
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
