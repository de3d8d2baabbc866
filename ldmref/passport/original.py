"""The original of a port of a kit: the kit's model, with the kit's inputs where a dump has none."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import replace

import numpy as np

from ldmref.locate.diff import ModelOriginal
from ldmref.locate.findings import UNKNOWN, Row
from ldmref.passport.kit import Kit
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry


class KitOriginal(ModelOriginal):
    """The model of a kit, with which the calls of a port of it are compared.

    Args:
        kit: The kit.
    """

    def __init__(self, kit: Kit):
        super().__init__(kit.model())
        self.run = kit.trace

    def judge_call(self, port: Trace, call: TraceCall, dtype: str, gaps: list[str]) -> list[Row]:
        """Return the rows of one call.

        A layer of which the dump lacks an input, such as a mask, is computed from the inputs that
        the kit has of the whole network, and from those of the layer that the dump has. Where the
        port's run is another one, such inputs are not its own: only what the layer itself computes
        is judged so, and layers with a recorded input alone.
        """
        rows = super().judge_call(port, call, dtype, gaps)
        left = {row.layer for row in rows if row.verdict == UNKNOWN and row.kind == "own"}
        left = {layer for layer in left if self._has_inputs(port, call, layer)}
        completed = complete_inputs(port, self.run, call) if left else None
        if completed is None:
            return rows
        again: dict[str, list[Row]] = {}
        for row in super().judge_call(completed, call, dtype, []):
            if row.layer in left and row.kind == "own":
                again.setdefault(row.layer, []).append(row)
        kept: list[Row] = []
        for row in rows:
            replaced = row.kind == "own" and row.layer in left and row.layer in again
            kept += again.pop(row.layer) if replaced else [row]
        return kept

    def _has_inputs(self, port: Trace, call: TraceCall, layer: str) -> bool:
        entry = port.find(call, layer) if layer else None
        return entry is not None and bool(entry.inputs)


def complete_inputs(port: Trace, run: Trace, call: TraceCall) -> Trace | None:
    """Add the inputs of a call that the kit has and the dump lacks.

    Args:
        port: The dump.
        run: The kit's run.
        call: The call.

    Returns:
        The dump; None if it lacks none, or if its arrays of the call have other sizes than the
        kit's, as those of a port of other batches.
    """
    own = port.find(call)
    of_kit = run.find(call)
    roles = {} if own is None else own.inputs
    missing = {} if of_kit is None else {k: x for k, x in of_kit.inputs.items() if k not in roles}
    if not missing or not all(has_sizes(port, entry, run) for entry in port.of_call(call)):
        return None
    entry = TraceEntry(call, "") if own is None else own
    entry = replace(entry, inputs={**roles, **missing})
    others = tuple(other for other in port.entries if other is not own)
    added = {name: np.asarray(run.tensors[name]) for name in missing.values()}
    tensors = ChainMap(added, port.tensors)  # type: ignore[arg-type]
    return replace(port, tensors=tensors, entries=(entry, *others))


def has_sizes(port: Trace, entry: TraceEntry, run: Trace) -> bool:
    """Return whether the outputs of a layer of a dump have as many numbers as those of a kit."""
    other = run.find(entry.call, entry.layer)
    if other is None:
        return True
    pairs = [(name, other.outputs.get(role)) for role, name in entry.outputs.items()]
    return all(
        np.size(port.tensors[a]) == np.size(run.tensors[b]) for a, b in pairs if b is not None
    )
