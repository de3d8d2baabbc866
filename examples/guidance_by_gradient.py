"""Guidance by a gradient: an image whose colours lie where you say, from a model that reads words.

A loss of the predicted image takes the place of the classifier in classifier guidance. Here it asks
that the image, at 4 x 4 pixels, be a given one: p(y | x) = N(y; A(x0(x)), s^2), with A the mean over
blocks of the decoded image. Its gradient with respect to x goes through the decoder and the U-Net.

    python examples/guidance_by_gradient.py

Needs PyTorch. Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4; the likelihood through
the predicted x0 is that of Chung et al. 2022, arXiv:2209.14687, eq. 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import ldmref
from ldmref import samplers

BLOCKS = 4  # the image that is asked for has 4 x 4 pixels


def blocks(images: Any) -> Any:
    """The means of BLOCKS x BLOCKS blocks, (n, 3, BLOCKS, BLOCKS), of images (n, 3, h, w)."""
    n, c, h, w = images.shape
    parts = images.reshape(n, c, BLOCKS, h // BLOCKS, BLOCKS, w // BLOCKS)
    return parts.mean((3, 5))


def guided(
    denoise: samplers.Denoiser, loss: Callable[[Any], Any], scale: float
) -> samplers.Denoiser:
    """A denoiser of p(x) exp(-scale loss(x0(x))), from a differentiable one of p(x).

    The score gains -scale grad loss, so x0 = x + sigma^2 score moves by sigma^2 times that.
    """

    def denoise_guided(x: Any, sigma: float) -> Any:
        x = x.detach().requires_grad_()
        x0 = denoise(x, sigma)
        loss(x0).sum().backward()
        return (x0 - scale * sigma**2 * x.grad).detach()

    return denoise_guided


def generate(prompt: str, target: np.ndarray, scale: float, seed: int = 1, steps: int = 12) -> Any:
    """An image (1, 3, h, w) in [-1, 1], near a target (3, BLOCKS, BLOCKS) in its blocks."""
    model = ldmref.load(backend="torch").differentiable()
    wanted = model.backend.asarray(target)
    loss = lambda x0: (blocks(model.decode(x0)) - wanted).square().sum()  # noqa: E731
    denoise = guided(ldmref.denoiser(model, prompt, grad=True), loss, scale)

    sampler = samplers.get_sampler("ddim")
    schedule = samplers.make_schedule(model.config.scheduler, sampler, "karras", steps)
    shape = model.latent_shape(model.config.defaults.width, model.config.defaults.height)
    noise = samplers.noise.Streams([seed], shape)()
    x = model.backend.asarray(noise * schedule.init_noise_sigma)
    *_, last = samplers.sample(denoise, x, schedule.sigmas, sampler.make())
    return model.decode(last.x0).detach()


def main() -> tuple[float, float]:
    """Sample without and with guidance; return how far the blocks are from the target."""
    ...


if __name__ == "__main__":
    main()
