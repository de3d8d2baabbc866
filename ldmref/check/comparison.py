"""How far a result deviates from its oracle, in units of rounding."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

# (got, expected) or (got, expected, scale): arrays, numbers, or lists compared item by item
Comparison: TypeAlias = tuple[Any, Any] | tuple[Any, Any, Any]


class Deviation(NamedTuple):
    """The worst element of a comparison: error in units of rounding, index, both values."""

    ulps: float
    element: tuple[int, ...] = ()
    got: float = 0.0
    expected: float = 0.0
    shapes: str = ""  # the two shapes, if they differ

    def __str__(self) -> str:
        if self.shapes:
            return f"shapes differ: {self.shapes}"
        got, expected = distinct(self.got, self.expected)
        element = f", at {list(self.element)}" if self.element else ""
        return f"got {got}, the oracle has {expected}{element}"


def distinct(a: float, b: float) -> tuple[str, str]:
    """Both numbers with two digits more than it takes to tell them apart, at most 17.

    >>> distinct(0.5, 0.75)
    ('0.5', '0.75')
    >>> distinct(-1.5460081234, -1.5460081198)
    ('-1.5460081234', '-1.5460081198')
    """
    digits = next((n for n in range(4, 15) if f"{a:.{n}g}" != f"{b:.{n}g}"), 15)
    return f"{a:.{digits + 2}g}", f"{b:.{digits + 2}g}"


def to_host(x: Any) -> np.ndarray:
    """A number, or an array of any library, as float64 NumPy array."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    elif hasattr(x, "get"):
        x = x.get()
    return np.asarray(x, np.float64)


def deviation(comparison: Comparison, eps: float) -> Deviation:
    """The largest |got - expected| in units of eps * max(|expected|, scale), scale 1 by default.

    It is infinite for NaN and for different shapes. Lists are compared item by item.

    >>> deviation(([1.0, 2.5], [1.0, 2.0]), eps=0.25)
    Deviation(ulps=1.0, element=(1,), got=2.5, expected=2.0, shapes='')
    """
    got, expected = comparison[:2]
    scale = comparison[2] if len(comparison) > 2 else 1.0
    if not isinstance(got, list):
        return _array_deviation(to_host(got), to_host(expected), to_host(scale), eps)
    if len(got) != len(expected):
        return Deviation(np.inf, shapes=f"{len(got)} and {len(expected)} items")
    worst = Deviation(0.0)
    for i, items in enumerate(zip(got, expected, strict=True)):
        item = deviation((*items, scale), eps)
        if item.ulps > worst.ulps:
            worst = item._replace(element=(i, *item.element))
    return worst


def _array_deviation(
    got: np.ndarray, expected: np.ndarray, scale: np.ndarray, eps: float
) -> Deviation:
    if got.shape != expected.shape:
        return Deviation(np.inf, shapes=f"{got.shape} and {expected.shape}")
    if not got.size:
        return Deviation(0.0)
    error = np.abs(got - expected) / (eps * np.maximum(np.abs(expected), scale))
    error = np.where(np.isfinite(error), error, np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    return Deviation(float(error[index]), index, float(got[index]), float(expected[index]))
