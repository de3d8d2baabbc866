"""The initial state of a mode and its constraints, and what is sampled before the first step.

The order in which noise is sampled belongs to the meaning of a seed: `rng="torch"` gives diffusers'
image only if every array is sampled when diffusers' pipelines sample it. docs/random.md lists their
orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldmref.modes.edit_methods import EditMethod
from ldmref.modes.job import Job
from ldmref.modes.text import Interpolation
from ldmref.samplers.noise import Streams, follows_diffusers


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

    @property
    def scales(self) -> list[float]:
        """The guidance scales that the run uses besides that of the job."""
        return [] if self.edit is None else [self.edit.source_cfg_scale]


class InitialLatents(NamedTuple):
    """The arrays before the first step.

    Args:
        noise: (n, c, h, w).
        image, masked, control: Latents of the given image, of the masked image and of the control
            image, (n or 1, c, h, w).
    """

    noise: np.ndarray
    image: np.ndarray | None = None
    masked: np.ndarray | None = None
    control: np.ndarray | None = None


def sample_initial(
    job: Job, initial: InitialState, streams: Streams, batch: slice
) -> InitialLatents:
    """Return the initial noise of a batch, and the latents of the given image.

    With `rng="torch"`, the order is that of diffusers: a sample of the control image's posterior, a
    sample of the image's posterior (except for an inpainting U-Net that starts from pure noise, and
    Flux.1 [Fill] that starts from given latents), the noise, and for inpainting a sample of the
    masked image's posterior, which advances the stream even if the U-Net has no channels for it.
    Otherwise, and where the pipelines of a family take the mean, only the noise is sampled, and
    latents are the mean of the posterior.

    Args:
        job: The resolved job.
        initial: The initial state of the mode.
        streams: Noise, one stream per image of the batch.
        batch: The images of the batch among those of the run.
    """
    as_diffusers = follows_diffusers(job.rng)

    def sample_posterior(posterior: Posterior | None) -> np.ndarray | None:
        if posterior is None:
            return None
        if not as_diffusers or not posterior.sampled:
            return posterior.mean
        return posterior.mean + posterior.std * streams()

    channels = initial.channels if isinstance(initial.channels, MaskedImage) else None
    masked_image = None if channels is None else channels.image
    unseen = (
        as_diffusers
        and channels is not None
        and initial.from_noise
        and not (channels.draws_image and initial.noise is None)
    )
    control = sample_posterior(initial.control)
    image = initial.latents if unseen or initial.image is None else sample_posterior(initial.image)
    noise = streams() if initial.noise is None else initial.noise[batch]
    masked = sample_posterior(masked_image)
    if as_diffusers and job.mode == "inpaint" and masked_image is None:
        sample_posterior(initial.image)
    if image is not None and initial.noise_fill is not None:
        image = (1.0 - initial.noise_fill) * image + initial.noise_fill * noise
    return InitialLatents(noise, image, masked, control)
