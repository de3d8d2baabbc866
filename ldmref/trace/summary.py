"""Summaries of a trace: its calls, and the values of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ldmref.trace.model import Trace, TraceEntry
from ldmref.trace.selection import Selection
from ldmref.trace.store import KINDS


@dataclass(frozen=True)
class CallSummary:
    """A call: the number of its layers, and the bytes of the tensors that they name.

    Tensors that are stored once under several names are counted once.
    """

    call: str
    layers: int
    tensors: int
    bytes: int


@dataclass(frozen=True)
class TensorSummary:
    """The values of one tensor; least, greatest and mean are those of its finite values.

    They are None without finite values.
    """

    call: str
    layer: str
    kind: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    least: float | None
    greatest: float | None
    mean: float | None
    nan: int
    infinite: int


def summarize_calls(trace: Trace) -> list[CallSummary]:
    """Return a summary of each call, without looking at values."""
    rows = []
    for call in trace.calls:
        entries = list(trace.of_call(call))
        names = {name for entry in entries for name in names_of(entry).values()}
        size = sum(trace.tensors[name].nbytes for name in names)
        layers = sum(1 for entry in entries if entry.layer)
        rows.append(CallSummary(call, layers, len(names), size))
    return rows


def summarize_tensors(trace: Trace, selection: Selection) -> Iterator[TensorSummary]:
    """Yield a summary of each selected tensor, in the order of the trace."""
    for entry in trace.entries:
        if selection.takes_call(entry.call, None) and selection.takes_layer(entry.layer):
            for role, name in names_of(entry).items():
                yield _summarize(trace, entry, role, name)


def names_of(entry: TraceEntry) -> dict[str, str]:
    """Return the tensor names of an entry: `input`, `input.k`, `output`."""
    named = {}
    for side, tensors in (("input", entry.inputs), ("output", entry.outputs)):
        for role, name in tensors.items():
            named[role if role == side else f"{side}.{role}"] = name
    return named


def _summarize(trace: Trace, entry: TraceEntry, role: str, name: str) -> TensorSummary:
    values = np.asarray(trace.tensors[name])
    stored = trace.kinds.get(name) or KINDS.get(values.dtype, str(values.dtype))
    least = greatest = mean = None
    nan = 0
    infinite = 0
    if values.dtype.kind == "f":
        nan = int(np.isnan(values).sum())
        infinite = int(np.isinf(values).sum())
    finite = values if not nan + infinite else values[np.isfinite(values)]
    if finite.size:
        least = float(finite.min())
        greatest = float(finite.max())
        mean = float(np.mean(finite, dtype=np.float64))
    return TensorSummary(
        entry.call,
        entry.layer,
        entry.kind,
        role,
        stored,
        tuple(values.shape),
        least,
        greatest,
        mean,
        nan,
        infinite,
    )
