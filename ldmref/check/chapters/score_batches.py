"""Diffusions in continuous time, their steps and their likelihoods, for batches of images."""

from __future__ import annotations

from collections.abc import Callable

from ldmref.check.batches import Constant, NormalImages, PerExample, batch_law
from ldmref.check.identity import Chapter, Functions
from ldmref.math.arrays import Array

chapter = Chapter("score")
image = NormalImages()
late = PerExample(0.6, 1.0)
early = PerExample(0.1, 0.5)
sigma = PerExample(0.3, 3.0)


def score(x: Array, t: Array) -> Array:
    """Return a score that is no constant and needs no reshaped time."""
    return -0.3 * x  # with -0.5, the drift of the reverse process is 0


def of_field(name: str) -> Callable[..., Array]:
    """Return a call of the field that the function makes from VP's process and the score."""
    return lambda f, x, t: getattr(f, name)(f.VPSDE(), score)(x, t)


# Roundings: 4 of values up to 12, and 8 of the coefficients of the process, twice.
batch_law(
    chapter,
    "probability_flow",
    24,
    size=60.0,
    call=of_field("probability_flow"),
    x=image,
    t=late,
    uses=("VPSDE",),
)
batch_law(
    chapter,
    "reverse_sde",
    24,
    size=100.0,
    call=lambda f, x, t: f.reverse_sde(f.VPSDE(), score)[0](x, t),
    x=image,
    t=late,
    uses=("VPSDE",),
)
batch_law(
    chapter,
    "sde_score",
    32,
    size=20.0,
    call=lambda f, x, t: f.sde_score(f.VPSDE(), lambda y, s: 0.5 * y)(x, t),
    x=image,
    t=late,
    uses=("VPSDE",),
)
batch_law(
    chapter,
    "sigma_flow",
    8,
    size=12.0,
    call=lambda f, x, s: f.sigma_flow(lambda y, s: 0.5 * y)(x, s),
    x=image,
    sigma=sigma,
)
# Roundings: 3 of values up to the scale, twice.
batch_law(chapter, "denoised_from_score", 8, size=40.0, x=image, score=image, sigma=sigma)
batch_law(chapter, "score_from_denoised", 8, size=60.0, x=image, denoised=image, sigma=sigma)


def step_of(name: str) -> Callable[..., Array]:
    """Return a call of a sampler's step under VP."""
    return lambda f, *arguments: getattr(f, name)(f.VPSDE(), score, *arguments)


# Roundings: exponents up to 10 are rounded; 20 of the transition's factors, twice.
for name in ("reverse_diffusion_step", "ancestral_step"):
    batch_law(
        chapter,
        name,
        60,
        size=60.0,
        call=step_of(name),
        x=image,
        t=late,
        t_next=early,
        noise=image,
        uses=("VPSDE",),
    )
batch_law(
    chapter,
    "euler_maruyama",
    20,
    size=12.0,
    drift=score,
    diffusion=lambda t: 1.0 + t,
    x=image,
    t=late,
    t_next=early,
    noise=image,
)
batch_law(
    chapter, "langevin_step", 14, size=12.0, x=image, gradient=image, noise=image, step_size=early
)
# Roundings: two norms of 16 numbers, 12 each, doubled by the square, twice.
batch_law(
    chapter, "langevin_step_size", 100, size=1.0, gradient=image, noise=image, snr=0.16, alpha=late
)
# Roundings: 4 of each of four slopes and 6 of a step, twice.
batch_law(
    chapter,
    "integrate_rk4",
    44,
    velocity=lambda x, t: x * t,
    x=image,
    times=(0.0, 0.5),
)
# Roundings: 4 of two values up to 8, divided by the step, of float32 1/200.
batch_law(
    chapter,
    "directional_derivative",
    8,
    size=4000.0,
    velocity=lambda x, t: x * t,
    x=image,
    t=0.5,
    direction=image,
)


def product(velocity: Array, x: Array, t: float, v: Array) -> Array:
    """Return J v of the field x^2."""
    return 2.0 * x * v


# Roundings: 24 of a sum of 16 products, twice.
batch_law(
    chapter, "exact_divergence", 48, size=32.0, velocity=None, x=image, t=0.5, derivative=product
)
batch_law(
    chapter,
    "hutchinson_divergence",
    64,
    size=64.0,
    call=lambda f, x, v: f.hutchinson_divergence(None, x, 0.5, v[None, ...], product),
    x=image,
    probe=image,
)
# Roundings: 20 in each of two steps and 40 of the prior's sum of squares, twice.
batch_law(
    chapter,
    "flow_log_likelihood",
    160,
    size=64.0,
    velocity=lambda x, t: x * t,
    divergence=lambda x, t: 16.0 * t + 0.0 * x[(slice(None), *(0 for _ in x.shape[1:]))],
    log_prior=Constant(lambda x: -0.5 * (x * x).reshape((x.shape[0], -1)).sum(-1)),
    x=image,
    times=(0.0, 0.5),
)


def first_state(f: Functions, x: Array, noise: Array) -> Array:
    """Return the first state of the sampler, with the same noise in predictor and corrector."""
    return next(f.predictor_corrector(f.VPSDE(), score, x, [1.0, 0.5], lambda: noise))


# Roundings: 60 of a step, 24 of the norms in the size of the corrector's step, twice.
batch_law(
    chapter,
    "predictor_corrector",
    160,
    size=60.0,
    call=first_state,
    x=image,
    noise=image,
    uses=("VPSDE",),
)
