"""Causes that were found before: a call is followed several times, most of it from the same arrays.

The terms of a port are found by following a call in some, and again in others
(`ldmref.locate.recorded.terms`). What led to a wrong array is mostly the same then, and so is its
cause: only what differs is diagnosed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import numpy as np

from ldmref.locate.causes.alike import AlikeLayers, AlikeState
from ldmref.locate.causes.diagnosis import Cause, diagnose
from ldmref.locate.replay.points import FollowedRun, Point


class _Known(NamedTuple):
    """A cause, with what the layers alike are known for after it was found."""

    cause: Cause
    state: AlikeState


class KnownCauses:
    """What explains the wrong arrays of a call, in all runs of it with the same weights."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Known] = {}

    def diagnose(
        self,
        replay: FollowedRun,
        point: Point,
        error: float,
        floor: float,
        certain: bool = False,
        *,
        alike: AlikeLayers,
    ) -> Cause:
        """Return the cause of an error, as `ldmref.locate.causes.diagnosis.diagnose` does.

        Args:
            replay: The replay that computed the point.
            point: The array that is wrong, in the expected order in memory.
            error: Its relative error.
            floor: The noise floor of the part, relative.
            certain: Whether the error is a fault even if no cause is found.
            alike: What is known of the layers of other blocks.
        """
        kind = alike.kind_of(point)
        before = alike.cause_of(kind), alike.tries(kind), alike.looks_further
        arrays = hashlib.blake2b(digest_size=16)
        for x in _arrays_of(point):
            arrays.update(str(x.shape).encode() + np.ascontiguousarray(x).tobytes())
        names = tuple(call.name for call in point.suspects)
        place = point.call.name, point.role, point.part, point.frame.name, point.after, names
        key = place, before, floor, certain, arrays.digest()
        if key not in self._known:
            found = diagnose(replay, point, error, floor, certain, alike=alike)
            self._known[key] = _Known(found, alike.state_of(kind))
        known = self._known[key]
        alike.restore(kind, known.state)
        return known.cause


def _arrays_of(point: Point) -> Iterator[np.ndarray]:
    """Yield the arrays of a point, and those that the operations before it read."""
    yield from (np.asarray(point.recorded), np.asarray(point.computed))
    for call in point.suspects:
        yield from (np.asarray(x) for x in call.inputs.values())
    if point.frame.name:  # the arguments of a network are in the terms of the run
        yield from (np.asarray(x) for x in point.frame.inputs.values())
