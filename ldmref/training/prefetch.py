"""Batches that other processes prepare before the steps that need them.

What a batch holds on the host (which images, their captions, tokens and timesteps) depends on its
step alone, so any process can compute it. On a device that computes a step in milliseconds,
preparing it takes longer than the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")
AHEAD = 4  # steps that each process is ahead


class Prefetched(Generic[T]):
    """A function of the step whose results other processes compute, in the order of steps.

    Args:
        function: The function; its results can be pickled.
        steps: The number of steps.
        processes: The number of processes, which are forks; 0: this process computes.

    >>> squares = Prefetched(lambda step: step**2, steps=10, processes=2)
    >>> squares(3), squares(3), squares(4)
    (9, 9, 16)
    >>> squares.close()
    """

    def __init__(self, function: Callable[[int], T], steps: int, processes: int):
        self.function = function
        self.steps = steps
        self.processes = processes
        self._results: Iterator[tuple[int, T]] = iter(())
        self._last: tuple[int, T] | None = None

    def __call__(self, step: int) -> T:
        """Return the result for a step; the processes compute those of the steps that follow."""
        if self.processes == 0:
            return self.function(step)
        if self._last is None or self._last[0] != step:
            if self._last is None or self._last[0] != step - 1:
                self.close()
                self._results = self._start(step)
            self._last = next(self._results)
        return self._last[1]

    def close(self) -> None:
        """End the processes; a later step starts others."""
        self._results = iter(())
        self._last = None

    def _start(self, first: int) -> Iterator[tuple[int, T]]:
        loader = DataLoader(
            _Steps(self.function, first, self.steps),
            batch_size=None,
            collate_fn=lambda result: result,
            num_workers=self.processes,
            prefetch_factor=AHEAD,
            multiprocessing_context="fork",
        )
        return iter(loader)


class _Steps(Dataset):
    """The steps from the first on, as a data set of torch."""

    def __init__(self, function: Callable[[int], object], first: int, steps: int):
        self.function = function
        self.first = first
        self.steps = steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, i: int) -> tuple[int, object]:
        return self.first + i, self.function(self.first + i)
