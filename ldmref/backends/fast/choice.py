"""Measure whether an operation runs faster on all threads or on one.

Handing a block to another thread costs between 20 and 300 microseconds, because a thread that
returns from NumPy while another one holds the GIL is put to sleep and has to be woken. The cost
depends on the processor, the kernel and the hypervisor, so it is measured here and not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

TRIES = 3  # measurements of each alternative; the fastest counts, which disturbances cannot lower
AGAIN = 50  # calls until both are measured again; then twice as many, and so on
LONG = 4e-3  # seconds on all threads above which one thread alone is not tried
GAIN = 0.8  # all threads must take at most this share of the time of one
MOST = 10_000  # operations to remember: a few hundred for each image size


class Choice:
    """The fastest seconds of one operation, on all threads and on one.

    The first calls of a process may be disturbed for longer than the measurements take: on Zen 5
    with two cores, CLIP's products then stayed on one thread, 1.5 times as slow. So measurements
    are repeated, ever more seldom.
    """

    def __init__(self) -> None:
        self.together = math.inf
        self.alone = math.inf
        self.tries_together = 0
        self.tries_alone = 0
        self.wanted = TRIES  # measurements of each
        self.left = AGAIN  # calls until more are wanted
        self.pause = AGAIN

    @property
    def decided(self) -> bool:
        """Whether the next call need not be measured."""
        return self.tries_together >= self.wanted and self.tries_alone >= self.wanted

    def take_threads(self) -> bool:
        """Return whether the next call runs on all threads."""
        if self.tries_together == 0 or self.together > LONG:
            return True
        if not self.decided:
            return self.tries_alone >= self.tries_together
        self.left -= 1
        if self.left <= 0:
            self.wanted += TRIES
            self.pause *= 2
            self.left = self.pause
        return self.together < GAIN * self.alone

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
