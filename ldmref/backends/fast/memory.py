"""Scratch memory of each thread, which the fast NumPy operations use again and again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

MOST_VIEWS = 1024  # shapes and operations of a thread whose views are remembered

_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return an uninitialised array that reuses this thread's memory of the same name."""
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
    views = _views()
    found = views.get(key)
    if found is None:
        found = make()
        if len(views) >= MOST_VIEWS:
            views.clear()
        views[key] = found
    return found
