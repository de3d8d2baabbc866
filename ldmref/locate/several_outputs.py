"""Which of several arrays that a program's network returned are those that ldmref's returns.

Text encoders of transformers return the states of all their layers, of which a pipeline selects
those that its denoiser reads, side by side if they are several.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ldmref.locate.layouts import relative_error
from ldmref.locate.names import find_role, read_array
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, tensor_name

SelectedOutputs = Mapping[str, Sequence[str]]  # by ldmref's role, the names of arrays side by side


def select_outputs(
    port: Trace, entry: TraceEntry, role: str, computed: np.ndarray, others: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the names of the recorded arrays that are an output of a network; () if none is.

    It is the array of its role. If there is none, it is the nearest one of its shape, or those of
    its rows whose channels are the nearest, side by side.

    Args:
        port: The trace.
        entry: The call of the network.
        role: ldmref's role of the output.
        computed: The output.
        others: The roles of its other outputs, whose arrays are not this one.
    """
    if role in entry.outputs:
        return (entry.outputs[role],)
    alone = find_role(entry.outputs, role)
    known = {find_role(entry.outputs, other) for other in others}
    arrays = {name: read_array(port, name) for name in entry.outputs.values() if name not in known}
    fits = {name: x for name, x in arrays.items() if x is not None}
    same = [name for name, x in fits.items() if x.shape == computed.shape]
    if same:
        return (min(same, key=lambda name: relative_error(fits[name], computed)),)
    parts = [name for name, x in fits.items() if _holds_channels(x, computed)]
    if not parts:
        return (alone,) if alone else ()
    width = fits[parts[0]].shape[-1]
    pieces = np.split(computed, computed.shape[-1] // width, axis=-1)
    return tuple(min(parts, key=lambda name: relative_error(fits[name], piece)) for piece in pieces)


def _holds_channels(x: np.ndarray, whole: np.ndarray) -> bool:
    """Return whether an array has the rows of another one, of whose channels it may be a part."""
    same = x.ndim == whole.ndim == 3 and x.shape[:2] == whole.shape[:2]
    return same and x.shape[2] > 1 and whole.shape[2] % x.shape[2] == 0


def read_selected(port: Trace, names: Sequence[str]) -> np.ndarray | None:
    """Return the recorded arrays of some names, side by side; None if one was not recorded."""
    arrays = [read_array(port, name) for name in names]
    if not arrays or any(x is None for x in arrays):
        return None
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def with_selected(port: Trace, selected: Mapping[TraceCall, SelectedOutputs]) -> Trace:
    """Return a port whose networks return the selected arrays alone, by ldmref's roles."""
    entries = []
    added: dict[str, np.ndarray] = {}
    for entry in port.entries:
        found = {} if entry.layer else selected.get(entry.call, {})
        outputs = {}
        for role, names in found.items():
            outputs[role] = (
                names[0] if len(names) == 1 else tensor_name(entry.call, "", "output", role)
            )
            joined = read_selected(port, names) if len(names) > 1 else None
            if joined is not None:
                added[outputs[role]] = joined
        entries.append(replace(entry, outputs=outputs) if found else entry)
    tensors = ChainMap(added, port.tensors)  # type: ignore[arg-type]
    return replace(port, entries=tuple(entries), tensors=tensors)
