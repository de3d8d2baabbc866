"""Noise that depends on the seed alone: one stream of normal numbers per image.

All noise is drawn on the host in float32 by NumPy and handed to the backend, so every backend sees
the same bits; image i of a batch has the stream of its own seed, so an image does not depend on
the batch or on the order. `STREAMS` holds the kinds of stream by the name that `rng` gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.samplers.rng_cuda import CudaStream
from ldmref.samplers.rng_torch import TorchStream


class Stream(Protocol):
    """Standard normal numbers, made by `STREAMS[rng](seed)`."""

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next array of that shape, float32."""
        ...


class PhiloxStream:
    """`rng="philox"`: NumPy's counter-based Philox4x64-10, keyed by the seed.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """

    def __init__(self, seed: int):
        self._generator = np.random.Generator(np.random.Philox(key=seed))

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next standard normal array, float32."""
        return self._generator.standard_normal(shape, np.float32)


STREAMS: dict[str, Callable[[int], Stream]] = {
    "philox": PhiloxStream,
    "torch": TorchStream,
    "a1111-gpu": CudaStream,
}


class Streams:
    """Standard normal noise for a batch: image i draws from the stream of `seeds[i]`.

    Args:
        seeds: whole numbers from 0 to 2^64 - 1.
        shape: of one image's draw.
        rng: a name in `STREAMS`.

    Raises:
        UsageError: no such rng.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], rng: str = "philox"):
        if rng not in STREAMS:
            hint = did_you_mean(str(rng), STREAMS)
            raise UsageError(f"unknown rng {short_repr(rng)}", code="E-RNG", hint=hint)
        self.shape = tuple(shape)
        self.streams = [STREAMS[rng](seed) for seed in seeds]

    def __call__(self) -> np.ndarray:
        """The next draw, (n, *shape) float32."""
        return np.stack([stream.draw(self.shape) for stream in self.streams])
