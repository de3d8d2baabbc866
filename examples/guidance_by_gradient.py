"""Guidance by a gradient: the colours of an image lie where you say, in a model that reads words.

A likelihood of the predicted image takes the part of the classifier in classifier guidance. It asks
that the image, averaged over 4 x 4 blocks, be a given one: log p(y | x) = -scale |A(x0(x)) - y|^2,
with A the blocks of the decoded prediction. Its gradient goes through the decoder and the U-Net.

    python examples/guidance_by_gradient.py

Needs PyTorch. Sources: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4; the likelihood at the
predicted x0, Chung et al. 2022, arXiv:2209.14687, eq. 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ldmref
from ldmref import samplers
from ldmref.io.pictures.images import to_images
from ldmref.samplers.noise import Streams

BLOCKS = 4
SKY, GRASS = (-0.2, 0.4, 0.9), (-0.4, 0.5, -0.5)  # RGB from -1 to 1


def block_means(images: Any) -> Any:
    """The means of blocks, (n, 3, BLOCKS, BLOCKS), of images (n, 3, h, w)."""
    n, c, h, w = images.shape
    return images.reshape(n, c, BLOCKS, h // BLOCKS, BLOCKS, w // BLOCKS).mean((3, 5))


def guided(denoise: samplers.Denoiser, log_likelihood: Callable[[Any], Any]) -> samplers.Denoiser:
    """A denoiser of p(x) p(y | x0(x)), from a differentiable one of p(x).

    The score gains the gradient g of the log-likelihood, so x0 = x + sigma^2 score gains sigma^2 g.
    """

    def denoise_guided(x: Any, sigma: float) -> Any:
        x = x.detach().requires_grad_()
        x0 = denoise(x, sigma)
        log_likelihood(x0).sum().backward()
        return (x0 + sigma**2 * x.grad).detach()

    return denoise_guided


def generate(scale: float, prompt: str = "cat face", seed: int = 1, steps: int = 12) -> Any:
    """An image (1, 3, h, w) in [-1, 1], with sky above and grass below if `scale` is not 0."""
    model = ldmref.load(backend="torch").differentiable()
    ops, defaults = model.backend, model.config.defaults
    wanted = target(ops)

    def log_likelihood(x0: Any) -> Any:
        return -scale * (block_means(model.decode(x0)) - wanted).square().sum((1, 2, 3))

    denoise = guided(ldmref.denoiser(model, prompt, grad=True), log_likelihood)
    sampler = samplers.get_sampler("ddim")
    schedule = samplers.make_schedule(model.config.scheduler, sampler, "karras", steps)
    noise = Streams([seed], model.latent_shape(defaults.width, defaults.height))()
    x = ops.asarray(noise * schedule.init_noise_sigma)
    *_, last = samplers.sample(denoise, x, schedule.sigmas, sampler.make())
    return model.decode(last.x0).detach()


def target(ops: Any) -> Any:
    """Sky in the upper half of the blocks, grass in the lower half; (1, 3, BLOCKS, BLOCKS)."""
    rows = [SKY if row < BLOCKS // 2 else GRASS for row in range(BLOCKS)]
    colours = ops.xp.asarray(rows, dtype=ops.xp.float32, device=ops.device)
    return colours.T[None, :, :, None].expand(1, 3, BLOCKS, BLOCKS)


def distance(image: Any) -> float:
    """The root mean square of what the blocks of an image are away from the target."""
    model_ops = ldmref.backends.get_backend("torch")
    return float((block_means(image) - target(model_ops)).square().mean().sqrt())


def main(scale: float = 3.0, steps: int = 12) -> tuple[float, float]:
    """Generate without and with guidance; return the two distances from the target."""
    distances = []
    for name, strength in (("plain", 0.0), ("guided", scale)):
        image = generate(strength, steps=steps)
        distances.append(distance(image))
        to_images(image.numpy())[0].save(f"{name}.png")
        print(f"{name}.png: blocks {distances[-1]:.3f} from the target")
    return distances[0], distances[1]


if __name__ == "__main__":
    main()
