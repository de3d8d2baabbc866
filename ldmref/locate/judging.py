"""The judge of a replay: which differences are rounding, and which are faults.

An error is relative to the largest value of the expected array. It is compared with

- the noise floor: the same part computed by ldmref in the port's number format, from the same
  recorded arrays (a three-way comparison: float64, the same format, the port);
- for single operations, the bound of the format (`ldmref.backends.bounds`).

An error of at most `NOISE` floors is rounding (`ldmref.locate.law`), which is what a row says is
allowed. Above that, the known faults are tried; an error that one of them explains is a fault.
Otherwise it is a fault if it is above the bound; that of a part of several operations is `CERTAIN`
floors. A port may keep an array in any order in memory, so it is judged in the nearest one. Rows of
padding (`ldmref.locate.recorded.padding`) are not compared, only counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ldmref.backends.bounds import OPERATIONS, layer_bound
from ldmref.backends.named import LayerCall
from ldmref.locate.causes.alike import AlikeLayers
from ldmref.locate.causes.diagnosis import Cause
from ldmref.locate.causes.known_causes import KnownCauses
from ldmref.locate.causes.part_faults import OF_KEYS, OF_QUERIES
from ldmref.locate.faint import find_faint_mask
from ldmref.locate.faults.norms import one_pass
from ldmref.locate.findings import DIFFERS, EQUAL, NOISY, OVERFLOW, UNKNOWN, WIRING, Row
from ldmref.locate.law import CERTAIN, allowed_error, noise_floor
from ldmref.locate.nonfinite import explain_nonfinite
from ldmref.locate.recorded.conventions import Candidate
from ldmref.locate.recorded.kept_rows import NO_ROWS, find_rows
from ldmref.locate.recorded.layouts import (
    Layout,
    find_order,
    first_nonfinite,
    largest_value,
    recognise,
    relative_error,
    resplit_heads,
    restore_order,
)
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.locate.recorded.terms import TermsObserver
from ldmref.locate.replay.points import FollowedRun, Point

ALL_PADDING = "all of its rows are padding"
NOT_RECORDED = "an input was not recorded"
NO_ELEMENTS = "it has no elements"
MOST_SHAPES = 8  # unexplained arrays of a wrong shape: those that follow have it from them
PADS = "pad_bottom_right"  # the operation before a convolution that halves rows and columns
NORMS = ("group_norm", "layer_norm")  # kernels of which differ in how they find the variance


class Judge:
    """Collects a row for every recorded array of one call.

    Args:
        call: The call.
        dtype: The port's number format.
        terms: What looks for other conventions of wrong arrays. None: nothing does.
    """

    def __init__(self, call: str, dtype: str, terms: TermsObserver | None = None):
        self.call = call
        self.terms = terms
        self.dtype = dtype
        self.epsilon = EPSILONS[dtype]
        self.rows: list[Row] = []
        self.nonfinite = False  # the port has NaN upstream
        self.causes = KnownCauses() if terms is None else terms.causes
        self.alike = AlikeLayers()
        self.shapes = AlikeLayers(MOST_SHAPES)

    def observe(self, replay: FollowedRun, point: Point) -> np.ndarray:
        """Judge a recorded array and return the value to use downstream.

        That is the recorded array, or the recomputed one if the recording is unusable.
        """
        whole = np.asarray(point.computed)
        computed = point.kept(whole)
        point = replace(point, computed=computed)
        recorded = _with_finite_padding(point, whole)
        point = replace(point, recorded=recorded)
        if point.padding is not None and point.padding.all():
            self._add(point, self._row(point, verdict=UNKNOWN, note=ALL_PADDING))
            return recorded
        if not recorded.size:
            self._add(point, self._row(point, verdict=UNKNOWN, note=NO_ELEMENTS))
            return recorded if recorded.shape == whole.shape else whole
        bad = first_nonfinite(point.kept(recorded)) if recorded.dtype.kind == "f" else ""
        if bad and np.array_equal(recorded, computed):  # the log-variance of a VQ autoencoder
            self._add(point, self._row(point))
            return recorded
        if bad:
            self._judge_nonfinite(point, bad)
            return whole
        if not _is_known(computed):
            return self._accept_unknown(point)
        allowed = allowed_error(0.0, self._epsilon(point))
        point, pads = _with_own_padding(point)
        passed = point
        point, text = self._with_rows(replay, point, allowed)
        text = _join(pads, text)
        recorded, computed = np.asarray(point.recorded), np.asarray(point.computed)
        error = relative_error(point.kept(recorded), computed)
        row = self._row(point, error=error, allowed=allowed, note=text)
        self._look_for_terms(replay, point, row, passed)
        moved = computed.dtype.kind == "f" or recorded.shape != computed.shape  # rows stay rows
        found = row.error > allowed and moved
        order = find_order(recorded, computed, point.kept) if found else None
        if order is None and recorded.shape != computed.shape:
            judged, used = self._explain_shape(replay, point, row)
            self._add(point, judged)
            return used
        judged = self._judge_order(replay, point, row, order)
        if judged.verdict == DIFFERS and not judged.cause and recorded.shape != computed.shape:
            other, used = self._explain_shape(replay, point, row)
            if other.cause:  # no order in memory, but other heads
                self._add(point, other)
                return used
        self._add(point, judged)
        return recorded if order is None else order.array

    def _epsilon(self, point: Point) -> float:
        """Return the unit of rounding of a port, or of what it stored; 0 for integers."""
        if np.asarray(point.computed).dtype.kind != "f":
            return 0.0
        return max(self.epsilon, point.unit)

    def _with_rows(self, replay: FollowedRun, point: Point, allowed: float) -> tuple[Point, str]:
        """Return a point with the expected rows of tokens, and in words what it had; "": them.

        Only denoisers that join image and text have rows that some programs leave out.
        """
        recorded, shape = np.asarray(point.recorded), np.shape(point.computed)
        joins = self.terms is not None and len(self.terms.terms.declared.joins) > 1
        if recorded.shape == shape or not joins:
            return point, ""
        known = next(restore_order(recorded, shape), None) is not None
        earlier = self.terms.terms.taken if self.terms is not None else NO_ROWS
        rows = None if known else find_rows(replay, point, allowed, earlier)
        if rows is None or self.terms is None:
            return point, ""
        self.terms.note_rows(rows)
        lacks = rows.lacks if point.padding is None else point.padding | rows.lacks
        computed = np.asarray(point.computed)
        padding = lacks if lacks.any() else None
        point = replace(point, recorded=rows.array, padding=padding)
        return replace(point, computed=point.kept(computed)), rows.text

    def _look_for_terms(self, replay: FollowedRun, point: Point, row: Row, passed: Point) -> None:
        """Look for another convention of an array that is wrong, and note one that is right.

        Args:
            replay: The replay that computed it.
            point: The array.
            row: Its row.
            passed: The array with the rows that the port has.

        Raises:
            TermsFound: There is one.
        """
        if self.terms is None:
            return
        if row.error <= row.allowed:
            self.terms.pass_by(point, passed)
            return

        def limit(found: Candidate) -> float:
            floor = self._floor(replay, point, found.arguments)
            return allowed_error(noise_floor(floor, self._epsilon(point)))

        self.terms.look(replay, point, row.error, limit)
        if passed.recorded.shape != point.recorded.shape:
            self.terms.look(replay, passed, row.error, limit)

    # -- the cases --------------------------------------------------------------------------------

    def _judge_order(
        self, replay: FollowedRun, point: Point, row: Row, order: Layout | None
    ) -> Row:
        """Judge an array in another order in memory; None: in its own."""
        if order is not None:
            point = replace(point, recorded=order.array)
            error = relative_error(point.kept(order.array), np.asarray(point.computed))
            row = replace(row, error=error, note=_join(row.note, order.text))
        if row.error > row.allowed:
            judged = self._judge_error(replay, point, row)
        else:
            self.alike.pass_by(point)
            judged = self._judge_small(replay, point, row)
        if judged.verdict == DIFFERS:
            judged = replace(judged, note=judged.note.replace("equal after", "after"))
        return judged

    def _judge_error(self, replay: FollowedRun, point: Point, row: Row) -> Row:
        """Judge an array of the right shape by floor, bound and known faults."""
        floor = self._floor(replay, point)
        overflows = not np.isfinite(floor)
        epsilon = self._epsilon(point)
        floor = noise_floor(floor, epsilon)
        limit = allowed_error(floor)
        judged = replace(row, allowed=limit, floor=floor)
        if row.error <= limit:
            return self._judge_rounded(replay, point, judged)
        bound = self._bound(replay, point)
        bound = CERTAIN * floor if bound is None else bound
        judged = replace(judged, bound=bound)
        certain = row.error > max(limit, bound) and not overflows
        found = self.causes.diagnose(replay, point, row.error, floor, certain, alike=self.alike)
        if overflows and not found.cause:
            return self._row(point, note=OVERFLOW.format(self.dtype), verdict=UNKNOWN)
        if not found.cause and (not certain or self._is_single(replay, point, row.error)):
            return replace(judged, verdict=NOISY)
        return self._blame(judged, found)

    def _judge_rounded(self, replay: FollowedRun, point: Point, row: Row) -> Row:
        """Judge an error that rounding of the inputs of a part explains which were not recorded.

        It is a fault if a cause leaves no more than rounding within the part.
        """
        if point.frame.outer is None or not point.frame.computed:
            return row
        floor = noise_floor(self._floor(replay, point, exact=True), self._epsilon(point))
        if row.error <= allowed_error(floor):
            return row
        found = self.causes.diagnose(replay, point, row.error, floor, alike=self.alike)
        tight = replace(row, allowed=allowed_error(floor), floor=floor)
        return self._blame(tight, found) if found.cause else row

    def _judge_small(self, replay: FollowedRun, point: Point, row: Row) -> Row:
        """Judge an error that has the size of rounding by its pattern, in the narrow formats."""
        if self.epsilon < EPSILONS["float16"] or not row.error:
            return row
        found = find_faint_mask(replay, point, self.epsilon)
        return row if found is None else self._blame(row, found)

    def _is_single(self, replay: FollowedRun, point: Point, error: float) -> bool:
        """Return whether an error of a port in float64 is rounding of float32.

        Some operations compute in float32 in any port: norms, timesteps and rotations of torch's
        libraries.
        """
        if self.dtype != "float64":
            return False
        with replay.in_format("float32"):
            return error <= allowed_error(self._floor(replay, point), EPSILONS["float32"])

    def _floor(
        self,
        replay: FollowedRun,
        point: Point,
        arguments: Mapping[str, np.ndarray] = MappingProxyType({}),
        exact: bool = False,
    ) -> float:
        """Return the error of ldmref in the port's number format; 0 if it cannot be computed.

        With other arguments, it is that of the part that is computed from them; if `exact`, without
        that of inputs which were not recorded.
        """
        computed = np.asarray(point.computed)
        if arguments:
            other = replay.rerun(point, arguments=arguments)
            computed = computed if other is None else point.kept(other)
            low = replay.rerun(point, arguments=arguments, low=True)
        else:
            low = replay.rerun(point, low=True, exact=exact)
        floor = 0.0 if low is None else relative_error(point.kept(low), computed)
        if point.role or point.call.composite or point.call.kind not in NORMS:
            return floor
        x = {**replay.parameters(point.call), **point.inputs}
        wide = "float64" if self.dtype == "float64" else "float32"
        with np.errstate(over="ignore", invalid="ignore"):
            other = relative_error(point.kept(one_pass(point.call, x, wide)), computed)
        return max(floor, other if np.isfinite(other) else 0.0)

    def _bound(self, replay: FollowedRun, point: Point) -> float | None:
        """Return the bound on an operation's own error, relative; None if there is none."""
        if point.role or point.call.composite or point.call.kind not in OPERATIONS:
            return None
        scale = largest_value(np.asarray(point.computed))
        if not scale:
            return None
        parameters = replay.parameters(point.call)
        bound = layer_bound(point.call, point.inputs, parameters, self.dtype, point.computed)
        largest = largest_value(point.kept(np.asarray(bound))) / scale
        return largest if np.isfinite(largest) else None

    def _explain_shape(self, replay: FollowedRun, point: Point, row: Row) -> tuple[Row, np.ndarray]:
        """Return the row of an array of a wrong shape, and what the replay continues with."""
        computed = np.asarray(point.computed)
        resplit = resplit_heads(point.recorded, computed.shape)
        floor = self._floor(replay, point)
        floor = noise_floor(floor if np.isfinite(floor) else 0.0, self._epsilon(point))
        limit = allowed_error(floor)
        layout = recognise(point.recorded, computed, limit)
        tried = point if resplit is None else replace(point, recorded=resplit)
        found = self.causes.diagnose(replay, tried, row.error, floor, alike=self.shapes)
        if layout is not None and not found.cause:
            found = Cause(layout.text, relative_error(layout.array, computed))
        note = _join(row.note, f"shape {point.recorded.shape} instead of {computed.shape}")
        judged = self._blame(replace(row, allowed=limit, note=note), found)
        return judged, computed if resplit is None else resplit

    def _judge_nonfinite(self, point: Point, bad: str) -> None:
        """Report the first array that is not finite; the replay continues with finite numbers."""
        computed = np.asarray(point.computed)
        first = not self.nonfinite
        if first and _is_known(computed):
            kind = "" if point.role else point.call.kind
            recorded = point.kept(np.asarray(point.recorded))
            cause = explain_nonfinite(recorded, computed, kind)
            row = self._row(point, error=float("inf"), note=bad, verdict=DIFFERS, cause=cause)
            self._add(point, row)
        else:
            note = f"{bad}, as upstream" if not first else bad
            self._add(point, self._row(point, note=note, verdict=UNKNOWN))
        self.nonfinite = True

    def _accept_unknown(self, point: Point) -> np.ndarray:
        """Accept an array that cannot be computed, in the order in memory that is expected."""
        recorded = point.recorded
        shape = np.shape(point.computed)
        if not point.role:
            self._add(point, self._row(point, verdict=UNKNOWN, note=NOT_RECORDED))
        if recorded.shape != shape:  # the shape may have been guessed, so the run keeps it
            layout = next(restore_order(recorded, shape), None)
            return np.asarray(point.computed) if layout is None else layout.array
        return recorded

    def skip(self, call: LayerCall, why: str) -> None:
        """Add a row for a recorded layer that cannot be judged."""
        self.rows.append(Row(self.call, call.name, verdict=UNKNOWN, note=why))

    def refuse(self, call: LayerCall, inputs: Mapping[str, np.ndarray], why: str) -> None:
        """Blame a layer whose recorded inputs do not fit its weights."""
        shapes = ", ".join(f"{role} {np.shape(x)}" for role, x in inputs.items())
        note = f"{shapes} does not fit its weights: {why}"
        row = Row(self.call, call.name, error=float("inf"), verdict=DIFFERS, note=note)
        self.rows.append(row)

    # -- rows -------------------------------------------------------------------------------------

    def _row(self, point: Point, **values) -> Row:
        kind = WIRING if point.role else "own"
        layer = point.call.name
        segment = _describe_segment(point) if point.role or point.call.composite else ""
        which = f"its output {point.part}" if point.part else ""
        note = _join(which, values.pop("note", ""))
        values["padding"] = _count_padding(point)
        return Row(self.call, layer, kind, segment=segment, note=note, **values)

    def _blame(self, row: Row, found: Cause) -> Row:
        note = _join(row.note, found.note)
        return replace(
            row, verdict=DIFFERS, cause=found.cause, explained=found.explained, note=note
        )

    def _add(self, point: Point, row: Row) -> None:
        if point.role and row.verdict == EQUAL and not row.note:
            return  # a wire that is right is not worth a line
        begin, keys, _ = row.cause.partition(OF_KEYS)
        for number, other in enumerate(self.rows if keys else ()):
            if other.layer == row.layer and other.cause.startswith(f"{begin}{OF_QUERIES}"):
                self.rows[number] = replace(other, cause=begin)
                row = replace(row, cause=begin)
        self.rows.append(row)


def _join(*notes: str) -> str:
    """Return notes as one, without those that say nothing."""
    return "; ".join(note for note in notes if note)


def _with_finite_padding(point: Point, computed: np.ndarray) -> np.ndarray:
    """Return the recorded array; rows of padding that are not finite are as computed."""
    recorded = np.asarray(point.recorded)
    if point.padding is None or recorded.shape != computed.shape or recorded.dtype.kind != "f":
        return recorded
    lost = point.padding[..., None] & ~np.isfinite(recorded)
    return np.where(lost, computed, recorded) if lost.any() else recorded


def _with_own_padding(point: Point) -> tuple[Point, str]:
    """Return a convolution's input with the row and column that it pads itself, and that it does.

    ldmref pads it by an operation of its own before. If the port's convolution pads otherwise, its
    output says so.
    """
    before = point.suspects[-1] if point.role and point.suspects else None
    if before is None or before.kind != PADS or np.ndim(point.recorded) != np.ndim(point.computed):
        return point, ""
    unpadded = np.asarray(point.computed)[..., :-1, :-1]
    recorded = np.asarray(point.recorded)
    order = find_order(recorded, unpadded)
    recorded = recorded if order is None else order.array
    if recorded.shape != unpadded.shape:
        return point, ""
    padded = np.pad(recorded, [*[(0, 0)] * (recorded.ndim - 2), (0, 1), (0, 1)])
    text = "" if order is None else order.text
    return replace(point, recorded=padded), _join(text, "it pads on the right and bottom itself")


def _count_padding(point: Point) -> int:
    """Return how many rows were not compared; those of all heads (n, heads, l) count once."""
    if point.padding is None:
        return 0
    rows = point.padding.any(axis=1) if point.padding.ndim == 3 else point.padding
    return int(np.count_nonzero(rows))


def _is_known(x: np.ndarray) -> bool:
    return x.dtype.kind != "f" or not bool(np.isnan(x).any())


def _describe_segment(point: Point) -> str:
    """Return the part that leads to a point: the recorded layer before it, and the operations."""
    after = point.after[-1] if point.after else "the start"
    names = [call.name.rpartition(".")[2] for call in point.suspects]
    between = f", {_shorten(names)}" if names else ""
    target = point.call.name or "the output"
    role = f" ({point.role})" if point.role not in ("", "input") else ""
    return f"from {after}{between} to {target}{role}"


def _shorten(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")
