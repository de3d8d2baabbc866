"""Guide sampling by the gradient of a loss: the prompt is "heart", and the heart becomes blue.

The classifier of classifier guidance is replaced by a likelihood of the predicted image,
log p(y | x) = -scale |A(x0(x)) - y|^2. Here A is the mean colour of the middle of the decoded
prediction, and y is blue. The gradient goes through the decoder and the U-Net.

    python examples/guidance_by_gradient.py

writes plain.png and guided.png. It needs PyTorch. Sources: Dhariwal and Nichol 2021,
arXiv:2105.05233, section 4; for the likelihood at the predicted x0, Chung et al. 2022,
arXiv:2209.14687, eq. 10.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ldmref
from ldmref import samplers
from ldmref.errors import LdmrefError
from ldmref.io import to_images
from ldmref.samplers import Streams

BLUE = (-0.6, -0.2, 0.9)  # RGB from -1 to 1


def middle_colour(images: Any) -> Any:
    """Return the mean colour of the middle, (n, 3), of images (n, 3, h, w)."""
    h, w = images.shape[2:]
    return images[:, :, h // 4 : h * 3 // 4, w // 4 : w * 3 // 4].mean((2, 3))


def squared_distance(images: Any) -> Any:
    """Return the squared distance of the middle's colour from blue, (n,)."""
    return (middle_colour(images) - images.new_tensor(BLUE)).square().sum(1)


def add_gradient_guidance(
    denoise: samplers.Denoiser,
    differentiable: samplers.Denoiser,
    log_likelihood: Callable[[Any], Any],
) -> samplers.Denoiser:
    """Return a denoiser of p(x) p(y | x).

    The gradient g of the log-likelihood is added to the score. Since x0 = x + sigma^2 score,
    sigma^2 g is added to x0.

    Args:
        denoise: Denoiser of p(x), with or without classifier-free guidance.
        differentiable: Denoiser that predicts the x0 at which the likelihood is evaluated. It has
            no guidance, because the Jacobian of an extrapolated x0 is not that of a posterior mean
            and its gradient may point in the opposite direction.
        log_likelihood: Function that returns the log-likelihood of x0, (n,).
    """

    def denoise_guided(x: Any, sigma: float) -> Any:
        noisy = x.clone().requires_grad_()
        log_likelihood(differentiable(noisy, sigma)).sum().backward()
        return denoise(x, sigma) + sigma**2 * noisy.grad

    return denoise_guided


def generate(scale: float, prompt: str = "heart", seed: int = 1, steps: int = 10) -> Any:
    """Generate an image (1, 3, h, w) in [-1, 1]; its middle is blue if `scale` is not 0.

    A scale of 10 gives a blue heart. A scale of 30 or more gives a blue square, which has a higher
    likelihood.
    """
    model = ldmref.load(backend="torch").differentiable()
    ops = model.backend
    defaults = model.config.defaults
    denoise = add_gradient_guidance(
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
    """Generate an image without and one with guidance; return their distances from blue."""
    distances = []
    for name, strength in (("plain", 0.0), ("guided", scale)):
        image = generate(strength, steps=steps)
        distances.append(float(squared_distance(image)) ** 0.5)
        to_images(image.numpy())[0].save(f"{name}.png")
        print(f"{name}.png: the distance of the middle from blue is {distances[-1]:.2f}")
    return distances[0], distances[1]


if __name__ == "__main__":
    try:
        main()
    except LdmrefError as error:
        sys.exit(f"{error}; {error.hint}")
