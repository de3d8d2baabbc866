"""The arrays of a run as rows of a comparison name them, of which one may have several parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.locate.run.calls import ArrayName
from ldmref.models.config import ModelConfig

LATENTS = "latents"
TEXT, POOLED = "text", "pooled text"
ARGUMENTS = {"x": LATENTS, "context": TEXT, "pooled": POOLED, "mask": "mask of the text"}
CHANNELS = "channels of the {}"
JOINED = {  # what is joined to the noisy latents, in its order, by `ModelConfig.concat`
    "": ("mask", "masked image"),
    "masked_image": ("masked image", "mask"),
    "folded_mask": ("masked image", "mask"),
    "control": ("control image",),
    "low_resolution": ("image to enlarge",),
    "segmentation": ("segmentation",),
}
ENCODED = (CHANNELS.format("masked image"), CHANNELS.format("control image"))


@dataclass(frozen=True)
class WrongArray:
    """A recorded array that is not what the run computes, or the channels of it that are not.

    Attributes:
        name: Its name.
        words: What rows call it.
        got: What was recorded, (n, c, ...) if it has channels.
        right: What the run computed.
        channels: Which channels of the array of that name it has. None: all.
    """

    name: ArrayName
    words: str
    got: np.ndarray
    right: np.ndarray
    channels: slice | None = None

    def take(self, x: Any) -> np.ndarray:
        """Return the same channels of another whole array; other channels as they are."""
        x = np.asarray(x)
        whole = x.ndim > 1 and x.shape[1:2] != self.right.shape[1:2]
        return x[:, self.channels] if self.channels is not None and whole else x


def channel_groups(config: ModelConfig) -> list[tuple[str, slice]]:
    """Return what the channels of the denoiser's latents are: in words, and which.

    Args:
        config: The configuration of the model.

    >>> from ldmref.models import preset
    >>> [words for words, _ in channel_groups(preset("sd15-inpainting"))]
    ['latents', 'channels of the mask', 'channels of the masked image']
    """
    z, more = config.vae.latent_channels, config.image_channels
    names = JOINED[config.concat] if more else ()
    widths = {"mask": more - z, "masked image": z}
    found, start = [(LATENTS, slice(0, z))], z
    for name in names:
        stop = start + widths.get(name, more)
        found.append((CHANNELS.format(name), slice(start, stop)))
        start = stop
    return found
