"""Arrays that lie in a memory-mapped file: they come from the disk when they are read."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


def file_of(x: Any) -> tuple[mmap.mmap, np.ndarray] | None:
    """The mapped file of which an array is a view, and the array of all its bytes; else None."""
    whole = None
    while isinstance(x, np.ndarray):
        whole, x = x, x.base
    return (x, whole) if isinstance(x, mmap.mmap) and whole is not None else None


def forget(x: np.ndarray) -> None:
    """Give back the memory of an array's pages; when it is read again, they are read again.

    Nothing happens to arrays that lie in no file, or where the system has no such call.
    """
    found = file_of(x)
    if found is None or not hasattr(mmap, "MADV_DONTNEED") or not x.size:
        return
    file, whole = found
    low, high = np.lib.array_utils.byte_bounds(x)
    start = low - np.lib.array_utils.byte_bounds(whole)[0]
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # pages that are the array's alone
    length = (start + high - low) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        file.madvise(mmap.MADV_DONTNEED, first, length)
