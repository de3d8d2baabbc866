"""A data set of latents whose distribution is known exactly: three Gaussians in the plane.

What a denoiser learns of it can be compared with a formula (`ldmref.testing.three_modes`).
"""

from __future__ import annotations

import hashlib
from threading import Event

import numpy as np

from ldmref.datasets.base import Augmentation, DatasetSource
from ldmref.datasets.config import DataConfig
from ldmref.testing.mixture import Mixture, three_modes


class MixtureDataset:
    """The components of a mixture, one "image" each: mean and variance of its latents.

    The latents of image k have the density N(m_k, s_k^2 I), and it is sampled with frequency w_k,
    so the latents of a training have exactly the density of the mixture. There is nothing to
    encode: the images are of one grey, and `moments` takes the place of an autoencoder.

    Args:
        mixture: The density in d dimensions, the channels of latents of one cell.
        size: Width and height of the images.

    >>> from ldmref.testing import three_modes
    >>> data = MixtureDataset(three_modes(), size=8)
    >>> data.moments.shape, data.weights.tolist()
    ((3, 2, 2, 1, 1), [0.5, 0.3, 0.2])
    """

    def __init__(self, mixture: Mixture, size: int):
        means = np.asarray(mixture.means, np.float32)
        logvars = np.broadcast_to(2.0 * np.log(mixture.stds)[:, None], means.shape)
        moments = np.stack([means, logvars.astype(np.float32)], axis=1)
        self.moments = moments[..., None, None]
        self.images = np.full((len(means), 3, size, size), 128, np.uint8)
        self.weights = np.asarray(mixture.weights)
        self.classes = [""] * len(means)
        self.held_out = np.empty(0, np.int64)
        self.warnings: list[str] = []
        self.augmentation = Augmentation()

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return the empty caption."""
        return ""

    def vocabulary(self) -> list[str]:
        """Return no texts."""
        return []

    def digest(self) -> str:
        """Return what identifies the latents."""
        return hashlib.sha256(self.moments.tobytes()).hexdigest()


def _load(config: DataConfig, cancel: Event | None) -> MixtureDataset:
    return MixtureDataset(three_modes(), config.size)


mixture = DatasetSource(_load)
