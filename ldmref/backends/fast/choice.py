"""Measure whether an operation runs faster on all threads or on one.

Handing a block to another thread costs between 20 and 300 microseconds, because a thread that
returns from NumPy while another one holds the GIL is put to sleep and has to be woken. The cost
depends on the processor, the kernel and the hypervisor, so it is measured here and not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

TRIES = 3  # measurements of each alternative; the fastest counts, which disturbances cannot lower
LONG = 4e-3  # seconds on all threads above which one thread alone is not tried
GAIN = 0.8  # all threads must take at most this share of the time of one
MOST = 10_000  # operations to remember: a few hundred for each image size


class Choice:
    """The fastest seconds of one operation, on all threads and on one."""

    def __init__(self) -> None:
        self.together = math.inf
        self.alone = math.inf
        self.tries_together = 0
        self.tries_alone = 0

    @property
    def decided(self) -> bool:
        """Whether further measurements cannot change the choice."""
        return self.tries_together >= TRIES and self.tries_alone >= TRIES

    def take_threads(self) -> bool:
        """Return whether the next call runs on all threads."""
        if self.tries_together == 0 or self.together > LONG:
            return True
        if self.decided:
            return self.together < GAIN * self.alone
        return self.tries_alone >= self.tries_together

    def record(self, threads: bool, seconds: float) -> None:
        """Take one measurement into account."""
        if threads:
            self.together = min(self.together, seconds)
            self.tries_together += 1
        else:
            self.alone = min(self.alone, seconds)
            self.tries_alone += 1


_choices: dict[Hashable, Choice] = {}


def choice_for(operation: Hashable) -> Choice:
    """Return the measurements of an operation, which are kept as long as the process lives."""
    choice = _choices.get(operation)
    if choice is None:
        if len(_choices) >= MOST:
            _choices.clear()
        choice = _choices.setdefault(operation, Choice())
    return choice
