"""Images that several processes make: one array, which they share."""

from __future__ import annotations

import mmap
import multiprocessing
from typing import Protocol

import numpy as np

from ldmref.errors import InputError

CHUNK = 64  # images that a process makes at a time


class Indexed(Protocol):
    """n arrays of bytes of one shape, (n, ...), each made when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: slice, /) -> np.ndarray: ...


def make_in_parallel(images: Indexed, processes: int) -> np.ndarray:
    """Return all images as one array, `images.shape` uint8, made by several processes.

    The processes are forks, so they share what this process has read. On Windows, which has no
    forks, this process makes all images.

    Args:
        images: They are made when they are indexed.
        processes: The number of processes, at least 1.

    Raises:
        InputError: A process ended early; its own message is on standard error.

    >>> class Squares:
    ...     shape = (100, 2)
    ...     def __getitem__(self, index):
    ...         return np.repeat(np.arange(100, dtype=np.uint8)[index, None], 2, 1)
    >>> make_in_parallel(Squares(), 2)[99]
    array([99, 99], dtype=uint8)
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        return images[:]
    memory = mmap.mmap(-1, int(np.prod(images.shape)))
    made = np.frombuffer(memory, np.uint8).reshape(images.shape)

    def make(number: int) -> None:
        for start in range(number * CHUNK, len(made), processes * CHUNK):
            made[start : start + CHUNK] = images[start : start + CHUNK]

    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=make, args=(number,)) for number in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise InputError("images could not be made", code="E-DATA", hint="set data.processes to 0")
    return made
