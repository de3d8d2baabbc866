"""`rng="a1111-gpu"`: the normal numbers of a CUDA generator, as in A1111's web UI."""

from __future__ import annotations

import math

import numpy as np

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


class CudaStream:
    """The numbers of successive calls of `torch.randn(shape, device="cuda")`.

    Value i of call k is computed from the first two words x, y of Philox4x32-10 at counter
    (k, 0, i, 0) with the seed's two halves as key (Box-Muller, sine half):

        u = (x + 1/2) / 2^32,  v = 2 pi (y + 1/2) / 2^32,  z = sqrt(-2 ln u) sin v

    Args:
        seed: Integer, used modulo 2^64.

    Accuracy: the arithmetic is that of A1111's `rng_philox.py` (noise source "NV"): float64 with
    the constants of cuRAND in float32, rounded at the end. CUDA itself (noise source "GPU")
    computes u, v and z in float32: values printed by a GPU differ by up to 3.2e-7. Valid for
    arrays of at most as many values as the card runs threads at once (multiprocessors x threads of
    each: 40,000 to 300,000; an image of 1024 x 1024 has 65,536); beyond, CUDA takes further values
    of each counter, in places that depend on the card. docs/random.md says what was verified.
    Source: AUTOMATIC1111, stable-diffusion-webui, modules/rng_philox.py.
    """

    def __init__(self, seed: int):
        self._seed = seed % 2**64
        self._call = 0

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next standard normal array, float32."""
        counter = np.zeros((4, math.prod(shape)), np.uint64)
        counter[0], counter[2] = self._call, np.arange(counter.shape[1])
        self._call += 1
        x, y, _, _ = philox4x32(counter, (self._seed % 2**32, self._seed >> 32))
        turn = float(np.float32(2.0 * math.pi * 2.0**-32))
        z = np.sqrt(-2.0 * np.log((x + 0.5) * 2.0**-32)) * np.sin((y + 0.5) * turn)
        return z.astype(np.float32).reshape(shape)
