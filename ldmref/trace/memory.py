"""A trace that is recorded into memory: small runs, and runs that are continued."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.io.tensors.safetensors import DTYPES
from ldmref.io.tensors.writer import KINDS, TensorSource
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, build_trace, tensor_name
from ldmref.trace.selection import Selection
from ldmref.trace.store import HostCopies


class MemoryStore:
    """Copies of the arrays of one call; bfloat16 is kept as float32."""

    def __init__(self) -> None:
        self.sources: dict[str, TensorSource] = {}
        self.shared: dict[str, str] = {}

    def add(self, ops: HostCopies, name: str, x: object) -> None:
        """Copy an array, or a number, under a name."""
        on_host = isinstance(x, np.ndarray | np.generic | float | int)
        array = np.array(x if on_host else ops.to_numpy(x), order="C")
        kind = KINDS[array.dtype.newbyteorder("<")]
        array = array.astype(DTYPES[kind], copy=False)
        self.sources[name] = TensorSource(kind, array.shape, lambda: array)

    def close(self) -> None:
        """Keep the arrays, which the trace holds."""


class KeptCalls:
    """The complete calls of a run.

    Args:
        before: The calls of a run that this one continues.
    """

    def __init__(self, before: KeptCalls | None = None):
        self.entries: list[TraceEntry] = [] if before is None else [*before.entries]
        self.tensors: dict[str, np.ndarray] = {} if before is None else {**before.tensors}

    def write_call(
        self,
        call: str,
        entries: Iterable[TraceEntry],
        tensors: Mapping[str, TensorSource],
        shared: Mapping[str, str],
    ) -> None:
        """Keep a call."""
        self.entries += entries
        self.tensors |= {name: source.read() for name, source in tensors.items()}

    def add(
        self,
        call: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a call of one entry; the role of an only output is ""."""
        named: list[dict[str, str]] = []
        for side, arrays in (("input", inputs), ("output", outputs)):
            names = {role or side: tensor_name(call, "", side, role) for role in arrays}
            self.tensors |= {names[role or side]: np.asarray(x) for role, x in arrays.items()}
            named.append(names)
        kept = dict(attributes or {})
        self.entries.append(TraceEntry(TraceCall(call), "", named[0], named[1], attributes=kept))

    def trace(self, manifest: Mapping[str, Any]) -> Trace:
        """Return the trace of the calls so far."""
        entries = [vars(entry) for entry in self.entries]
        return build_trace(self.tensors, {**manifest, "entries": entries})


def add_call(
    trace: Trace, call: str, outputs: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> Trace:
    """Return a trace with another call of one entry, which replaces one of the same name."""
    added = KeptCalls()
    added.add(call, {}, outputs, attributes)
    others = tuple(known for known in trace.entries if known.call != call)
    tensors = ChainMap(added.tensors, trace.tensors)  # type: ignore[arg-type]
    return replace(trace, tensors=tensors, entries=(*others, *added.entries))


def select_part(trace: Trace, selection: Selection) -> Trace:
    """Return the part of a trace that a selection takes; steps are not selected.

    Args:
        trace: A trace, whose tensors stay where they are.
        selection: Its calls, layers and tensors.
    """

    def keep(entry: TraceEntry, side: str, names: Mapping[str, str]) -> dict[str, str]:
        return {
            role: name
            for role, name in names.items()
            if selection.takes_tensor(tensor_name(entry.call, entry.layer, side, role))
        }

    entries = tuple(
        replace(
            entry,
            inputs=keep(entry, "input", entry.inputs),
            outputs=keep(entry, "output", entry.outputs),
        )
        for entry in trace.entries
        if selection.takes_call(entry.call, None) and selection.takes_layer(entry.layer)
    )
    manifest = {**trace.manifest, "selection": dict(selection.record)}
    return replace(trace, entries=entries, manifest=manifest)
