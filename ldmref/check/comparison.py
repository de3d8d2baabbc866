"""The deviation of a result from its oracle, in units of rounding."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ldmref.check.axes import axis_text

# (got, expected) or (got, expected, scale): arrays or numbers; lists of them, compared item by
# item; or, for `got`, a dict that names the items of the list `expected`
Comparison: TypeAlias = tuple[Any, Any] | tuple[Any, Any, Any]


class Deviation(NamedTuple):
    """The worst element of a comparison: error in units of rounding, index, both values."""

    ulps: float
    element: tuple[int, ...] = ()
    got: float = 0.0
    expected: float = 0.0
    shapes: str = ""  # both shapes, or numbers of items, if they differ
    part: str = ""  # the name of the item, if it has one

    def __str__(self) -> str:
        part = f"{self.part}: " if self.part else ""
        if self.shapes:
            return f"{part}shapes differ: {self.shapes}"
        got, expected = distinct(self.got, self.expected)
        element = f", at {list(self.element)}" if self.element else ""
        return f"{part}got {got}, the oracle has {expected}{element}"


def distinct(a: float, b: float) -> tuple[str, str]:
    """Format both numbers with two digits more than it takes to tell them apart, at most 17.

    >>> distinct(0.5, 0.75)
    ('0.5', '0.75')
    >>> distinct(-1.5460081234, -1.5460081198)
    ('-1.5460081234', '-1.5460081198')
    """
    digits = next((n for n in range(4, 15) if f"{a:.{n}g}" != f"{b:.{n}g}"), 15)
    return f"{a:.{digits + 2}g}", f"{b:.{digits + 2}g}"


def as_numpy(x: Any) -> np.ndarray:
    """Convert a number or an array of any library to a NumPy array of the same dtype."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    elif hasattr(x, "get"):
        x = x.get()
    return np.asarray(x)


def to_host(x: object) -> np.ndarray:
    """Convert a number or an array of any library to a float64 NumPy array."""
    return np.asarray(as_numpy(x), np.float64)


def spread(x: object, like: Any) -> np.ndarray:
    """Broadcast a result to the shape of `like`, on the host.

    A result that cannot be broadcast is returned as it is, and the comparison reports it.

    >>> spread(0.5, np.zeros((1, 2)))
    array([[0.5, 0.5]])
    """
    host = to_host(x)
    shape = tuple(like.shape)
    try:
        return np.broadcast_to(host, shape)
    except ValueError:
        return host


def deviation(comparison: Comparison, eps: float) -> Deviation:
    """Return the largest |got - expected| in units of eps * max(|expected|, scale).

    The scale is 1 by default. The deviation is infinite for NaN and for different shapes. Lists are
    compared item by item.

    >>> deviation(([1.0, 2.5], [1.0, 2.0]), eps=0.25)
    Deviation(ulps=1.0, element=(1,), got=2.5, expected=2.0, shapes='', part='')
    """
    got, expected = comparison[:2]
    scale = comparison[2] if len(comparison) > 2 else 1.0
    if not isinstance(got, list | dict):
        return _array_deviation(to_host(got), to_host(expected), to_host(scale), eps)
    if len(got) != len(expected):
        return Deviation(np.inf, shapes=f"got {len(got)} items, the oracle has {len(expected)}")
    items = [*got.values()] if isinstance(got, dict) else got
    worst = Deviation(0.0)
    for i, pair in enumerate(zip(items, expected, strict=True)):
        item = deviation((*pair, scale), eps)
        if item.ulps > worst.ulps:
            named = isinstance(got, dict)
            worst = item._replace(
                part=[*got][i] if named else item.part,
                element=item.element if named else (i, *item.element),
            )
    return worst


def _array_deviation(
    got: np.ndarray, expected: np.ndarray, scale: np.ndarray, eps: float
) -> Deviation:
    if got.shape != expected.shape:
        which = axis_text(got.shape, expected.shape)
        shapes = f"got {got.shape}, the oracle has {expected.shape}: {which}"
        return Deviation(np.inf, shapes=shapes)
    if not got.size:
        return Deviation(0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        difference = np.abs(got - expected)
        error = difference / (eps * np.maximum(np.abs(expected), scale))
    error = np.where(difference == 0.0, 0.0, np.where(np.isfinite(error), error, np.inf))
    index = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    return Deviation(float(error[index]), index, float(got[index]), float(expected[index]))
