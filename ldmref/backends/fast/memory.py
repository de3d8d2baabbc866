"""The memory that the fast NumPy operations work in: results, and scratch memory of each thread.

Operations allocate here instead of by `np.empty`, because a tape (`tape.py`) gives them recorded
arrays.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

MOST_VIEWS = 1024  # shapes and operations of a thread whose views are remembered

_local = threading.local()


class Allocator(Protocol):
    """A source of uninitialised arrays."""

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Return an uninitialised array in C order."""
        ...


@contextlib.contextmanager
def allocate_from(allocator: Allocator) -> Iterator[None]:
    """Let `allocator` make all arrays of this module on the calling thread."""
    _local.allocator = allocator
    try:
        yield
    finally:
        _local.allocator = None


def _allocator() -> Allocator | None:
    return getattr(_local, "allocator", None)


def empty(shape: Sequence[int], dtype: Any = np.float64) -> np.ndarray:
    """Return an uninitialised array, as `np.empty` does."""
    allocator = _allocator()
    return np.empty(shape, dtype) if allocator is None else allocator.empty(shape, dtype)


def make_contiguous(x: np.ndarray) -> np.ndarray:
    """Return `x` if it is in C order, otherwise a copy that is."""
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    np.copyto(y, x)
    return y


def scratch(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return an uninitialised array that reuses this thread's memory of the same name."""
    allocator = _allocator()
    if allocator is not None:
        return allocator.empty(shape, dtype)
    return remember_views((name, shape, dtype), lambda: _reuse_memory(name, shape, np.dtype(dtype)))


def _reuse_memory(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    buffers = _local.__dict__.setdefault("scratch", {})
    size = math.prod(shape)
    flat = buffers.get((name, dtype))
    if flat is None or flat.size < size:
        buffers[name, dtype] = flat = np.empty(size, dtype)
        _views().clear()
    return flat[:size].reshape(shape)


def _views() -> dict[Hashable, Any]:
    """Return the views of this thread's scratch memory."""
    return _local.__dict__.setdefault("views", {})


def remember_views(key: Hashable, make: Callable[[], Any]) -> Any:
    """Return `make()`, views of this thread's scratch memory, or those of an earlier call.

    They are forgotten when any scratch memory of the thread grows.
    """
    if _allocator() is not None:
        return make()
    views = _views()
    found = views.get(key)
    if found is None:
        found = make()
        if len(views) >= MOST_VIEWS:
            views.clear()
        views[key] = found
    return found
