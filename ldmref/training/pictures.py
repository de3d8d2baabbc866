"""Random batches of pictures."""

from __future__ import annotations

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.training.data import Dataset


def picture_batch(
    data: Dataset, rng: np.random.Generator, n: int, ops: TorchBackend
) -> tuple[np.ndarray, torch.Tensor]:
    """Indices of `n` pictures, and these in [-1, 1], (n, 3, H, W), augmented as `data` says."""
    batch = rng.choice(len(data.images), n, p=data.weights / data.weights.sum())
    flips, crop = data.augmentation
    x = data.images[batch]
    if crop:
        rows, columns = (rng.integers(0, side - crop + 1, n) for side in x.shape[2:])
        corners = zip(x, rows, columns, strict=True)
        x = np.stack([image[:, y : y + crop, x : x + crop] for image, y, x in corners])
    x = to_unit(x, ops)
    return batch, x.flip(3) if flips and rng.random() < 0.5 else x


def to_unit(images: np.ndarray, ops: TorchBackend) -> torch.Tensor:
    """Bytes as float32 in [-1, 1] on the device."""
    return torch.as_tensor(images).to(ops.device, torch.float32) / 127.5 - 1.0
