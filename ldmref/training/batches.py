"""The random batches of a step, which may be computed in equal parts.

All randomness of a step comes from generators keyed by (seed, step, purpose), so a resumed training
equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.datasets.base import Dataset


@dataclass(frozen=True)
class Part:
    """The part of a step's batch that is computed at once.

    Args:
        index: Its place among the parts, from 0.
        count: The number of equal parts.

    >>> from ldmref.training import Part
    >>> Part(1, 2).slice([10, 11, 12, 13])
    [12, 13]
    """

    index: int = 0
    count: int = 1

    def slice(self, batch: Any) -> Any:
        """Return this part of a `batch`: a sequence or array with an element for each image."""
        size = len(batch) // self.count
        return batch[self.index * size : (self.index + 1) * size]


FULL_BATCH = Part()


def step_generator(seed: int, step: int, purpose: str) -> np.random.Generator:
    """Return the random generator of one step and purpose."""
    key = [seed, step, *purpose.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def step_noise(
    shape: tuple[int, ...], seed: int, step: int, ops: TorchBackend, purpose: str = "noise"
) -> torch.Tensor:
    """Return standard normal noise of one step, by torch (NumPy takes longer than the network)."""
    key = int(step_generator(seed, step, purpose).integers(2**62))
    generator = torch.Generator(device=ops.device).manual_seed(key)
    return torch.randn(shape, generator=generator, device=ops.device)


def image_batch(
    data: Dataset, rng: np.random.Generator, n: int, ops: TorchBackend, part: Part = FULL_BATCH
) -> tuple[np.ndarray, torch.Tensor]:
    """Return the indices of `n` random images, and a part of these images, augmented.

    The images are (n / part.count, 3, H, W) in [-1, 1]. All random numbers are those of the whole
    batch.
    """
    batch = rng.choice(len(data.images), n, p=data.weights / data.weights.sum())
    flips, crop = data.augmentation
    x = data.images[part.slice(batch)]
    if crop:
        rows, columns = (part.slice(rng.integers(0, side - crop + 1, n)) for side in x.shape[2:])
        corners = zip(x, rows, columns, strict=True)
        x = np.stack([image[:, y : y + crop, x : x + crop] for image, y, x in corners])
    x = to_unit(x, ops)
    return batch, x.flip(3) if flips and rng.random() < 0.5 else x


def to_unit(images: np.ndarray, ops: TorchBackend) -> torch.Tensor:
    """Convert bytes to floats in [-1, 1] on the device."""
    return torch.as_tensor(images).to(ops.device, getattr(torch, ops.state_dtype)) / 127.5 - 1.0


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """Return at most `count` numbers below `n`, evenly spaced, (k,) int64."""
    return np.linspace(0, n - 1, min(n, count)).round().astype(np.int64)
