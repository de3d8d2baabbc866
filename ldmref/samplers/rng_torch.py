"""`rng="torch"` and `"torch-bf16"`: normal numbers of `torch.Generator("cpu")`, without torch."""

from __future__ import annotations

import math

import numpy as np

from ldmref.support.bfloat16 import round_to_bfloat16

BLOCK = 16


class TorchStream:
    """The numbers of successive calls of `torch.randn` with a `torch.Generator("cpu")`.

    The Mersenne Twister MT19937, started from the low 32 bits of the seed, feeds two paths:

    * 16 values or more, in float32. One output gives one uniform u = (output mod 2^24) / 2^24. In
      each block of 16 the first half makes radii and the second half angles (Box-Muller):

          r = sqrt(-2 ln(1 - u_i)),  theta = 2 pi u_{i+8},
          z_i = r cos theta,         z_{i+8} = r sin theta

      If 16 does not divide the count, 16 new outputs overwrite the last 16 values.
    * fewer than 16, in float64, one pair at a time. Two outputs give one uniform
      u = (first 2^32 + second mod 2^53) / 2^53; of r = sqrt(-2 ln(1 - u_2)), theta = 2 pi u_1,
      r cos theta is returned and r sin theta is kept for the next value, also of a later call.

    Args:
        seed: Integer of which only the low 32 bits count, as in torch: seeds equal modulo 2^32
            (also -1 and 2^64 - 1) have the same stream.

    Accuracy: fewer than 16 values are equal to torch's. From 16 on, torch has two paths. The path
    for AVX2 and AVX-512 uses vectorised logarithms, sines and cosines, which are off by units of
    the last place: within 4.8e-7, one unit for the largest values that the stream can produce
    (|z| <= sqrt(48 ln 2) < 5.77). The plain path (ATEN_CPU_CAPABILITY=default, and processors
    without AVX2 such as ARM's) multiplies the angle by pi in double precision before it rounds to
    float32, so its angle may be another float32, 4.8e-7 away: within 5.77 * 4.8e-7 + 4.8e-7 =
    3.3e-6.
    Source: PyTorch, aten/src/ATen/native/cpu/DistributionTemplates.h (`normal_fill`) and
    aten/src/ATen/core/DistributionsHelper.h (`normal_distribution`); Matsumoto and Nishimura 1998,
    "Mersenne Twister"; Box and Muller 1958, "A Note on the Generation of Random Normal Deviates".
    """

    def __init__(self, seed: int):
        self._twister = np.random.RandomState(seed % 2**32)  # its stream never changes
        self._kept: float | None = None

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next standard normal array, float32."""
        n = math.prod(shape)
        values = self._many(n) if n >= BLOCK else [self._one() for _ in range(n)]
        return np.asarray(values, np.float32).reshape(shape)

    def _outputs(self, n: int) -> np.ndarray:
        return self._twister.randint(0, 2**32, n, np.uint32)

    def _many(self, n: int) -> np.ndarray:
        z = np.empty(n)
        full = n - n % BLOCK
        z[:full] = self._box_muller(self._outputs(n)[:full])
        if full < n:
            z[-BLOCK:] = self._box_muller(self._outputs(BLOCK))
        return z

    def _box_muller(self, outputs: np.ndarray) -> np.ndarray:
        """Return normal numbers of full blocks; uniforms and angles are rounded to float32."""
        u = _split(((outputs & 0xFFFFFF) * np.float32(2.0**-24)).astype(np.float32))
        r = np.sqrt(-2.0 * np.log(1.0 - u[:, 0].astype(np.float64)))
        theta = (np.float32(2.0 * math.pi) * u[:, 1]).astype(np.float64)
        return np.stack([r * np.cos(theta), r * np.sin(theta)], axis=1).reshape(-1)

    def _one(self) -> float:
        if self._kept is not None:
            z = self._kept
            self._kept = None
            return z
        pairs = self._outputs(4).astype(object).reshape(2, 2)
        u1, u2 = (((high << 32 | low) % 2**53) * 2.0**-53 for high, low in pairs)
        r = math.sqrt(-2.0 * math.log1p(-u2))
        theta = 2.0 * math.pi * u1
        self._kept = r * math.sin(theta)
        return r * math.cos(theta)


class TorchBfloat16Stream(TorchStream):
    """The numbers of `torch.randn(..., dtype=torch.bfloat16)` on the CPU before they were repaired.

    The twister is consumed as by `TorchStream`, but from 16 values on the uniforms have eight bits,
    u = (output mod 2^8) / 2^8, and every operation of Box-Muller rounds to bfloat16. So there are
    65,536 pairs (r, theta) of equal probability, and the law is another one than the normal:

    * 1 - u >= 2^-8, so |z| <= sqrt(16 ln 2) = 3.33;
    * E[z^2] = -mean of ln(k / 256) over k = 1, ..., 256 = ln 256 - ln(256!) / 256 = 0.9856 before
      the operations round;
    * z = 0 has a positive probability.

    Fewer than 16 values are those of `TorchStream`, rounded to bfloat16.

    Args:
        seed: Integer of which only the low 32 bits count.

    Source: PyTorch up to 2.11, aten/src/ATen/native/cpu/DistributionTemplates.h (`normal_fill`);
    pytorch#166853. Equal to what PyTorch 2.8.0 draws.

    >>> bool(abs(TorchBfloat16Stream(0).draw((16, 128, 128))).max() < 3.34)
    True
    """

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next array of a shape, float32, in which every value is a bfloat16."""
        return round_to_bfloat16(super().draw(shape))

    def _box_muller(self, outputs: np.ndarray) -> np.ndarray:
        """Return the numbers of full blocks; every operation rounds to bfloat16, as PyTorch's did.

        The angle alone is one product in double precision.
        """
        u = _split(((outputs & 0xFF) * np.float32(2.0**-8)).astype(np.float32))
        log = round_to_bfloat16(np.log(1.0 - u[:, 0]))
        r = round_to_bfloat16(np.sqrt(-2.0 * log))
        theta = round_to_bfloat16(2.0 * math.pi * u[:, 1].astype(np.float64))
        cos, sin = (round_to_bfloat16(wave(theta)) for wave in (np.cos, np.sin))
        return np.stack([r * cos, r * sin], axis=1).reshape(-1)


def _split(uniforms: np.ndarray) -> np.ndarray:
    """Return uniforms as (blocks, 2, 8): those of the radii, and those of the angles."""
    return uniforms.reshape(-1, 2, BLOCK // 2)
