"""The initial state of a mode and its constraints, which a run reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldmref.modes.edit_methods import EditMethod
from ldmref.modes.text import Interpolation


class Posterior(NamedTuple):
    """The normal distribution of an image's scaled latents.

    Args:
        mean, std: (n or 1, c, h, w) float32.
        sampled: Whether diffusers' pipelines sample it. False: they take the mean.
    """

    mean: np.ndarray
    std: np.ndarray
    sampled: bool = True


class MaskedImage(NamedTuple):
    """Input channels of a denoiser for inpainting.

    Args:
        mask: (1, 1, h, w), 1 where it repaints; or a channel for each pixel of a cell.
        image: The latents of the image without that part.
        draws_image: Whether diffusers' pipeline also samples the posterior of the given image
            before noise that it starts from.
    """

    mask: np.ndarray
    image: Posterior
    draws_image: bool = False


@dataclass(frozen=True)
class InitialState:
    """The initial state and the constraints of a run; by default pure noise without constraints.

    Args:
        noise: Noise of unit variance, (n, c, h, w) float32; None to sample it from the seeds.
        image: Latents of the given image.
        from_noise: Whether the initial state is pure noise, instead of `image` with noise.
        noise_fill: (1, 1, h, w), 1 where the initial noise replaces `image`.
        keep: (1, 1, h, w), 1 where `image` is put back after every step.
        channels: Further input channels of the U-Net, (1, k, h, w); or a masked image.
        interpolation: A second prompt.
        prompts: Prompts that all images share besides their own: the second one, or that of the
            image to edit.
        control: Latents of the control image.
        edit: How `image` is edited; the initial state is then `image` itself.
        finish: Applied to every generated image.
        show: The same for a preview of any size, without the cost of a large image.
        latents: Instead of `image`, latents that are known, (n, c, h, w) float32: nothing is
            sampled for them.
        scales: The guidance scales that the run uses besides that of the job.
    """

    noise: np.ndarray | None = None
    image: Posterior | None = None
    from_noise: bool = True
    noise_fill: np.ndarray | None = None
    keep: np.ndarray | None = None
    channels: np.ndarray | MaskedImage | None = None
    interpolation: Interpolation | None = None
    prompts: Sequence[str] = ()
    control: Posterior | None = None
    edit: EditMethod | None = None
    finish: Callable[[Image.Image], Image.Image] | None = None
    show: Callable[[Image.Image], Image.Image] | None = None
    latents: np.ndarray | None = None
    scales: Sequence[float] = ()
