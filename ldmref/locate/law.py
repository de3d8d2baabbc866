"""The law of all verdicts: which errors are rounding, and which causes explain the others.

All errors are relative to the largest value of the expected array. With the noise floor f of a
computation, the error that ldmref makes in the port's number format, and the unit u of that format:

- an error of at most 16 max(f, u / 2) is rounding; half a unit is the rounding of the result alone;
- a cause explains an error if what it leaves is rounding, and at most a quarter of the error, so
  that a cause never explains an error that it hardly changes.

Layers and what lies between networks are judged by it alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import TypeVar

Cause = TypeVar("Cause")

NOISE = 16.0  # floors: rounding in another order, or by another kernel
CERTAIN = 100.0  # floors: more than any order of summation explains
GAIN = 4.0  # factor by which a cause must reduce the error


def noise_floor(floor: float, epsilon: float) -> float:
    """Return the noise floor of a result: at least half a unit, which is its own rounding.

    Args:
        floor: The error that ldmref makes in the port's format. Infinity: it overflows, and a unit
            stands for it.
        epsilon: The unit of rounding of that format, of 1.

    >>> noise_floor(0.0, 2.0**-7), noise_floor(float("inf"), 2.0**-7)
    (0.00390625, 0.0078125)
    """
    return max(floor, epsilon / 2.0) if isfinite(floor) else epsilon


def allowed_error(floor: float, epsilon: float = 0.0) -> float:
    """Return the largest error that is rounding.

    Args:
        floor: The noise floor, relative; 0: it is not known.
        epsilon: The unit of rounding of the port's number format, of 1.

    >>> allowed_error(0.0, 2.0**-7), allowed_error(1.0, 2.0**-7)
    (0.0625, 16.0)
    """
    return NOISE * max(floor, epsilon / 2.0)


def explains(left: float, error: float, allowed: float) -> bool:
    """Return whether a cause explains an error.

    Args:
        left: The error that it leaves.
        error: The error without it.
        allowed: The largest error that is rounding.

    >>> explains(1e-7, 0.5, 1e-6), explains(1.6, 287.0, 1e-6), explains(5e-7, 1e-6, 1e-6)
    (True, False, False)
    """
    return left < error and left <= min(allowed, error / GAIN)


def is_clearly_better(left: float, best: float) -> bool:
    """Return whether a cause leaves so much less than an earlier one that it replaces it.

    Causes are tried in the order in which they are usual, so one that rounding prefers does not.

    >>> is_clearly_better(1e-7, 1e-6), is_clearly_better(0.9e-6, 1e-6)
    (True, False)
    """
    return left < best / 2.0


def choose_cause(
    tried: Iterable[tuple[Cause, float]], error: float, allowed: float
) -> tuple[Cause, float] | None:
    """Return the cause that explains an error, and what it leaves; None if none does.

    It is the first one, or a later one that is clearly better.

    Args:
        tried: Causes with the errors that they leave.
        error: The error without a cause.
        allowed: The largest error that is rounding.

    >>> choose_cause([("a", 0.4), ("b", 3e-7), ("c", 2e-7), ("d", 1e-8)], 0.5, 1e-6)
    ('d', 1e-08)
    """
    best = None
    for cause, left in tried:
        if explains(left, error, allowed) and (best is None or is_clearly_better(left, best[1])):
            best = cause, left
    return best
