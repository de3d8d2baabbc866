"""Editing by flows: RF inversion's controls and FlowEdit, where the result is known exactly."""

from __future__ import annotations

from ldmref.check.batches import NormalImages, batch_law
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser

chapter = Chapter("samplers")


def gaussian(mean: Array, variance: float) -> Denoiser:
    """Return the exact denoiser of N(mean, variance) on the path of flow matching."""

    def denoise(x: Array, s: float) -> Array:
        gain = (1.0 - s) * variance / ((1.0 - s) ** 2 * variance + s * s)
        return mean + gain * (x - (1.0 - s) * mean)

    return denoise


# Roundings: 30 a step, of noise and data up to 8, in four steps.
@chapter.identity("flow_edit", "two Gaussians of one variance", 120)
def data_move_by_the_difference_of_the_means(f: Functions, rng: RandomInputs) -> Comparison:
    """Move by m' - m: the noise cancels, from pure noise in any number of steps."""
    x, source, target = rng.normals(3, 2, 4)
    variance = rng.number(0.3, 2.0)
    sigmas = [1.0, rng.number(0.6, 0.9), rng.number(0.2, 0.5), 0.1, 0.0]
    models = gaussian(source, variance), gaussian(target, variance)
    got = list(f.flow_edit(*models, x, sigmas, lambda: rng.normal(2, 4), 2))[-1].x
    return got, to_host(x) + (to_host(target) - to_host(source)), 8.0


# Roundings: 12 here, 14 in the oracle, of velocities up to 30.
@chapter.identity("toward_data", "the controlled velocity", 26)
def velocity_is_mixed_with_that_towards_the_data(f: Functions, rng: RandomInputs) -> Comparison:
    x, x0, data = rng.normals(3, 2, 4)
    s = rng.number(0.2, 0.9)
    strength = rng.number(0.0, 1.0)
    mixed = f.toward_data(lambda x, s: x0, data, strength)(x, s)
    velocity, wanted = ((to_host(x) - to_host(z)) / s for z in (x0, data))
    return (to_host(x) - to_host(mixed)) / s, velocity + strength * (wanted - velocity), 20.0


# Roundings: 16 here, 14 in the oracle, of velocities up to 60.
@chapter.identity("toward_noise", "the controlled velocity", 30, amplified=4)
def velocity_is_mixed_with_that_towards_the_noise(f: Functions, rng: RandomInputs) -> Comparison:
    x, x0, noise = rng.normals(3, 2, 4)
    s = rng.number(0.2, 0.8)
    strength = rng.number(0.0, 1.0)
    mixed = f.toward_noise(lambda x, s: x0, noise, strength)(x, s)
    velocity = (to_host(x) - to_host(x0)) / s
    wanted = (to_host(noise) - to_host(x)) / (1.0 - s)
    return (to_host(x) - to_host(mixed)) / s, velocity + strength * (wanted - velocity), 40.0


def edit_images(f: Functions, x: Array) -> Array:
    """Edit images with noise that is a function of the pixel."""
    models = gaussian(0.0, 1.0), gaussian(1.0, 0.5)
    return list(f.flow_edit(*models, x, [1.0, 0.5, 0.0], lambda: 0.5 * x))[-1].x


def move_toward_data(f: Functions, x: Array, data: Array) -> Array:
    """Denoise images towards data."""
    return f.toward_data(gaussian(0.0, 1.0), data, 0.3)(x, 0.5)


def move_toward_noise(f: Functions, x: Array, noise: Array) -> Array:
    """Denoise images towards noise."""
    return f.toward_noise(gaussian(0.0, 1.0), noise, 0.3)(x, 0.5)


# Roundings: 30 a step, twice.
image = NormalImages()
batch_law(chapter, "flow_edit", 120, call=edit_images, x=image)
# Roundings: 16, twice.
batch_law(chapter, "toward_data", 32, call=move_toward_data, x=image, data=image)
batch_law(chapter, "toward_noise", 32, call=move_toward_noise, x=image, noise=image)
