"""Tapes: the calls of NumPy in one run of a network, to be repeated without the Python around them.

A network is run once on `RecordedArray`s, which note every function that is applied to them, with
the memory that it reads and writes. The notes are the whole computation for these shapes, because
nothing in a network depends on values: code that asks for one raises `NotRecordable`.

Repeating a tape calls the same functions on the same memory in the same order, so it gives the same
bits as the network. It saves the Python code between the calls and all allocations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ldmref.backends.fast import memory
from ldmref.backends.fast.recorded_array import (
    Lease,
    NotRecordable,
    RecordedArray,
    Slab,
    as_plain,
)

LARGEST = 2**26  # bytes of all memory of a tape


class CallTape:
    """The functions of one run with their arguments, and the memory that they use.

    Memory is reused as soon as the arrays on it are gone.

    Args:
        function: Computes a list of arrays from a list of arrays.
        arrays: Its arguments, of which copies are kept.

    Attributes:
        size: The bytes of its memory.

    Raises:
        NotRecordable: The function depends on values, or takes more memory than `LARGEST`.
    """

    def __init__(self, function: Callable[[list[Any]], list[Any]], arrays: Sequence[np.ndarray]):
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._free: list[Slab] = []
        self.size = 0
        inputs = [self.keep(x) for x in arrays]
        self._inputs: list[np.ndarray] = [as_plain(x) for x in inputs]
        with memory.allocate_from(self):
            results = function(inputs)
        self._outputs: list[np.ndarray] = [as_plain(x) for x in results]

    def empty(self, shape: Sequence[int], dtype: Any) -> RecordedArray:
        """Return an uninitialised recorded array in C order."""
        return self.allocate(np.empty(shape, dtype))

    def allocate(self, like: np.ndarray) -> RecordedArray:
        """Return an uninitialised recorded array of the shape, strides and type of another."""
        if any(d > 1 and s <= 0 for d, s in zip(like.shape, like.strides, strict=True)):
            raise NotRecordable("an array whose elements share memory")
        extent = sum((d - 1) * s for d, s in zip(like.shape, like.strides, strict=True))
        slab = self._take(extent + like.itemsize if like.size else 0)
        array = np.ndarray(like.shape, like.dtype, slab.memory, 0, like.strides)
        return RecordedArray.lend(array, Lease(self, slab))

    def free(self, slab: Slab) -> None:
        """Take back memory that no array uses any more."""
        self._free.append(slab)

    def keep(self, x: Any) -> RecordedArray:
        """Return a recorded copy of an array."""
        if not isinstance(x, np.ndarray):
            raise NotRecordable("a single value")
        array = self.allocate(x)
        np.copyto(as_plain(array), x)
        return array

    def add(self, function: Callable, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Add a call."""
        if isinstance(function, np.ufunc) and options.keys() == {"out"}:
            self._steps.append((function, (*args, options["out"])))
        else:
            self._steps.append((partial(function, **options) if options else function, args))

    def repeat(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the results for other arrays of the same shapes; for one thread at a time."""
        for target, x in zip(self._inputs, arrays, strict=True):
            np.copyto(target, x)
        with np.errstate(over="ignore"):  # GELU's polynomial may overflow (`pointwise.py`)
            for function, args in self._steps:
                function(*args)
        return [np.array(x, order="K") for x in self._outputs]

    def _take(self, size: int) -> Slab:
        """Return a free slab that is at most twice as large, or a new one."""
        for i in reversed(range(len(self._free))):  # the latest is still in the cache
            if size <= self._free[i].size <= 2 * size:
                return self._free.pop(i)
        self.size += size
        if self.size > LARGEST:
            raise NotRecordable(f"more than {LARGEST} bytes")
        return Slab(size)
