"""Whether functions under test return what ldmref's own functions return for the same calls.

An identity compares numbers that are computed from the results, so it may hold for a result of
another shape: a sum over axes that the identity adds up anyway, or one that is spread over them. It
may also hold for other numbers: noise has the same law as its negative. Each case is therefore
computed twice, with the functions under test and with ldmref's, and what both return is compared
call by call.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ldmref.check.axes import axis_text
from ldmref.check.comparison import distinct
from ldmref.check.identity import public
from ldmref.check.watching import Leaf, WatchedCall

IN_LAW = "IN LAW ONLY"
# Each component of these is determined only up to its sign.
UP_TO_SIGN = {("principal_components", "components")}
KINDS = {"b": "truth values", "i": "integers", "u": "integers", "f": "floats", "c": "complex"}
NOISES = ("eps", "noise", "noises")


class Disagreement(NamedTuple):
    """How a result differs from ldmref's for the same call.

    Args:
        text: What was returned and what ldmref returns.
        in_law: Whether only its numbers differ: an identity that holds makes it right in law.
        of_shape: Whether its shape differs, or the number of its values.
    """

    text: str
    in_law: bool = False
    of_shape: bool = False


class ArrayKind(NamedTuple):
    """The arrays that the functions get: their unit of rounding, and their library's package."""

    eps: float
    library: str


def first_fault(
    theirs: list[WatchedCall], ours: list[WatchedCall], kind: ArrayKind
) -> Disagreement | None:
    """Return the gravest difference of two lists of calls, other numbers last; None without one."""
    found = None
    for their_call, our_call in zip(theirs, ours, strict=False):
        for fault in _faults(their_call, our_call, kind):
            if not fault.in_law:
                return fault
            found = found or fault
    return found


def lost_numbers(theirs: list[WatchedCall], ours: list[WatchedCall]) -> Disagreement | None:
    """Return a NaN or infinity within other calls, where ldmref's function never returns one."""
    never = {call.function for call in ours} - {
        call.function for call in ours if _has_no_number(call)
    }
    bad = next((c.function for c in theirs if c.function in never and _has_no_number(c)), "")
    text = f"{bad} returned NaN or infinity, which ldmref's function never does here"
    return Disagreement(text) if bad else None


def _has_no_number(call: WatchedCall) -> bool:
    found = [leaf.values for leaves in call.items for leaf in leaves if leaf.values is not None]
    return not all(np.isfinite(values).all() for values in found)


def _faults(theirs: WatchedCall, ours: WatchedCall, kind: ArrayKind) -> Iterator[Disagreement]:
    name = theirs.function
    if len(theirs.items) != len(ours.items):
        yield Disagreement(f"{name} yields {len(theirs.items)} items, ldmref's {len(ours.items)}")
    for their_leaves, our_leaves in zip(theirs.items, ours.items, strict=False):
        if len(their_leaves) != len(our_leaves):
            counts = [f"{n} value{'s' * (n != 1)}" for n in (len(their_leaves), len(our_leaves))]
            returned = f"{name} returned {counts[0]}, ldmref's {counts[1]}"
            names = ", ".join(leaf.name for leaf in our_leaves)
            yield Disagreement(returned + (f": {names}" if names else ""), of_shape=True)
            continue
        for got, expected in zip(their_leaves, our_leaves, strict=True):
            if expected.values is not None:
                fault = _fault(name, got, expected, our_leaves[0], kind)
                yield from () if fault is None else (fault,)


def _fault(
    name: str, got: Leaf, expected: Leaf, first: Leaf, kind: ArrayKind
) -> Disagreement | None:
    """Compare one number or array of a result with ldmref's."""
    of = f"{expected.name} of {name}" if expected.name else name
    theirs, ours = got.values, expected.values
    if theirs is None or ours is None:
        return Disagreement(f"{of}: got no number and no array of numbers")
    spread = _spread(name, theirs, ours, first.values)
    if spread is None:
        which = axis_text(theirs.shape, ours.shape)
        text = f"{of}: shapes differ: got {theirs.shape}, ldmref has {ours.shape}: {which}"
        return Disagreement(text, of_shape=True)
    kinds = KINDS[theirs.dtype.kind], KINDS[ours.dtype.kind]
    is_number = 0 in (theirs.ndim, ours.ndim)
    # numbers alone may be any real; where ldmref returns arrays of NumPy whatever the library is,
    # those of the library are right, too
    if kinds[0] != kinds[1] and not (is_number and "complex" not in kinds):
        return Disagreement(f"{of}: got {kinds[0]}, ldmref has {kinds[1]}")
    if not is_number and got.library not in (expected.library, kind.library):
        return Disagreement(
            f"{of}: got an array of {got.library}, ldmref has one of {expected.library}"
        )
    return _other_numbers(name, of, expected.name, *spread, kind.eps)


def _spread(name: str, got: Any, expected: Any, first: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return both in one shape; None if they differ and the docstring allows only one."""
    if got.shape == expected.shape:
        return got, expected
    if first is expected or not is_broadcastable(name):
        return None
    try:
        full = [np.broadcast_to(x, first.shape) for x in (got, _by_example(expected, first))]
    except ValueError:
        return None
    return full[0], full[1]


def _by_example(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Reshape one number per example, (n,), to (n, 1, ...)."""
    return x.reshape(-1, *(1,) * (like.ndim - 1)) if x.ndim == 1 < like.ndim else x


@cache
def is_broadcastable(name: str) -> bool:
    """Return whether the docstring lets a result be any shape that broadcasts.

    >>> is_broadcastable("q_posterior"), is_broadcastable("q_sample")
    (True, False)
    """
    returns = re.search(r"Returns:\n(.*?)\n\n", inspect.getdoc(public(name)) or "", re.DOTALL)
    return bool(returns) and "broadcastable" in returns[1]


def _other_numbers(
    name: str, of: str, part: str, theirs: np.ndarray, ours: np.ndarray, eps: float
) -> Disagreement | None:
    if not theirs.size:
        return None
    theirs, ours = (np.asarray(x, np.float64) for x in (theirs, ours))
    lost = (np.isnan(theirs) & ~np.isnan(ours)) | (np.isinf(theirs) & np.isfinite(ours))
    if lost.any():
        return Disagreement(_difference(of, theirs, ours, lost))
    if (name, part) in UP_TO_SIGN:
        return None
    known = np.isfinite(ours)
    # Identities judge the digits; here only another formula counts. The root of a rounding, the
    # largest error that they allow, is far below the fourth root.
    allowed = eps**0.25 * max(1.0, np.max(np.abs(ours[known]), initial=0.0))
    with np.errstate(invalid="ignore"):
        other = known & (np.abs(theirs - ours) > allowed)
    return Disagreement(_difference(of, theirs, ours, other), in_law=True) if other.any() else None


def _difference(of: str, theirs: np.ndarray, ours: np.ndarray, where: np.ndarray) -> str:
    index = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(where))) if where.ndim else ()
    got, expected = distinct(float(theirs[index]), float(ours[index]))
    return f"{of}: got {got}, ldmref has {expected}{f', at {list(index)}' if index else ''}"


def with_negative_noise(name: str, function: Callable[..., Any]) -> Any:
    """Return one of ldmref's functions as if all noise that it gets had the opposite sign."""
    if isinstance(function, type):
        return function
    names = [*inspect.signature(public(name)).parameters]

    def negated(argument: str, value: Any) -> Any:
        if argument not in NOISES or value is None:
            return value
        return _negated(value) if callable(value) else -value

    def call(*args: object, **kwargs: object) -> Any:
        named = dict(zip(names, args, strict=False)) | kwargs
        return _steps_with_negative_noise(function(**{n: negated(n, v) for n, v in named.items()}))

    return call


def _negated(noise: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: -noise(*args)


def _steps_with_negative_noise(made: object) -> Any:
    if not callable(made) or hasattr(made, "dtype"):
        return made

    def call(*args: object) -> Any:
        *others, noise = args
        if len(args) == 5 and callable(noise):
            return made(*others, _negated(noise))
        return made(*args)

    return call
