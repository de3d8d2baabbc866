"""Which of several arrays that a program's network returned are those that ldmref's returns.

Text encoders of transformers return the states of all their layers, of which a pipeline selects
those that its denoiser reads, side by side if they are several.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.names import find_role, read_array
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, tensor_name

SelectedOutputs = Mapping[str, Sequence[str]]  # by ldmref's role, the names of arrays side by side


def select_outputs(
    port: Trace,
    entry: TraceEntry,
    role: str,
    computed: np.ndarray,
    others: Collection[str] = (),
    taken: Collection[str] = (),
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
        taken: The names of arrays that are its earlier outputs. An encoder that returns one array
            returns the mean, and no log-variance.
    """
    if role in entry.outputs:
        return (entry.outputs[role],)
    alone = find_role(entry.outputs, role)
    known = {find_role(entry.outputs, other) for other in others} | {*taken}
    shapes = {name: port.tensors[name].shape for name in entry.outputs.values()}
    same = [name for name, shape in shapes.items() if name not in known and shape == computed.shape]
    if same:
        return (_nearest(port, same, computed),)
    parts = [name for name in shapes if name not in known and _holds(shapes[name], computed.shape)]
    if not parts:
        return (alone,) if alone else ()
    pieces = np.split(computed, computed.shape[-1] // shapes[parts[0]][-1], axis=-1)
    return tuple(_nearest(port, parts, piece) for piece in pieces)


def _nearest(port: Trace, names: Sequence[str], computed: np.ndarray) -> str:
    """Return the name of the recorded array that differs least from a computed one."""
    return min(names, key=lambda name: relative_error(read_array(port, name), computed))


def _holds(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Return whether an array has the rows of another one, of whose channels it may be a part."""
    same = len(shape) == len(whole) == 3 and shape[:2] == whole[:2]
    return same and shape[2] > 1 and whole[2] % shape[2] == 0


def read_selected(port: Trace, names: Sequence[str]) -> np.ndarray:
    """Return the recorded arrays of some names, side by side."""
    arrays = [read_array(port, name) for name in names]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def with_selected(port: Trace, selected: Mapping[TraceCall, SelectedOutputs]) -> Trace:
    """Return a port whose networks return the selected arrays alone, by ldmref's roles."""
    changed = []
    added: dict[str, np.ndarray] = {}
    for call, found in selected.items():
        entry = port.find(call)
        if entry is None:
            continue
        outputs = {}
        for role, names in found.items():
            outputs[role] = names[0]
            if len(names) > 1:
                outputs[role] = tensor_name(call, "", "output", role)
                added[outputs[role]] = read_selected(port, names)
        changed.append(replace(entry, outputs=outputs))
    return port.with_entries(changed, added)
