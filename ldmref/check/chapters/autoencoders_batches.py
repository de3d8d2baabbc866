"""Losses, divergences and interpolation of batches of images."""

from __future__ import annotations

from ldmref.check.batches import NormalImages, PerExample, UniformImages, batch_law
from ldmref.check.identity import Chapter
from ldmref.math.arrays import Array

chapter = Chapter("autoencoders")
image = NormalImages()
logvar = UniformImages(-2.0, 2.0)
probability = UniformImages(0.05, 0.95)
logit = UniformImages(-3.0, 3.0)
nats = PerExample(-3.0, 0.0, plain=False)


def half(x: Array) -> Array:
    """Encode or decode, by a factor."""
    return 0.5 * x


# Roundings: 6 of the squares and 16 of their sum, twice.
batch_law(chapter, "squared_error", 44, size=32.0, x=image, reconstruction=image)
batch_law(chapter, "autoencoder_loss", 44, size=32.0, x=image, encode=half, decode=half)
batch_law(
    chapter, "denoising_loss", 44, size=32.0, x=image, corrupted=image, encode=half, decode=half
)
batch_law(chapter, "psnr", 50, size=60.0, x=image, reconstruction=image, peak=2.0)
batch_law(chapter, "gaussian_corruption", 4, x=image, noise=image, sigma=0.5)
batch_law(chapter, "l1_sparsity", 32, size=16.0, activation=image)
# Roundings: 16 of two logarithms or exponentials, twice.
batch_law(chapter, "kl_bernoulli", 32, p=probability, q=probability)
batch_law(
    chapter, "kl_normal", 32, size=100.0, mean1=image, logvar1=logvar, mean2=image, logvar2=logvar
)
batch_law(chapter, "kl_standard_normal", 24, size=16.0, mean=image, logvar=logvar)
batch_law(chapter, "reparameterize", 16, size=12.0, mean=image, logvar=logvar, noise=image)
batch_law(chapter, "normal_log_density", 24, size=100.0, x=image, mean=image, logvar=logvar)
# Roundings: as above, and 16 of a sum, twice.
batch_law(chapter, "gaussian_log_likelihood", 56, size=64.0, x=image, mean=image, variance=0.5)
batch_law(chapter, "bernoulli_log_likelihood", 56, size=32.0, x=probability, logits=logit)
batch_law(
    chapter,
    "log_importance_weight",
    80,
    size=300.0,
    log_likelihood=nats,
    z=image,
    mean=image,
    logvar=logvar,
)
batch_law(chapter, "elbo", 80, size=64.0, log_likelihood=nats, mean=image, logvar=logvar)
batch_law(
    chapter,
    "elbo_estimate",
    80,
    size=64.0,
    x=image,
    noise=image,
    encode=lambda x: (0.5 * x, 0.1 * x),
    log_likelihood=lambda x, z: -((x - z) ** 2).reshape((x.shape[0], -1)).sum(-1),
)
# Roundings: none, and one of a difference and of the sum, twice.
batch_law(chapter, "stop_gradient", 0, x=image)
batch_law(chapter, "straight_through", 4, z=image, quantised=image)
# Roundings: 5 of each of two logarithms or sums, twice.
for loss in ("hinge_generator_loss", "log_generator_loss"):
    batch_law(chapter, loss, 20, fake=logit)
for loss in ("hinge_discriminator_loss", "log_discriminator_loss"):
    batch_law(chapter, loss, 20, real=logit, fake=logit)
# Roundings: 2 of each product and 2 of the sum, twice; 60 of norms and of the angle.
batch_law(chapter, "lerp", 8, size=12.0, a=image, b=image, t=PerExample(-1.0, 2.0))
batch_law(chapter, "slerp", 160, size=12.0, a=image, b=image, t=PerExample(0.0, 1.0))
