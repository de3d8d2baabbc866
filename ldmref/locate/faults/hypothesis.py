"""A hypothesis: one change of a part with which it is computed again, and its words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.replay.points import FollowedRun, OperationChange, Point


@dataclass(frozen=True)
class Hypothesis:
    """A known fault of a part: what is changed to compute it again, or the array that it gives.

    Attributes:
        text: The fault in words.
        changes: Functions by the names of the operations that they replace.
        arguments: Other inputs of the part. None: its own.
        free: Whether recorded layers are also computed again.
        array: The array that the fault gives. None: the part is computed again.
    """

    text: str
    changes: Mapping[str, OperationChange] | None = None
    arguments: Mapping[str, Any] | None = None
    free: bool = False
    array: np.ndarray | None = None

    def compute(self, replay: FollowedRun, point: Point, low: bool = False) -> np.ndarray | None:
        """Return the array with this fault; None if the fault does not fit the shapes.

        Args:
            replay: The replay that computed the point.
            point: The array that is wrong.
            low: Whether to compute in the port's number format.
        """
        if self.array is not None:
            return point.kept(self.array)
        try:
            found = replay.rerun(
                point, self.changes, arguments=self.arguments, low=low, free=self.free
            )
        except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
            return None
        return None if found is None else point.kept(found)

    def joined(self, other: Hypothesis) -> Hypothesis | None:
        """Return both faults at once; None if one of them gives an array, or both an argument."""
        shared = (self.arguments or {}).keys() & (other.arguments or {}).keys()
        if self.array is not None or other.array is not None or shared:
            return None
        changes = dict(self.changes or {})
        for name, change in (other.changes or {}).items():
            changes[name] = _compose(changes[name], change) if name in changes else change
        arguments = {**(self.arguments or {}), **(other.arguments or {})}
        text = f"{self.text}, and {other.text}"
        return Hypothesis(text, changes, arguments or None, self.free or other.free)


def together(
    calls: Sequence[LayerCall], variants: Iterable[tuple[str, OperationChange]]
) -> Iterator[Hypothesis]:
    """Yield each variant of an operation as a fault that all of some operations have."""
    for text, change in variants:
        yield Hypothesis(text, {call.name: change for call in calls})


def _compose(outer: OperationChange, inner: OperationChange) -> OperationChange:
    """Return a change that computes with `inner` what `outer` takes for the right operation."""

    def change(call: LayerCall, x: Mapping[str, np.ndarray]) -> np.ndarray:
        return outer(replace(call, compute=lambda y: inner(call, y)), x)

    return change
