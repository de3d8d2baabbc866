"""Random batches of pictures."""

from __future__ import annotations

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.training.data import Dataset


def picture_batch(
    data: Dataset, rng: np.random.Generator, n: int, ops: TorchBackend
) -> tuple[np.ndarray, torch.Tensor]:
    """Indices of `n` pictures, and these in [-1, 1], (n, 3, H, W); half of the time mirrored."""
    batch = rng.choice(len(data.images), n, p=data.weights / data.weights.sum())
    x = to_unit(data.images[batch], ops)
    return batch, x.flip(3) if rng.random() < 0.5 else x


def to_unit(images: np.ndarray, ops: TorchBackend) -> torch.Tensor:
    """Bytes as float32 in [-1, 1] on the device."""
    return torch.as_tensor(images).to(ops.device, torch.float32) / 127.5 - 1.0
