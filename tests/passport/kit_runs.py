"""Ports of the model of a kit: ldmref itself on any backend, and what of it is exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldmref.backends import get_backend
from ldmref.passport import Kit
from ldmref.passport.recorded import kit_trace, record_layers, record_with_encoder
from ldmref.trace import TraceWriter
from ldmref.trace.model import Trace


def run_port(
    kit: Kit, backend: str, dtype: str, noise: np.ndarray | None = None, together: bool = False
) -> Trace:
    """Return what ldmref computes of a kit on a backend, from its checkpoint.

    Args:
        kit: The kit.
        backend, dtype: The backend, and its number format.
        noise: Other noise than the kit's.
        together: Whether both images are generated in one batch.
    """
    run = kit_trace(kit.family)
    run = replace(run, params=run.params | {"batch_size": 2 if together else 1})
    inputs: Mapping[str, np.ndarray] = run.inputs()
    if noise is not None:
        inputs = {**inputs, "noise": noise}
    model = kit.model(get_backend(backend, dtype=dtype))
    found = record_with_encoder(run, model, inputs, record_layers)
    return Trace(found.tensors, tuple(found.entries), found.manifest)


def without(port: Trace, *calls: str) -> Trace:
    """Return a dump that lacks some calls."""
    kept = tuple(entry for entry in port.entries if entry.call not in calls)
    return Trace(port.tensors, kept, port.manifest)


def save_port(port: Trace, folder: Path) -> None:
    """Write a dump as a folder, which also says which layers are fused."""
    writer = TraceWriter(folder, port.manifest)
    for call, entries in port.by_call.items():
        names = {name for e in entries for name in (*e.inputs.values(), *e.outputs.values())}
        writer.write_call(call, entries, {name: np.asarray(port.tensors[name]) for name in names})
    writer.close()
