"""Which shifts make a list of flow times as it is printed: intervals of mu, and of tokens.

Every flow time of a row rises with mu, the logarithm of the shift, so the shifts that agree with a
printed number are an interval, and those that agree with all are the intersection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ldmref.atlas.making import shift_mu, shifted
from ldmref.atlas.table import FlowSchedule
from ldmref.samplers.flow_spacings import MU_TOKENS

TOKENS = 16, 65536  # from 64 x 64 to 4096 x 4096 pixels
MUS = -8.0, 48.0  # at 48 all flow times but 0 are 1 in float64
HALVINGS = 50  # to 5e-14
LARGEST_ASPECT = 4.0


@dataclass(frozen=True)
class Printed:
    """Flow times as they are printed.

    Args:
        times: Falling flow times, without a 0 that only ends the last step.
        precision: How far each may be from the number that was printed, (len(times),).
    """

    times: np.ndarray
    precision: np.ndarray

    def excess(self, made: np.ndarray) -> tuple[float, float]:
        """Return how far a list is above and below, in units of the precision."""
        difference = (made - self.times) / self.precision
        return float(difference.max()), float(-difference.min())


def fit_mu(row: FlowSchedule, steps: int, printed: Printed) -> tuple[float, float, float]:
    """Return the mu with which a row is nearest, and the interval of those that agree.

    Args:
        row: The row, whose own shift is ignored.
        steps: Its number of steps.
        printed: The list.

    Returns:
        The nearest mu, and the smallest and the largest that agree with every number as it is
        printed; nan and nan if none does.
    """

    def excess(mu: float) -> tuple[float, float]:
        return printed.excess(shifted(row, steps, mu))

    def is_above(mu: float) -> bool:
        above, below = excess(mu)
        return above >= below

    best = _smallest(is_above)
    if max(excess(best)) > 1:
        return best, math.nan, math.nan
    low = _smallest(lambda mu: excess(mu)[1] <= 1)
    high = -_smallest(lambda minus: excess(-minus)[0] <= 1, -MUS[1], -MUS[0])
    return best, low, high


def _smallest(holds: Callable[[float], bool], low: float = MUS[0], high: float = MUS[1]) -> float:
    """Return the smallest number from which a condition holds, which holds beyond it; or `high`."""
    if holds(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def depends_on_tokens(row: FlowSchedule) -> bool:
    """Return whether a row's flow times depend on the number of image tokens."""
    return row.shift.startswith("tokens") or row.positions == "logit-normal"


def fit_tokens(
    row: FlowSchedule, steps: int, printed: Printed, fit: tuple[float, float, float]
) -> tuple[int, int, int]:
    """Return the likeliest number of tokens of a list, and the range of those that agree.

    Args:
        row: A row that depends on the number of tokens.
        steps: Its number of steps.
        printed: The list.
        fit: What `fit_mu` returns for it.

    Returns:
        The number, the smallest and the largest that agree; 0 and 0 if none does, and then the
        number is the nearest. Among those that agree, square images come first, then those whose
        sides are multiples of 64, then of 32 pixels.
    """
    best, low, high = fit
    agreeing: list[tuple[int, int]] = []
    nearest: list[int] = []
    for first, last in _pieces(row):
        nearest.append(_clip(_tokens_of(row, steps, best, first, last), first, last))
        if math.isnan(low):
            continue
        ends = sorted(_tokens_of(row, steps, mu, first, last) for mu in (low, high))
        a, b = max(math.ceil(ends[0] - 1e-6), first), min(math.floor(ends[1] + 1e-6), last)
        if a <= b:
            agreeing.append((a, b))
    if not agreeing:
        around = {min(max(n + k, TOKENS[0]), TOKENS[1]) for n in nearest for k in (-1, 0, 1)}
        return min(sorted(around), key=lambda n: _distance(row, steps, n, printed)), 0, 0
    a, b = agreeing[0]
    middle = max(nearest, key=lambda n: a <= n <= b)
    return min(_candidates(a, b, middle), key=lambda n: (oddness(n), abs(n - middle), n)), a, b


def _distance(row: FlowSchedule, steps: int, tokens: int, printed: Printed) -> float:
    return max(printed.excess(shifted(row, steps, shift_mu(row, steps, tokens))))


def _pieces(row: FlowSchedule) -> tuple[tuple[int, int], ...]:
    """Return the ranges of tokens within which mu is linear, or a logarithm."""
    if row.shift == "tokens and steps":
        return (TOKENS[0], MU_TOKENS), (MU_TOKENS + 1, TOKENS[1])
    return (TOKENS,)


def _tokens_of(row: FlowSchedule, steps: int, mu: float, first: int, last: int) -> float:
    """Return the number of tokens with this mu, by the line through the ends of a piece."""
    at_first, at_last = (shift_mu(row, steps, n) for n in (first, last))
    share = (mu - at_first) / (at_last - at_first)
    if row.positions == "logit-normal":
        return first * (last / first) ** min(max(share, -1.0), 2.0)
    return first + share * (last - first)


def _clip(tokens: float, first: int, last: int) -> int:
    return round(min(max(tokens, first), last))


def _candidates(first: int, last: int, middle: int) -> Iterator[int]:
    """Yield squares, and numbers near the middle, of a range of tokens."""
    yield from (side * side for side in range(math.isqrt(first - 1) + 1, math.isqrt(last) + 1))
    yield from range(max(first, middle - 256), min(last, middle + 256) + 1)


def oddness(tokens: int) -> int:
    """Return how unusual an image of this number of tokens is.

    Args:
        tokens: Number of tokens of 16 x 16 pixels; 0 for none.

    Returns:
        0 of squares with sides of whole 64 pixels, 1 of others whose sides are multiples of 64
        pixels, 2 of 32 pixels, 3 of the rest. A side is at most 4 times the other.

    >>> [oddness(tokens) for tokens in (4096, 64 * 48, 62 * 66, 63 * 63, 4155)]
    [0, 1, 2, 3, 3]
    """
    side = math.isqrt(tokens)
    if side * side == tokens and side % 4 == 0:
        return 0
    for rank, multiple in ((1, 4), (2, 2)):
        sides = range(multiple, side + 1, multiple)
        if any(
            tokens % a == 0 and (tokens // a) % multiple == 0 and tokens // a <= LARGEST_ASPECT * a
            for a in sides
        ):
            return rank
    return 3
