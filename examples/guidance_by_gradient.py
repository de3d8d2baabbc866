"""Guidance by a gradient: a heart becomes blue without the word, by a loss of its predicted image.

A likelihood of the predicted image takes the part of the classifier in classifier guidance,
log p(y | x) = -scale |A(x0(x)) - y|^2. Here A is the mean colour of the middle of the decoded
prediction, and y is blue. The gradient goes through the decoder and the U-Net.

    python examples/guidance_by_gradient.py

Needs PyTorch. Sources: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4; the likelihood at the
predicted x0, Chung et al. 2022, arXiv:2209.14687, eq. 10.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ldmref
from ldmref import samplers
from ldmref.errors import LdmrefError
from ldmref.io.images.pil import to_images
from ldmref.samplers.noise import Streams

BLUE = (-0.6, -0.2, 0.9)  # RGB from -1 to 1


def middle_colour(images: Any) -> Any:
    """The mean colour of the middle, (n, 3), of images (n, 3, h, w)."""
    h, w = images.shape[2:]
    return images[:, :, h // 4 : h * 3 // 4, w // 4 : w * 3 // 4].mean((2, 3))


def squared_distance(images: Any) -> Any:
    """The squared distance of the middle's colour from blue, (n,)."""
    return (middle_colour(images) - images.new_tensor(BLUE)).square().sum(1)


def guided(
    denoise: samplers.Denoiser,
    differentiable: samplers.Denoiser,
    log_likelihood: Callable[[Any], Any],
) -> samplers.Denoiser:
    """A denoiser of p(x) p(y | x).

    The score gains the gradient g of the log-likelihood, so x0 = x + sigma^2 score gains sigma^2 g.

    Args:
        denoise: of p(x); it may have classifier-free guidance.
        differentiable: whose x0 the likelihood is taken at; without guidance, because the Jacobian
            of the extrapolated x0 is not that of a posterior mean, and its gradient may point the
            other way.
        log_likelihood: of x0, (n,).
    """

    def denoise_guided(x: Any, sigma: float) -> Any:
        noisy = x.clone().requires_grad_()
        log_likelihood(differentiable(noisy, sigma)).sum().backward()
        return denoise(x, sigma) + sigma**2 * noisy.grad

    return denoise_guided


def generate(scale: float, prompt: str = "heart", seed: int = 1, steps: int = 10) -> Any:
    """An image (1, 3, h, w) in [-1, 1], blue in its middle if `scale` is not 0.

    A scale of 10 gives a blue heart; 30 and more a blue square, which fits the likelihood better.
    """
    model = ldmref.load(backend="torch").differentiable()
    ops = model.backend
    defaults = model.config.defaults
    denoise = guided(
        ldmref.denoiser(model, prompt),
        ldmref.denoiser(model, prompt, cfg_scale=1.0, grad=True),
        lambda x0: -scale * squared_distance(model.decode(x0)),
    )
    sampler = samplers.get_sampler("ddim")
    schedule = samplers.make_schedule(model.config.scheduler, sampler, "karras", steps)
    noise = Streams([seed], model.latent_shape(defaults.width, defaults.height))()
    x = ops.asarray(noise * schedule.init_noise_sigma)
    *_, last = samplers.sample(denoise, x, schedule.sigmas, sampler.make())
    return model.decode(last.x0).detach()


def main(scale: float = 10.0, steps: int = 10) -> tuple[float, float]:
    """Generate without and with guidance; return how far from blue the two are."""
    distances = []
    for name, strength in (("plain", 0.0), ("guided", scale)):
        image = generate(strength, steps=steps)
        distances.append(float(squared_distance(image)) ** 0.5)
        to_images(image.numpy())[0].save(f"{name}.png")
        print(f"{name}.png: the middle is {distances[-1]:.2f} from blue")
    return distances[0], distances[1]


if __name__ == "__main__":
    try:
        main()
    except LdmrefError as error:
        sys.exit(f"{error}; {error.hint}")
