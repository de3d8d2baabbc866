"""The base of all judges of the pipeline: a recorded run, and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.locate.findings import DIFFERS, EQUAL, OVERFLOW, UNKNOWN, Row
from ldmref.locate.law import GAIN, NOISE, is_clearly_better
from ldmref.locate.layouts import first_nonfinite, recognise, relative_error
from ldmref.locate.pipeline.port_run import PortRun
from ldmref.trace.model import TraceEntry

Expected = np.ndarray | Callable[[], np.ndarray | None]


@dataclass(frozen=True)
class PipelineContext(PortRun):
    """A recorded run, and the judgement of what it computed."""

    def judge(
        self,
        entry: TraceEntry,
        kind: str,
        got: np.ndarray,
        expected: np.ndarray,
        *,
        floor: float = 0.0,
        least: float | None = None,
        variants: Iterable[tuple[str, Expected]] = (),
        segment: str = "",
    ) -> Row:
        """Compare a recorded array with the expected one, and look for the cause.

        Args:
            entry: The call.
            kind: The computation.
            got, expected: The arrays.
            floor: The noise of the computation in the port's format, relative.
            least: The error that is allowed at least; None: 16 units of rounding.
            variants: Known faults: words, and what they would give.
            segment: What leads to an input.
        """
        overflows = not np.isfinite(floor)
        floor = self.epsilon if overflows else max(floor, self.epsilon / 2.0)
        allowed = max(NOISE * floor, NOISE * self.epsilon if least is None else least)
        bad = first_nonfinite(got)
        if first_nonfinite(expected):
            why = f"{bad}, as upstream" if bad else "what it is computed from is not finite"
            return replace(self.not_judged(entry, kind, why), segment=segment)
        error = float("inf") if bad else relative_error(got, expected)
        values: dict[str, Any] = {"error": error, "allowed": allowed, "floor": floor}
        row = Row(entry.call, "", kind, **values, note=bad, segment=segment)
        if error <= allowed:
            return replace(row, verdict=EQUAL)
        best = ("", min(allowed, error / GAIN))
        for text, variant in variants:
            array = variant() if callable(variant) else variant
            left = float("inf") if array is None else relative_error(got, array)
            clearly = is_clearly_better(left, best[1]) if best[0] else left <= best[1]
            if clearly:  # the usual faults come first
                best = (text, left)
        cause, explained = best
        if overflows and not cause and not bad:
            return self.not_judged(entry, kind, OVERFLOW.format(self.dtype))
        if not cause:
            layout = recognise(got, expected, max(allowed, 1e-6))
            cause = layout.text if layout else ""
            explained = relative_error(layout.array, expected) if layout else None
            if layout is not None and layout.harmless:
                return replace(row, verdict=EQUAL, error=explained or 0.0, note=layout.text)
        return replace(row, verdict=DIFFERS, cause=cause, explained=explained)

    def unless_changed(self, row: Row, name: str) -> Row:
        """Return a row, "not judged" if it differs and a callback of the run may have caused that.

        Args:
            row: The row.
            name: The array of the pipeline, "latents" or "prompt_embeds".
        """
        changed = self.request.get("callback_on_step_end_tensor_inputs", ["latents"])
        if row.verdict != DIFFERS or not self.request.get("callback_on_step_end"):
            return row
        if name not in changed:
            return row
        note = f"it is another one; the callback of the run may have changed its {name}"
        return Row(row.call, "", row.kind, verdict=UNKNOWN, note=note, segment=row.segment)

    def not_judged(self, entry: TraceEntry, kind: str, why: str) -> Row:
        """Return the row of a computation that cannot be recomputed."""
        return Row(entry.call, "", kind, verdict=UNKNOWN, note=why)
