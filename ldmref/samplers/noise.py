"""Noise that depends on the seed alone: one counter-based Philox stream per image.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". All noise is drawn on the host in
float32 by NumPy and handed to the backend, so every backend sees the same bits; image i of a batch
has the stream of its own seed, so a picture does not depend on the batch or on the order.
"""

from __future__ import annotations

import numpy as np


class Streams:
    """Standard normal noise for a batch: image i draws from the stream of `seeds[i]`."""

    def __init__(self, seeds: list[int], shape: tuple[int, ...]):
        self.shape = tuple(shape)
        self.generators = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]

    def __call__(self) -> np.ndarray:
        """The next draw, (n, *shape) float32."""
        return np.stack([g.standard_normal(self.shape, np.float32) for g in self.generators])
