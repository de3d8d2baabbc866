"""The adversarial and perceptual terms of first stages, and their gradients."""

from __future__ import annotations

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("autoencoders")


# Roundings: 4 on each side, of terms up to 8 of a scale of 10.
@chapter.identity(
    "hinge_discriminator_loss", "the absolute value", 8, uses=("hinge_generator_loss",)
)
@chapter.identity(
    "hinge_generator_loss", "the absolute value", 8, uses=("hinge_discriminator_loss",)
)
def positive_part_by_the_absolute_value(f: Functions, rng: RandomInputs) -> Comparison:
    """max(0, a) = (a + |a|) / 2; the generator's loss is the linear part of the fake's."""
    real = rng.uniform(-3, 3, 4)
    fake = rng.uniform(-3, 3, 4)
    a = 1 - to_host(real)
    b = 1 + to_host(fake)
    got = {
        "hinge_discriminator_loss": f.hinge_discriminator_loss(real, fake),
        "hinge_generator_loss": f.hinge_generator_loss(fake),
    }
    return got, [(a + abs(a) + b + abs(b)) / 2, 1 - b], 10.0


# Roundings: 5 of logarithms on each side; those of the probabilities count a tenth.
@chapter.identity("log_discriminator_loss", "probabilities", 10, uses=("log_generator_loss",))
@chapter.identity("log_generator_loss", "probabilities", 10, uses=("log_discriminator_loss",))
def logarithms_of_probabilities(f: Functions, rng: RandomInputs) -> Comparison:
    """Compute each probability by an exponential: 1 - p loses the digits of a small one."""
    real = rng.uniform(-5, 5, 4)
    fake = rng.uniform(-5, 5, 4)
    real_passes, fake_passes = (1 / (1 + np.exp(-to_host(logit))) for logit in (real, fake))
    fake_fails = 1 / (1 + np.exp(to_host(fake)))
    got = {
        "log_discriminator_loss": f.log_discriminator_loss(real, fake),
        "log_generator_loss": f.log_generator_loss(fake),
    }
    return got, [-np.log(real_passes * fake_fails), -np.log(fake_passes)], 10.0


# Roundings: 6 in each norm of 6 numbers, 4 of the ratio.
@chapter.identity("adaptive_weight", "unit vectors", 16)
def ratio_of_known_lengths(f: Functions, rng: RandomInputs) -> Comparison:
    """Clip gradients of known length in random directions, below and above the maximum.

    A discriminator that is fooled completely has no gradient: the weight is the maximum.
    """
    a = rng.number(0.5, 2)
    b = rng.number(0.5, 2)
    directions = [rng.orthonormal(6, 1).reshape(1, 2, 3) for _ in range(2)]
    gradients = [rng.array(length * u) for length, u in zip((a, b), directions, strict=True)]
    got = {
        "weight": f.adaptive_weight(*gradients, 0.25),
        "weight above the maximum": f.adaptive_weight(*gradients, 0.25, 0.125),
        "weight without adversarial gradient": f.adaptive_weight(gradients[0], 0 * gradients[1]),
    }
    return got, [a / (b + 0.25), 0.125, 1e4], 4.0


# Roundings: 8 of each unit vector, doubled by the square, half on average; 8 in the oracle.
@chapter.identity("feature_distance", "the angle between the vectors", 24)
def law_of_cosines_for_unit_vectors(f: Functions, rng: RandomInputs) -> Comparison:
    """|u - v|^2 = 2 - 2 cos(u, v), averaged over pixels."""
    x, y = rng.normals(2, 2, 5, 2, 3)
    a, b = (np.moveaxis(to_host(z), 1, -1) for z in (x, y))
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines = (a * b).sum(axis=-1) / lengths
    return f.feature_distance(x, y), (2 - 2 * cosines).mean(axis=(1, 2)), 4.0


# Roundings: the weight 6, each of the two gradients 3; their sum, of a scale of 10.
@chapter.identity("adaptive_weight", "the two gradients, by hand", 12, gradients=True)
def gradient_of_the_weighted_sum_is_balanced(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that the weight is a constant of the total loss: its gradient is not followed."""
    w, target, direction = rng.normals(3, 3, 4)
    one = rng.array(1.0)

    def reconstruction(w: Array) -> Array:
        return rng.xp.sum((w - target) ** 2)

    def adversarial(w: Array) -> Array:
        return -rng.xp.sum(w * direction)

    parts = [rng.gradients(loss, one, w)[0] for loss in (reconstruction, adversarial)]
    weight = f.adaptive_weight(*parts, 0.25)
    (got,) = rng.gradients(lambda w: reconstruction(w) + weight * adversarial(w), one, w)
    first = 2 * (to_host(w) - to_host(target))
    second = -to_host(direction)
    ratio = np.linalg.norm(first) / (np.linalg.norm(second) + 0.25)
    return got, first + ratio * second, 10.0


# Below, roundings of function and oracle: about three times as many as in the values.


@chapter.gradient("hinge_discriminator_loss", 2)
def the_hinge(f: Functions, rng: RandomInputs) -> tuple:
    def positive(a):
        return np.where(a.real > 0, a, 0)

    inputs = {"real": rng.uniform(-3, 3, 4), "fake": rng.uniform(-3, 3, 4)}
    return f.hinge_discriminator_loss, inputs, lambda r, x: positive(1 - r) + positive(1 + x)


@chapter.gradient("hinge_generator_loss", 2)
def the_linear_part(f: Functions, rng: RandomInputs) -> tuple:
    return f.hinge_generator_loss, {"fake": rng.uniform(-3, 3, 4)}, lambda fake: -fake


@chapter.gradient("log_discriminator_loss", 16)
def the_cross_entropy_of_the_discriminator(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"real": rng.uniform(-5, 5, 4), "fake": rng.uniform(-5, 5, 4)}

    def formula(real, fake):
        return np.log(1 + np.exp(-real)) + np.log(1 + np.exp(fake))

    return f.log_discriminator_loss, inputs, formula, 4.0


@chapter.gradient("log_generator_loss", 16)
def the_cross_entropy_of_the_generator(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"fake": rng.uniform(-5, 5, 4)}
    return f.log_generator_loss, inputs, lambda fake: np.log(1 + np.exp(-fake)), 4.0


@chapter.gradient("feature_distance", 32)
def the_distance_of_unit_vectors(f: Functions, rng: RandomInputs) -> tuple:
    def unit(x):
        return x / np.sqrt((x * x).sum(axis=1, keepdims=True))

    x, y = rng.normals(2, 2, 5, 2, 3)

    def formula(x, y):
        return ((unit(x) - unit(y)) ** 2).sum(axis=1).mean(axis=(1, 2))

    return f.feature_distance, {"x": x, "y": y}, formula, 4.0


# -- mistakes --------------------------------------------------------------------------------------


def lengths(reconstruction: Array, adversarial: Array) -> tuple[float, float]:
    """Return the lengths of both gradients."""
    return float(np.linalg.norm(reconstruction)), float(np.linalg.norm(adversarial))


def ratio_of_squares(a: Array, b: Array, delta: float = 1e-6, maximum: float = 1e4) -> Array:
    """Divide squared lengths."""
    one, two = lengths(a, b)
    return np.minimum(one**2 / (two**2 + delta), maximum)


def ratio_without_maximum(a: Array, b: Array, delta: float = 1e-6, maximum: float = 1e4) -> Array:
    """Divide lengths without a limit."""
    one, two = lengths(a, b)
    return np.asarray(one / (two + delta))


chapter.known_mistakes(
    "adaptive_weight",
    {
        "squared lengths are divided: the roots are missing": ratio_of_squares,
        "the ratio is not limited by maximum": ratio_without_maximum,
    },
)
