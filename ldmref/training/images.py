"""Random batches of images."""

from __future__ import annotations

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.training.data import Dataset
from ldmref.training.loss import FULL_BATCH, Part


def image_batch(
    data: Dataset, rng: np.random.Generator, n: int, ops: TorchBackend, part: Part = FULL_BATCH
) -> tuple[np.ndarray, torch.Tensor]:
    """Indices of `n` images, and a part of these in [-1, 1], augmented as `data` says.

    The images are (n / part.count, 3, H, W); all random numbers are those of the whole batch.
    """
    batch = rng.choice(len(data.images), n, p=data.weights / data.weights.sum())
    flips, crop = data.augmentation
    x = data.images[part.of(batch)]
    if crop:
        rows, columns = (part.of(rng.integers(0, side - crop + 1, n)) for side in x.shape[2:])
        corners = zip(x, rows, columns, strict=True)
        x = np.stack([image[:, y : y + crop, x : x + crop] for image, y, x in corners])
    x = to_unit(x, ops)
    return batch, x.flip(3) if flips and rng.random() < 0.5 else x


def to_unit(images: np.ndarray, ops: TorchBackend) -> torch.Tensor:
    """Bytes as floats in [-1, 1] on the device."""
    return ops.asarray(torch.as_tensor(images).float(), ops.state_dtype) / 127.5 - 1.0


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """At most `count` numbers below `n`, evenly spaced, (k,) int64."""
    return np.linspace(0, n - 1, min(n, count)).round().astype(np.int64)
