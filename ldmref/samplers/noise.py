"""Noise that depends only on the seed: one stream of normal numbers per image.

NumPy generates all noise on the host in float32, so every backend gets the same bits. Image i of a
batch uses the stream of its own seed, so an image does not depend on the batch or on the order.
`STREAMS` holds the kinds of streams by the name in `rng`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.samplers.rng_cuda import CUDA_CARDS, CudaStream
from ldmref.samplers.rng_torch import TorchBfloat16Stream, TorchStream


class Stream(Protocol):
    """Standard normal numbers, made by `STREAMS[rng](seed)`."""

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next array of a shape, float32."""
        ...


class PhiloxStream:
    """`rng="philox"`: NumPy's counter-based Philox4x64-10, keyed by the seed.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """

    def __init__(self, seed: int):
        self._generator = np.random.Generator(np.random.Philox(key=seed))

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next standard normal array, float32."""
        return self._generator.standard_normal(shape, np.float32)


STREAMS: dict[str, Callable[[int], Stream]] = {
    "philox": PhiloxStream,
    "torch": TorchStream,
    "torch-bf16": TorchBfloat16Stream,
    "a1111-gpu": CudaStream,
    **{f"cuda:{card.replace(' ', '-')}": partial(CudaStream, card=card) for card in CUDA_CARDS},
}


def follows_diffusers(rng: str) -> bool:
    """Return whether noise is consumed in the order of the pipelines of diffusers.

    So it is with PyTorch's generators, on the CPU and on a card.
    """
    return rng.startswith(("torch", "cuda:"))


class Streams:
    """Standard normal noise for a batch: image i uses the stream of `seeds[i]`.

    Every call returns the next noise of all images, an array (n, *shape) in float32.

    Args:
        seeds: Seed of each image, integers from 0 to 2^64 - 1.
        shape: Shape of one image's noise, such as (c, h, w).
        rng: Kind of stream, a name in `STREAMS`: `philox`, `torch`, `torch-bf16`, `a1111-gpu` or
            `cuda:CARD`.

    Raises:
        UsageError: `rng` is unknown.

    >>> noise = Streams([1, 2], (4, 8, 8))
    >>> noise().shape
    (2, 4, 8, 8)
    >>> bool((Streams([2], (4, 8, 8))()[0] == Streams([1, 2], (4, 8, 8))()[1]).all())
    True
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], rng: str = "philox"):
        if rng not in STREAMS:
            hint = did_you_mean(str(rng), STREAMS)
            raise UsageError(f"unknown rng {short_repr(rng)}", code="E-RNG", hint=hint)
        self.shape = tuple(shape)
        self.streams = [STREAMS[rng](seed) for seed in seeds]

    def __call__(self) -> np.ndarray:
        """Return the next noise of all images, (n, *shape) float32."""
        return np.stack([stream.draw(self.shape) for stream in self.streams])
