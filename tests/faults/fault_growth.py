"""Growth of processor time, for work that cannot be counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TIMES = 8


def growth(function: Callable[[Any], Any], make: Callable[[int], Any], n: int = 1000) -> float:
    """Return the time of one input of size 8 n over that of eight inputs of size n.

    It is about 1 for linear time and 8 for quadratic time. The smallest of several ratios is taken.
    """

    def seconds(value: Any, times: int) -> float:
        start = time.thread_time()
        for _ in range(times):
            function(value)
        return time.thread_time() - start

    small, large = make(n), make(TIMES * n)
    return min(seconds(large, 1) / max(seconds(small, TIMES), 1e-6) for _ in range(5))
