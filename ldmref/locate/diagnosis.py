"""The cause of an error: a layout, a missing operation, another weight, or a known fault.

Only the part that is wrong is computed again, with one change at a time; if none explains a certain
fault, with two (`ldmref.locate.pairs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults import faults_of
from ldmref.locate.faults.attention import with_padding_mask
from ldmref.locate.faults.table import BETWEEN, IN_BLOCKS
from ldmref.locate.faults.variants import Variant
from ldmref.locate.faults.whole import argument_changes, hidden_states
from ldmref.locate.layouts import recognise, relative_error
from ldmref.locate.pairs import Hypothesis, Tried, likely_pairs, sample
from ldmref.locate.points import OperationChange, Point
from ldmref.locate.replay import Replay

MAX_RERUNS = 400  # of a part that is wrong
LARGE = 24  # operations in a part; in a larger one, a fault concerns all operations of a kind
SMALL = 2**16  # numbers of an array of a part that is quickly computed again, as often as follows
MAX_RERUNS_OF_SMALL = 1200
LARGE_OF_SMALL = 64
LEAST_KNOWN = 1 / 8  # of an array that a fault says
CLEAR = 16.0  # floors up to which an error is explained
TOGETHER = ("rotate",)  # operations that share a table: a fault concerns both or one of them
GAIN = 4.0  # factor by which a fault must reduce the error
SKIPPED = "{} is skipped: its output is its input"
LARGE_GAIN = 50.0  # the same for an error that is a fault anyway; its noise may be larger


@dataclass(frozen=True)
class Cause:
    """A cause with the error that it leaves; "" and None if none was found."""

    cause: str = ""
    explained: float | None = None
    note: str = ""


def diagnose(
    replay: Replay,
    point: Point,
    recorded: np.ndarray,
    error: float,
    floor: float,
    certain: bool = False,
) -> Cause:
    """Return the cause of an error.

    Args:
        replay: The replay that computed the point.
        point: The array that is wrong.
        recorded: The port's array, in the expected order in memory.
        error: Its relative error.
        floor: The noise floor of the part, relative.
        certain: Whether the error is a fault even if no cause is found.
    """
    recorded = np.asarray(recorded, np.float64)
    limit = min(CLEAR * floor, error / GAIN)
    if certain and np.isfinite(error):
        limit = max(limit, error / LARGE_GAIN)
    for find in (_find_identity, _find_term):
        found = find(replay, point, recorded, limit)
        if found.cause:
            return found
    found, tried = _find_known_fault(replay, point, recorded, limit)
    found = found if found.cause else _find_layout(replay, point, recorded, limit)
    clear = CLEAR * floor
    if not certain or (found.explained is not None and found.explained <= clear):
        return found
    both = _find_pair(replay, point, recorded, min(clear, error / LARGE_GAIN), tried)
    return both if both.cause else found


def _find_identity(replay: Replay, point: Point, recorded: np.ndarray, limit: float) -> Cause:
    """Find an array nearby that the recorded one equals: what should follow is missing."""
    for text, state in hidden_states(replay, point):
        if relative_error(recorded, state) <= limit:
            return Cause(text, relative_error(recorded, state))
    if len(point.suspects) == 1 and point.role:  # a single operation leads to this input
        (between,) = point.suspects
        left = relative_error(recorded, np.asarray(between.inputs["input"]))
        if left <= limit:
            return Cause(SKIPPED.format(between.name), left)
    for text, array in _nearby(replay, point):
        if array is not point.computed and relative_error(recorded, array) <= limit:
            itself = text in ("its input", f"the input of {point.call.name}")
            words = SKIPPED.format(point.call.name) if itself else f"equals {text}"
            return Cause(words, relative_error(recorded, array))
    return Cause()


def _find_term(replay: Replay, point: Point, recorded: np.ndarray, limit: float) -> Cause:
    """Find an array nearby that was not added, or was added twice."""
    computed = np.asarray(point.computed, np.float64)
    if recorded.shape != computed.shape:
        return Cause()
    for text, array in _nearby(replay, point):
        term = array[:, :, None, None] if array.ndim == 2 and computed.ndim == 4 else array
        if term.ndim != computed.ndim or not _broadcasts(term.shape, computed.shape):
            continue
        for words, factor in (("is not added", -1.0), ("is added twice", 1.0)):
            left = relative_error(recorded, computed + factor * term)
            if left <= limit:
                return Cause(f"{text} {words}", left)
    return Cause()


def _find_layout(replay: Replay, point: Point, recorded: np.ndarray, limit: float) -> Cause:
    computed = np.asarray(point.computed, np.float64)
    layout = recognise(recorded, computed, max(limit, 1e-6))
    if layout is None or relative_error(recorded, computed) <= limit:
        return Cause()
    return Cause(layout.text, relative_error(layout.array, computed))


def _find_known_fault(
    replay: Replay, point: Point, recorded: np.ndarray, limit: float
) -> tuple[Cause, list[Tried]]:
    """Find the known fault that explains the array best; return also all that were tried."""
    best = Cause(explained=limit)
    tried = []
    right = sample(point.computed)
    for count, hypothesis in enumerate(_hypotheses(replay, point)):
        if count >= (MAX_RERUNS_OF_SMALL if _is_small(point) else MAX_RERUNS):
            break
        result = hypothesis.compute(replay, point)
        left = float("inf") if result is None else _error_where_known(recorded, result)
        if result is not None and result.shape == recorded.shape:
            tried.append(Tried(hypothesis, left, sample(result) - right))
        assert best.explained is not None
        if (left < best.explained if best.cause else left <= best.explained) and np.isfinite(left):
            best = Cause(hypothesis.text, left)
    return (best if best.cause else Cause()), tried


def _find_pair(
    replay: Replay, point: Point, recorded: np.ndarray, limit: float, tried: list[Tried]
) -> Cause:
    """Find the pair of known faults that explains an array which none of both explains."""
    if recorded.shape != np.shape(point.computed) or _is_large(point):
        return Cause()
    best = Cause()
    for first, second in likely_pairs(sample(recorded) - sample(point.computed), tried):
        both = first.hypothesis.joined(second.hypothesis)
        result = None if both is None else both.compute(replay, point)
        if both is None or result is None:
            continue
        left = relative_error(recorded, result)
        needed = min(limit, first.left / GAIN, second.left / GAIN)
        if left <= needed and (best.explained is None or left < best.explained):
            best = Cause(both.text, left)
    return best


def _error_where_known(recorded: np.ndarray, result: np.ndarray) -> float:
    """Return the relative error where a fault says a number; not if it says few of them."""
    result = np.asarray(result)
    known = ~np.isnan(result) if result.dtype.kind == "f" else np.ones(result.shape, bool)
    if known.all() or recorded.shape != result.shape or known.mean() < LEAST_KNOWN:
        return relative_error(recorded, result)
    return relative_error(recorded[known], result[known])


def _hypotheses(replay: Replay, point: Point) -> Iterator[Hypothesis]:
    """Yield every known fault of a part."""
    for text, arguments, free in argument_changes(point):
        yield Hypothesis(text, None, arguments, free)
    for fault in BETWEEN:
        for text, array in fault.variants(replay, point):
            yield Hypothesis(text, array=array)
    for block_fault in IN_BLOCKS:
        for text, changes in block_fault.variants(replay, point):
            yield Hypothesis(text, changes)
    for text, changes in _changes(replay, point):
        yield Hypothesis(text, changes)


def _changes(replay: Replay, point: Point) -> Iterator[tuple[str, Mapping[str, OperationChange]]]:
    """Yield changes of one operation, or of all operations of a kind in a large part."""
    groups: dict[tuple[str, str], list[LayerCall]] = {}
    for call in point.suspects:
        alone = not _is_large(point)
        groups.setdefault((call.kind, call.name if alone else ""), []).append(call)
        if call.kind in TOGETHER and alone:
            groups.setdefault((call.kind, ""), []).append(call)
    for (kind, name), calls in groups.items():
        first = calls[0]
        for variant in _variants(replay, first):
            where = f" in {name}" if name not in ("", point.call.name) else ""
            where = f" in all {kind}" if not name and len(calls) > 1 else where
            yield f"{variant.text}{where}", {call.name: variant.change for call in calls}


def _variants(replay: Replay, call: LayerCall) -> Iterator[Variant]:
    for fault in faults_of(call.kind):
        yield from fault.variants(call)
    if call.kind in ("attention", "attend_with_bias") and replay.ids is not None:
        yield from with_padding_mask(call, replay.ids)
    for name, parameters in replay.similar_layers(call):
        yield Variant(
            f"has the weights of {name}", lambda c, x, p=parameters: c.compute({**x, **p})
        )


def _is_small(point: Point) -> bool:
    return np.size(point.computed) <= SMALL


def _is_large(point: Point) -> bool:
    """Return whether a part has too many operations to change each alone."""
    return len(point.suspects) > (LARGE_OF_SMALL if _is_small(point) else LARGE)


def _nearby(replay: Replay, point: Point) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays around a point, with their names in words."""
    for name, x in reversed(replay.recent):
        if _usable(x):
            yield f"the output of {name}", x
    for call in point.suspects:
        for role, x in call.inputs.items():
            if _usable(x):
                which = "its input" if call.name == point.call.name else f"the input of {call.name}"
                yield (which if role == "input" else f"{which} ({role})"), x
    for role, x in point.call.inputs.items():
        if _usable(x) and role != point.role:
            yield f"its input {role!r}", x
    if not point.role or point.frame.name:
        for role, x in point.frame.inputs.items():
            name = point.frame.name or "the network"
            if _usable(x):
                yield f"the input of {name}" + ("" if role == "input" else f" ({role})"), x


def _usable(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f" and bool(np.isfinite(x).all())


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return all(a in (1, b) for a, b in zip(shape, to, strict=True))
