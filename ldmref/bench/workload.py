"""`Workload`: the computation of one side of a comparison, and how long it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_SECONDS = 0.2  # of a timed round; shorter calls are repeated
MAX_REPEATS = 1000


@dataclass(frozen=True)
class Workload:
    """The computation of one side."""

    run: Callable[[], Any]
    to_numpy: Callable[[Any], np.ndarray]  # result of `run` as float32
    synchronize: Callable[[], None] = lambda: None  # wait for the device

    def output(self) -> np.ndarray:
        """Run once; return the result as float32."""
        return self.to_numpy(self.run())

    def seconds_per_call(self, repeat: int = 1) -> float:
        """Return the mean seconds of `repeat` calls."""
        self.synchronize()
        start = time.perf_counter()
        for _ in range(repeat):
            self.run()
        self.synchronize()
        return (time.perf_counter() - start) / repeat

    def repeats(self) -> int:
        """Return the calls per round, by the duration of one call."""
        return repeat_count(self.seconds_per_call())


def repeat_count(seconds: float) -> int:
    """Return the calls per round, for calls of this duration."""
    return min(MAX_REPEATS, max(1, math.ceil(MIN_SECONDS / max(seconds, 1e-9))))
