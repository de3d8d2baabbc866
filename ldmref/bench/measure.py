"""Two sides in turn, A B A B: disturbances of the machine meet both."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ldmref.bench.works import Side

LEAST = 0.2  # seconds of one turn: shorter calls are repeated
MOST = 1000  # repetitions


@dataclass(frozen=True)
class Pairs:
    """What was measured of ours and theirs in each round: seconds, or bytes."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """ours / theirs, round by round."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def to_dict(self) -> dict:
        """Every number, and the ratio's median, least and greatest."""
        ratios = self.ratios
        return {
            "ours": {"values": list(self.ours), "median": statistics.median(self.ours)},
            "theirs": {"values": list(self.theirs), "median": statistics.median(self.theirs)},
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        }


def in_turn(
    ours: Callable[[int], float], theirs: Callable[[int], float], rounds: int, warm_up: int = 0
) -> Pairs:
    """`ours(i)`, `theirs(i)` for every round i; the rounds below 0 are run and not counted."""
    counted = []
    for i in range(-warm_up, rounds):
        pair = ours(i), theirs(i)
        if i >= 0:
            counted.append(pair)
    return Pairs(*(tuple(values) for values in zip(*counted, strict=True)))


def time_in_turn(
    ours: Side, theirs: Side, rounds: int, clock: Callable = time.perf_counter
) -> Pairs:
    """Seconds per call of two sides in turn, after one round that is not counted.

    Calls that take less than `LEAST` seconds are repeated within a turn, both equally often.
    """
    repeat = repeats(max(seconds(side, 1, clock) for side in (ours, theirs)))
    return in_turn(
        lambda i: seconds(ours, repeat, clock), lambda i: seconds(theirs, repeat, clock), rounds, 1
    )


def times(side: Side, rounds: int, clock: Callable = time.perf_counter) -> list[float]:
    """Seconds per call of one side alone, after one call that is not counted."""
    repeat = repeats(seconds(side, 1, clock))
    return [seconds(side, repeat, clock) for _ in range(rounds)]


def repeats(taken: float) -> int:
    """How often a call of that many seconds is repeated within a turn."""
    return min(MOST, max(1, math.ceil(LEAST / max(taken, 1e-9))))


def seconds(side: Side, repeat: int = 1, clock: Callable = time.perf_counter) -> float:
    """Seconds of one call, the mean of `repeat`."""
    side.wait()
    start = clock()
    for _ in range(repeat):
        side.call()
    side.wait()
    return (clock() - start) / repeat


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| / max |b|; infinity for other shapes, NaN or infinite numbers."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    scale = float(np.abs(b).max(initial=0.0))
    gap = float(np.abs(a - b).max(initial=0.0))
    return gap / scale if scale else (0.0 if gap == 0 else math.inf)


def gemm_peak(
    multiply: Callable[[int], Callable[[], object]], sizes: Sequence[int], repeat: int = 3
) -> float:
    """The best GFLOP/s of square matrix products; `multiply(n)` gives the product of that size."""
    best = 0.0
    for n in sizes:
        call = multiply(n)
        call()
        for _ in range(repeat):
            start = time.perf_counter()
            call()
            best = max(best, 2 * n**3 / (time.perf_counter() - start) / 1e9)
    return best
