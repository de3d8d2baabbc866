"""Arrays that are computed when they are used, and again the next time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class DeferredArray:
    """A host array that does not exist until NumPy asks for it.

    It stands for its array in trees of parameters: shape and type are known, `np.asarray` and
    NumPy's functions compute the rest, and nothing is kept. It is pickled as the function.

    Args:
        read: Returns the array, which nobody may change.
        shape: Its shape.
        dtype: Its type.

    >>> x = DeferredArray(lambda: np.ones((2, 3), np.float32), (2, 3))
    >>> x.nbytes, float(np.sum(x))
    (24, 6.0)
    """

    def __init__(
        self, read: Callable[[], np.ndarray], shape: tuple[int, ...], dtype: DTypeLike = np.float32
    ):
        self._read = read
        self.shape = shape
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the array."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        array = self._read()
        return np.array(array, dtype) if copy else np.asarray(array, dtype)

    def astype(self, dtype: DTypeLike) -> np.ndarray:
        """Return the array in another type."""
        return np.array(self, dtype)

    def then(
        self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]
    ) -> DeferredArray:
        """Return what a function makes of the array, which is of this shape, deferred as well."""
        return DeferredArray(partial(_apply, function, self), shape, self.dtype)


def _apply(function: Callable[[np.ndarray], np.ndarray], array: DeferredArray) -> np.ndarray:
    return function(np.asarray(array))
