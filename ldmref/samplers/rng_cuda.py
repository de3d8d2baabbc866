"""`rng="a1111-gpu"`: the normal numbers of a CUDA generator, as in A1111's web UI."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85  # the golden ratio and sqrt(3) - 1, times 2^32
ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Compute Philox4x32-10: four random 32-bit words for each counter.

    A round multiplies words 0 and 2 by the multipliers and crosses the 64-bit products over,
    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)); between
    rounds the key grows by the Weyl constants.

    Args:
        counter: Integers below 2^32, (4, ...).
        key: Two integers below 2^32.

    Returns:
        (4, ...) uint64, each below 2^32.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
    """
    c0, c1, c2, c3 = np.asarray(counter, np.uint64)
    k0, k1 = key
    for _ in range(ROUNDS):
        p0 = MULTIPLIERS[0] * c0
        p1 = MULTIPLIERS[1] * c2
        c0 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c1 = p1 & _LOW
        c2 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c3 = p0 & _LOW
        k0 = (k0 + WEYL[0]) % 2**32
        k1 = (k1 + WEYL[1]) % 2**32
    return np.stack([c0, c1, c2, c3])


class CudaCard(NamedTuple):
    """What of a card decides its stream.

    Args:
        multiprocessors: Number of streaming multiprocessors (SMs).
        threads: Threads that one of them runs at once.
    """

    multiprocessors: int
    threads: int

    @property
    def wave(self) -> int:
        """The number of values up to which all cards draw the same: one for each thread.

        >>> CUDA_CARDS["T4"].wave, CUDA_CARDS["A100"].wave
        (40960, 221184)
        """
        return self.multiprocessors * (self.threads // BLOCK) * BLOCK


BLOCK = 256  # threads of a block of PyTorch's kernels of distributions
UNROLLED = 4  # values that a thread takes from one counter
CUDA_CARDS: dict[str, CudaCard] = {
    "T4": CudaCard(40, 1024),
    "RTX 2070 Super": CudaCard(40, 1024),
    "RTX A4000": CudaCard(48, 1536),
    "L4": CudaCard(58, 1536),
    "A10G": CudaCard(80, 1536),
    "RTX A6000": CudaCard(84, 1536),
    "H20": CudaCard(78, 2048),
    "RTX 4090D": CudaCard(114, 1536),
    "L40": CudaCard(142, 1536),
    "L40S": CudaCard(142, 1536),
    "A100": CudaCard(108, 2048),
    "H100 PCIe": CudaCard(114, 2048),
    "H100 SXM": CudaCard(132, 2048),
}
"""Cards by name; others are `CudaCard(multiprocessors, threads)`, as
`torch.cuda.get_device_properties` prints them."""


class CudaStream:
    """The numbers of successive calls of `torch.randn(shape, device="cuda")`.

    Value i of call k is computed from the first two words x, y of Philox4x32-10 at counter
    (k, 0, i, 0) with the seed's two halves as key (Box-Muller, sine half):

        u = (x + 1/2) / 2^32,  v = 2 pi (y + 1/2) / 2^32,  z = sqrt(-2 ln u) sin v

    An array of more values than a card runs threads, W, depends on the card. Its value i belongs to
    thread i mod W, which takes value number n = i div W from counter word k + n div 4: the sine and
    the cosine half of the first two words, then those of the last two. A call advances k by
    the counters that a thread has used.

    Args:
        seed: Integer, used modulo 2^64.
        card: Name in `CUDA_CARDS`, or a `CudaCard`; None gives every value a thread of its own,
            which is right for arrays of at most one wave (40,000 to 300,000 values), and what
            A1111 does with noise source "NV".

    Raises:
        UsageError: The card is unknown.

    Accuracy: the arithmetic is that of A1111's `rng_philox.py` (noise source "NV"): float64 with
    the constants of cuRAND in float32, rounded at the end. CUDA itself (noise source "GPU")
    computes u, v and z in float32: values printed by a GPU differ by up to 3.2e-7.
    docs/random.md says what was verified.
    Source: AUTOMATIC1111, stable-diffusion-webui, modules/rng_philox.py; for the waves PyTorch,
    aten/src/ATen/native/cuda/DistributionTemplates.h, as in pytorch#196613.

    >>> wide = CudaStream(1, card="T4").draw((50_000,)) == CudaStream(1, card="L4").draw((50_000,))
    >>> bool(wide[:40_960].all()), bool(wide[40_960:].any())
    (True, False)
    """

    def __init__(self, seed: int, card: str | CudaCard | None = None):
        self._seed = seed % 2**64
        self._counter = 0
        if isinstance(card, str) and card not in CUDA_CARDS:
            hint = did_you_mean(card, CUDA_CARDS)
            raise UsageError(f"unknown card {short_repr(card)}", code="E-RNG", hint=hint)
        self._card = CUDA_CARDS[card] if isinstance(card, str) else card

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next standard normal array, float32 of the given `shape`, such as (2, 3)."""
        count = math.prod(shape)
        wave = count if self._card is None else min(self._card.wave, -(-count // BLOCK) * BLOCK)
        number, thread = np.divmod(np.arange(count, dtype=np.uint64), np.uint64(max(wave, 1)))
        counter = np.zeros((4, count), np.uint64)
        counter[0] = self._counter + number // UNROLLED
        counter[2] = thread
        self._counter += max(-(-count // (max(wave, 1) * UNROLLED)), 1)
        words = philox4x32(counter, (self._seed % 2**32, self._seed >> 32))
        return _normal(words, number % UNROLLED).reshape(shape)


def _normal(words: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return one of the four normal values of each counter, float32."""
    late = place >= 2
    x = np.where(late, words[2], words[0])
    y = np.where(late, words[3], words[1])
    turn = float(np.float32(2.0 * math.pi * 2.0**-32))
    angle = (y + 0.5) * turn
    half = np.where(place % 2 == 0, np.sin(angle), np.cos(angle))
    return (np.sqrt(-2.0 * np.log((x + 0.5) * 2.0**-32)) * half).astype(np.float32)
