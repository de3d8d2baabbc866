"""What a mode starts from and keeps, and what is drawn before the first step.

The order of the draws belongs to the meaning of a seed: `rng="torch"` gives diffusers' image only
if every array is drawn when diffusers' pipelines draw it. docs/random.md lists their orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldmref.modes.request import Request
from ldmref.modes.text import Interpolation
from ldmref.samplers.noise import Streams


class Posterior(NamedTuple):
    """The latents of one image: normal, mean and std (1, c, h, w) float32, scaled."""

    mean: np.ndarray
    std: np.ndarray


class MaskedImage(NamedTuple):
    """Input channels of an inpainting U-Net: `mask` (1, 1, h, w), 1 where it repaints, and the
    latents of the `image` without that."""

    mask: np.ndarray
    image: Posterior


@dataclass(frozen=True)
class Start:
    """What a run starts from and keeps; by default pure noise, and nothing.

    Args:
        noise: unit variance, (n, c, h, w) float32, in place of the seeds' first draw.
        image: latents of the given image.
        from_noise: whether the initial state is pure noise, and not `image` with noise.
        noise_fill: (1, 1, h, w), 1 where the initial noise takes the place of `image`.
        keep: (1, 1, h, w), 1 where `image` is put back after every step.
        channels: joined to the latents as the U-Net's input, (1, k, h, w); or a masked image.
        interpolation: a second prompt.
        finish: applied to every drawn image.
    """

    noise: np.ndarray | None = None
    image: Posterior | None = None
    from_noise: bool = True
    noise_fill: np.ndarray | None = None
    keep: np.ndarray | None = None
    channels: np.ndarray | MaskedImage | None = None
    interpolation: Interpolation | None = None
    finish: Callable[[Image.Image], Image.Image] | None = None


class InitialDraws(NamedTuple):
    """`noise` (n, c, h, w); latents of the given image and of the masked image, (n or 1, c, h,
    w), None without them."""

    noise: np.ndarray
    image: np.ndarray | None = None
    masked: np.ndarray | None = None


def initial_draws(request: Request, start: Start, streams: Streams, batch: slice) -> InitialDraws:
    """The initial noise of a batch, and the latents of the given image.

    Under `rng="torch"`, in the order of diffusers: a sample of the image's posterior (an
    inpainting U-Net that starts from pure noise does without); the noise; and for inpainting a
    sample of the masked image's posterior, which a U-Net without channels for it never sees, but
    which advances the stream. Otherwise only the noise is drawn, and latents are the mean.

    Args:
        streams: one per image of the batch.
        batch: of the run's images.
    """
    as_diffusers = request.rng == "torch"

    def latents(posterior: Posterior | None) -> np.ndarray | None:
        if posterior is None or not as_diffusers:
            return None if posterior is None else posterior.mean
        return posterior.mean + posterior.std * streams()

    masked_image = start.channels.image if isinstance(start.channels, MaskedImage) else None
    unseen = as_diffusers and masked_image is not None and request.first_step == 0
    image = None if unseen else latents(start.image)
    noise = streams() if start.noise is None else start.noise[batch]
    masked = latents(masked_image)
    if as_diffusers and request.mode == "inpaint" and masked_image is None:
        latents(start.image)
    if image is not None and start.noise_fill is not None:
        image = (1.0 - start.noise_fill) * image + start.noise_fill * noise
    return InitialDraws(noise, image, masked)
