"""Arrays in a memory-mapped file, which come from the disk when they are read."""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.support.files import open_file


def find_mapping(x: object) -> tuple[mmap.mmap, np.ndarray] | None:
    """Find the mapping that an array is a view of, and the array of all its bytes.

    Returns None for other arrays.
    """
    root = None
    while isinstance(x, np.ndarray):
        root = x
        x = x.base
    return (x, root) if isinstance(x, mmap.mmap) and root is not None else None


def release_pages(x: np.ndarray) -> None:
    """Release the memory of an array's pages; they are read again when needed.

    This does nothing for arrays outside a mapped file, or on systems without such a call.
    """
    mapping = find_mapping(x)
    if mapping is None or not hasattr(mmap, "MADV_DONTNEED") or not x.size:
        return
    file, root = mapping
    low, high = np.lib.array_utils.byte_bounds(x)
    start = low - np.lib.array_utils.byte_bounds(root)[0]
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # pages that are the array's alone
    length = (start + high - low) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        file.madvise(mmap.MADV_DONTNEED, first, length)


def require_complete(x: object) -> None:
    """Refuse an array whose file has become shorter; reading it would end the process.

    Raises:
        CorruptModelError: The file has been truncated since it was opened.
    """
    mapping = find_mapping(x)
    if mapping is not None and mapping[0].size() < len(mapping[0]):
        name = os.path.basename(str(getattr(mapping[1], "filename", "") or "a file"))
        message = f"{name} was truncated while it was being read"
        raise CorruptModelError(message, code="E-FILE-CHANGED", hint="load the model again")


def hash_mapped(data: np.ndarray) -> str:
    """Return the SHA-256 of a mapped file, in hexadecimal, which stays on the disk."""
    digest = hashlib.sha256()
    for begin in range(0, len(data), 1 << 24):
        require_complete(data)
        part = data[begin : begin + (1 << 24)]
        digest.update(part.data)
        release_pages(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class ArrayReference:
    """The position of an array in a file, which is pickled instead of its bytes."""

    path: str
    size: int  # of the file; with `modified` (in ns) it tells whether the file has changed
    modified: int
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def open(self, files: dict[str, np.memmap]) -> np.ndarray:
        """Open the array; `files` holds the files that are already open, by path.

        Raises:
            InputError: The file is missing.
            CorruptModelError: The file has changed.
        """
        if self.path not in files:
            with open_file(Path(self.path)) as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
                    message = f"{self.path} has changed since the model was pickled"
                    raise CorruptModelError(message, code="E-FILE-CHANGED")
                files[self.path] = np.memmap(file, np.uint8, mode="r")
        return np.ndarray(self.shape, self.dtype, files[self.path], self.offset, self.strides)


def make_reference(x: Any) -> ArrayReference | None:
    """Make the reference to an array in a mapped file that has a name; None for others."""
    mapping = find_mapping(x)
    path = getattr(mapping[1], "filename", None) if mapping else None
    if mapping is None or path is None or not os.path.exists(path):
        return None
    status = os.stat(path)
    if status.st_size != mapping[0].size():
        return None
    bounds = np.lib.array_utils.byte_bounds
    offset = bounds(x)[0] - bounds(mapping[1])[0]
    return ArrayReference(
        str(Path(path).resolve()),
        status.st_size,
        status.st_mtime_ns,
        offset,
        x.dtype,
        x.shape,
        x.strides,
    )
