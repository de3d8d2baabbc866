"""Random inputs for identities, in any array library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ldmref.check.gradients import recorded_gradients
from ldmref.math.arrays import Array


class FormatLimits(NamedTuple):
    """The limits of a number format: the unit of rounding, and the smallest normal number."""

    eps: float
    tiny: float


@dataclass
class RandomInputs:
    """Random inputs of one case, in one array library, dtype and device."""

    xp: Any
    dtype: Any
    device: Any
    numpy: np.random.Generator = field(repr=False)
    case: int = 0

    @property
    def limits(self) -> FormatLimits:
        """The limits of the dtype."""
        info = self.xp.finfo(self.dtype)
        return FormatLimits(float(info.eps), float(info.smallest_normal))

    def array(self, values: object) -> Array:
        """Convert host values to an array of the library under test."""
        host = np.asarray(values, np.float64)
        return self.xp.asarray(host.tolist(), dtype=self.dtype, device=self.device)

    def normal(self, *shape: int) -> Array:
        """Sample standard normal numbers."""
        return self.array(self.numpy.standard_normal(shape))

    def normals(self, count: int, *shape: int) -> list[Array]:
        """Sample `count` arrays of standard normal numbers."""
        return [self.normal(*shape) for _ in range(count)]

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        """Sample uniform numbers in [low, high)."""
        return self.array(self.numpy.uniform(low, high, shape))

    def number(self, low: float, high: float) -> float:
        """Sample one uniform number in [low, high), a Python float."""
        return float(self.numpy.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """Sample one integer in [low, high], both ends included."""
        return int(self.numpy.integers(low, high + 1))

    def betas(self, n: int) -> np.ndarray:
        """Sample forward variances on the host, (n,) float64 in [0.01, 0.5)."""
        return self.numpy.uniform(0.01, 0.5, n)

    def orthonormal(self, rows: int, columns: int) -> np.ndarray:
        """Sample a matrix with orthonormal columns on the host, (rows, columns) float64."""
        return np.linalg.qr(self.numpy.standard_normal((rows, columns)))[0]

    def gradients(self, function: Callable[..., Array], weights: Array, *arrays: Array) -> list:
        """Return the library's gradients of sum(weights * function(*arrays)) for each array."""
        return recorded_gradients(function, weights, *arrays)
