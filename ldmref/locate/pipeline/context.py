"""The base of all judges of the pipeline: a recorded run, and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.locate.findings import DIFFERS, EQUAL, OVERFLOW, UNKNOWN, Row
from ldmref.locate.law import NOISE, allowed_error, choose_cause, noise_floor
from ldmref.locate.pipeline.coverage import RecordedArray
from ldmref.locate.pipeline.port_run import PortRun
from ldmref.locate.recorded.layouts import first_nonfinite, recognise, relative_error
from ldmref.locate.run.calls import ArrayName
from ldmref.trace.model import TraceEntry

Expected = np.ndarray | Callable[[], np.ndarray | None]


@dataclass(frozen=True)
class PipelineContext(PortRun):
    """A recorded run, and the judgement of what it computed."""

    @property
    def rounding(self) -> float:
        """The error that is allowed where no floor is computed: 16 units of the port's format."""
        return NOISE * self.epsilon

    def judge(
        self,
        recorded: RecordedArray,
        kind: str,
        expected: np.ndarray,
        *,
        floor: float = 0.0,
        least: float | None = None,
        variants: Iterable[tuple[str, Expected]] = (),
        segment: str = "",
    ) -> Row:
        """Compare a recorded array with the expected one, and look for the cause.

        Args:
            recorded: The recorded array.
            kind: The computation.
            expected: What it should be.
            floor: The noise of the computation in the port's format, relative.
            least: The error that is allowed at least; None: 16 units of rounding.
            variants: Known faults: words, and what they would give.
            segment: What leads to an input.
        """
        got = recorded.array
        overflows = not np.isfinite(floor)
        floor = noise_floor(floor, self.epsilon)
        allowed = max(allowed_error(floor), self.rounding if least is None else least)
        bad = first_nonfinite(got)
        if first_nonfinite(expected):
            why = f"{bad}, as upstream" if bad else "what it is computed from is not finite"
            return self.row(recorded, kind, verdict=UNKNOWN, note=why, segment=segment)
        error = float("inf") if bad else relative_error(got, expected)
        values: dict[str, Any] = {"error": error, "allowed": allowed, "floor": floor}
        row = self.row(recorded, kind, **values, note=bad, segment=segment)
        if error <= allowed:
            return replace(row, verdict=EQUAL)
        tried = ((text, _error_left(got, variant)) for text, variant in variants)
        cause, explained = choose_cause(tried, error, allowed) or ("", None)
        if overflows and not cause and not bad:
            return self.row(recorded, kind, verdict=UNKNOWN, note=OVERFLOW.format(self.dtype))
        if not cause:
            layout = recognise(got, expected, max(allowed, 1e-6))
            cause = layout.text if layout else ""
            explained = relative_error(layout.array, expected) if layout else None
            if layout is not None and layout.harmless:
                return replace(row, verdict=EQUAL, error=explained or 0.0, note=layout.text)
        return replace(row, verdict=DIFFERS, cause=cause, explained=explained)

    def row(self, recorded: RecordedArray, kind: str, layer: str = "", **values: Any) -> Row:
        """Return a row of what a comparison of a recorded array found.

        Args:
            recorded: The recorded array.
            kind: The computation.
            layer: The layer that has the row, or the role.
            **values: The rest of the row.
        """
        self.coverage.note(recorded.names)
        return Row(recorded.call, layer, kind, **values)

    def agrees(self, recorded: RecordedArray, expected: np.ndarray) -> bool:
        """Return whether a recorded array is exactly another one, which needs no row."""
        equal = np.array_equal(recorded.array, expected)
        if equal:
            self.coverage.note(recorded.names)
        return equal

    def not_judged(self, entry: TraceEntry, kind: str, why: str, *names: ArrayName) -> Row:
        """Return the row of a computation that cannot be recomputed, and of its arrays."""
        self.coverage.note(names)
        return Row(entry.call, "", kind, verdict=UNKNOWN, note=why)


def _error_left(got: np.ndarray, variant: Expected) -> float:
    """Return the error that a known fault leaves; infinity if it does not apply."""
    array = variant() if callable(variant) else variant
    return float("inf") if array is None else relative_error(got, array)
