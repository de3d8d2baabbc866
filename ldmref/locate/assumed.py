"""Rows that depend on tokens or masks which were not recorded.

Other arrays that were not recorded are NaN, and so is what depends on them. Tokens and masks choose
rows, so a network is run with assumed ones: a mask that hides nothing. Where that leaves an error,
the network is run once more with other ones, and what changes is not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.findings import DIFFERS, EQUAL, UNKNOWN, Row
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.replay.networks import RecordedNetwork
from ldmref.locate.replay.points import FollowedRun, Point, PointObserver

DEPENDS = "it depends on "
NOTICED = 1e-3  # relative error that is no rounding of any format of a right array


def without_assumed(
    rows: Sequence[Row],
    network: RecordedNetwork,
    replay: Callable[[RecordedNetwork], Sequence[Row]],
) -> list[Row]:
    """Return the rows of a call, "not judged" if an assumed array may have made their error.

    Args:
        rows: The rows.
        network: The network with the recorded and the assumed arguments.
        replay: Returns the rows of the same call with other arguments.
    """
    unexplained = any(row.verdict == DIFFERS and not row.cause for row in rows)
    if not unexplained or not network.assumed:
        return [*rows]
    arguments = dict(network.arguments)
    roles = []
    for name in network.assumed:
        declared = network.network.input_of(name)
        roles.append(name if declared is None else declared.role)
        arguments[name] = _other(network.arguments[name], declared is not None and declared.below)
    other_rows = replay(replace(network, arguments=arguments))
    others = {key: row for key, row in _numbered(other_rows)}
    if _shows(rows, others):
        return [*rows]
    note = f"{DEPENDS}{' and '.join(roles)}, which was not recorded"
    return [
        Row(row.call, row.layer, row.kind, verdict=UNKNOWN, note=note, segment=row.segment)
        if row.verdict == DIFFERS
        and not row.cause
        and (key not in others or others[key].error != row.error)
        else row
        for key, row in _numbered(rows)
    ]


def _shows(rows: Sequence[Row], others: Mapping[tuple[str, str, int], Row]) -> bool:
    """Return whether a recording shows what was assumed: rows agree, and with nothing else.

    More rows must say so than those without a cause.
    """
    shown = wrong = 0
    for key, row in _numbered(rows):
        other = others.get(key)
        shown += row.verdict == EQUAL and other is not None and other.verdict == DIFFERS
        wrong += row.verdict == DIFFERS and not row.cause
    return shown > wrong


class _MaskWatcher:
    """Sees whether layers notice another mask than that with which they agree."""

    def __init__(self) -> None:
        self.noticed = False

    def observe(self, replay: FollowedRun, point: Point) -> np.ndarray:
        """Compare a recorded array, and return it for what follows."""
        recorded, computed = np.asarray(point.recorded), np.asarray(point.computed)
        if recorded.shape != computed.shape:
            return computed
        error = relative_error(point.kept(recorded), point.kept(computed))
        self.noticed = self.noticed or NOTICED < error < float("inf")
        return recorded

    def skip(self, call: LayerCall, why: str) -> None:
        """Pass by a layer that cannot be judged."""

    def refuse(self, call: LayerCall, inputs: Mapping[str, np.ndarray], why: str) -> None:
        """Pass by a layer whose inputs do not fit."""


def find_shown_masks(
    rows: Sequence[Row],
    network: RecordedNetwork,
    follow: Callable[[PointObserver, RecordedNetwork], object],
) -> dict[str, np.ndarray]:
    """Return the assumed masks, by role, that a recording shows: its layers read all tokens.

    All layers agree with a mask that hides nothing, and not with another one.

    Args:
        rows: The rows of a call.
        network: The network with the recorded and the assumed arguments.
        follow: Follows the call with an observer and other arguments.
    """
    found: dict[str, np.ndarray] = {}
    if not rows or any(row.verdict == DIFFERS or row.note.startswith(DEPENDS) for row in rows):
        return found
    for name in network.assumed:
        declared = network.network.input_of(name)
        if declared is None or declared.content != "mask":
            continue
        mask = network.arguments[name]
        watcher = _MaskWatcher()
        other = {**network.arguments, name: _other(mask, 0)}
        follow(watcher, replace(network, arguments=other))
        if watcher.noticed:
            found[declared.role] = mask
    return found


def _other(assumed: np.ndarray, below: int) -> np.ndarray:
    """Return other tokens, of which the second is the largest, or a mask of the first alone.

    A mask of a single token hides it.
    """
    if not below:
        first = np.arange(assumed.shape[-1]) == 0
        return np.where(first & (first.size > 1), assumed, 0)
    other = np.zeros(assumed.shape, np.int64)
    other[..., 1:2] = below - 1
    return other


def _numbered(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str, int], Row]]:
    """Yield the rows with what they are of: several arrays of a layer have a row each."""
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        key = (row.layer, row.kind)
        yield (*key, seen[key]), row
        seen[key] += 1
