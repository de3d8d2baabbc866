"""DDPM's objective and its algorithms for batches of images."""

from __future__ import annotations

from ldmref.check.batches import Constant, NormalImages, PerExample, Steps, UniformImages, batch_law
from ldmref.check.identity import Chapter, Functions
from ldmref.math.arrays import Array

chapter = Chapter("objective")
image = NormalImages()
now = PerExample(0.1, 0.5)
before = PerExample(0.6, 0.9)
beta = PerExample(0.1, 0.5)

# Roundings: 8 of two alpha-bars, and 4 of values up to the scale, twice.
batch_law(chapter, "posterior_variance", 24, alpha_bar=now, alpha_bar_prev=before)
batch_law(chapter, "elbo_weight", 24, size=20.0, alpha_bar=now, alpha_bar_prev=before)
batch_law(
    chapter,
    "eps_weight",
    24,
    size=20.0,
    beta=beta,
    variance=PerExample(0.1, 1.0),
    alpha_bar=now,
)
# Roundings: 6 of two logarithms up to 3, 4 of the mean, twice.
batch_law(
    chapter,
    "learned_range_logvar",
    20,
    v=UniformImages(-1.5, 1.5),
    beta=PerExample(0.2, 0.5),
    beta_tilde=PerExample(0.05, 0.1),
)
# Roundings: 6 of squares up to 16 and of the logarithm, twice.
batch_law(chapter, "prior_kl", 12, size=16.0, x0=image, alpha_bar=now)
# Roundings: 12 of squared distances, up to 16, times a difference of SNRs up to 9, twice.
batch_law(
    chapter,
    "denoising_kl",
    24,
    size=300.0,
    x0=image,
    x0_pred=image,
    alpha_bar=now,
    alpha_bar_prev=before,
)
# Roundings: 7 of values up to 4, twice.
batch_law(chapter, "training_pair", 16, x0=image, alpha_bar=now, eps=image, prediction_type="v")
# Roundings: 8 of coefficients up to 3, and 6 of values up to 4, twice.
batch_law(
    chapter,
    "ddpm_step",
    28,
    size=12.0,
    xt=image,
    eps=image,
    beta=beta,
    alpha_bar=now,
    sigma=PerExample(0.1, 1.0),
    z=image,
)
# Roundings: 3 of two coefficients, 4 of values up to 4, and 18 of the mean of squares, twice.
batch_law(
    chapter,
    "training_loss",
    50,
    size=16.0,
    predict=lambda xt, t: 0.5 * xt,
    x0=image,
    t=Steps(3),
    eps=image,
    alphas_cumprod=Constant([0.9, 0.6, 0.3]),
)
# Roundings: as `denoising_kl`; 8 of the Gaussian's density at the first step.
batch_law(
    chapter,
    "bound_term",
    40,
    size=300.0,
    call=lambda f, *arguments: f.bound_term(*arguments, "fixed_small", None, f.normal_log_density),
    x0=image,
    x0_pred=image,
    t=Steps(3),
    alphas_cumprod=Constant([0.9, 0.6, 0.3]),
    uses=("normal_log_density",),
)


def whole_bound(f: Functions, x0: Array, noise: Array, alphas_cumprod: Array) -> list[Array]:
    """Return all terms of the bound, with the same noise at every step."""
    denoise, noises = lambda xt, t: 0.5 * xt, lambda: noise
    decoder = f.normal_log_density
    bound = f.variational_bound(x0, alphas_cumprod, denoise, noises, "fixed_large", decoder)
    return [bound.prior, *(bound.denoising[t, ...] for t in range(2)), bound.reconstruction]


# Roundings: as `bound_term`, and sums of 16 pixels, twice.
batch_law(
    chapter,
    "variational_bound",
    64,
    size=1000.0,
    call=whole_bound,
    x0=image,
    noise=image,
    alphas_cumprod=Constant([0.9, 0.6, 0.3]),
    uses=("normal_log_density",),
)


def last_state(f: Functions, x: Array, noise: Array, betas: Array) -> Array:
    """Return the last state of the sampler, with the same noise at every step."""
    return [*f.ddpm_sample(lambda xt, t: 0.5 * xt, x, betas, lambda: noise)][-1]


# Roundings: 8 in each of three steps, twice.
batch_law(
    chapter,
    "ddpm_sample",
    48,
    call=last_state,
    x=image,
    noise=image,
    betas=Constant([0.1, 0.2, 0.3]),
)
