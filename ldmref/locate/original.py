"""The original of a port, and the comparison with it: one judge for any original.

An original computes each layer of a port again: a model of ldmref (`ldmref.locate.diff`), or
modules of PyTorch (`ldmref.locate.modules`). It yields rows; the report, its verdict and its exit
code are the same for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ldmref.errors import UsageError
from ldmref.locate.findings import DiffReport, Row
from ldmref.locate.preflight import find_gaps, require_comparable, with_request
from ldmref.locate.reasonable import mark_reasonable
from ldmref.locate.recorded.precision import port_dtype
from ldmref.locate.rows import NARROW, compare_reference, identical_dumps, less_strict
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace

CODE = "E-TRACE"

CallProgress = Callable[[int, int, str], None]


class PortOriginal(Protocol):
    """An object that computes the layers of a port again."""

    @property
    def family(self) -> str:
        """The family of the model, "" for one that ldmref does not know."""
        ...

    @property
    def controlnets(self) -> int:
        """Number of ControlNets of the run, each of which has its own layers."""
        ...

    def judge_call(self, port: Trace, call: TraceCall, dtype: str, gaps: list[str]) -> list[Row]:
        """Return the rows of one call.

        Args:
            port: The trace.
            call: The call.
            dtype: The number format by which the port is judged.
            gaps: What is not judged is added here.
        """
        ...

    def judge_host(self, port: Trace, dtype: str, notes: list[str]) -> list[Row]:
        """Return the rows of what is computed between the networks.

        Args:
            port: The trace.
            dtype: The number format by which the port is judged.
            notes: Remarks are added here.
        """
        ...


def compare(
    port: Trace,
    original: PortOriginal | None,
    reference: Trace | None = None,
    dtype: str | None = None,
    progress: CallProgress | None = None,
) -> DiffReport:
    """Compare a port with an original, and with a reference.

    Args:
        port: The trace of the port.
        original: What computes its layers again. None: they are only compared with the reference.
        reference: A trace of the same run. None: there is none.
        dtype: The port's number format. None: as recorded.
        progress: Called as `progress(calls done, calls, call)`. None: nothing is called.

    Raises:
        UsageError: The trace has no call, or holds no results; or there is nothing to compare with.
    """
    start = time.perf_counter()
    form = port_dtype(port, dtype)
    port = with_request(port, reference)
    calls = port.calls
    if not calls:
        raise UsageError(
            f"{port.source or 'the trace'} has no tensor named CALL/LAYER/input or /output",
            code=CODE,
            hint="docs/traces.md has the names",
        )
    if original is None and reference is None:
        message = "there is neither a model nor a reference to compare with"
        raise UsageError(message, code=CODE, hint="give one of them")
    require_comparable(port, reference, form)
    rows: list[Row] = []
    notes: list[str] = []
    gaps = find_gaps(port, 0 if original is None else original.controlnets)
    for done, call in enumerate(calls):
        if progress is not None:
            progress(done, len(calls), call)
        if original is not None:
            again = partial(original.judge_call, port, call, NARROW, [])
            rows += less_strict(original.judge_call(port, call, form, gaps), again, form)
    if original is not None:
        host = original.judge_host(port, form, notes)
        rows += less_strict(host, partial(original.judge_host, port, NARROW, []), form)
        rows = [mark_reasonable(row, original.family) for row in rows]
    rows = identical_dumps(port, rows)
    if reference is not None:
        rows, doubts = compare_reference(port, reference, rows)
        notes += doubts
    if progress is not None:
        progress(len(calls), len(calls), "")
    order: dict[str, int] = {call: i for i, call in enumerate(calls)}
    rows.sort(key=lambda row: order.get(row.call, len(order)))
    return DiffReport(
        tuple(rows),
        port.source,
        form,
        tuple(dict.fromkeys(notes)),
        time.perf_counter() - start,
        tuple(dict.fromkeys(gaps)),
    )
