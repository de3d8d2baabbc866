"""Ports of a kit that run rows of its calls in other batches, computed by ldmref's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.trace_runs import RecordedRun, make_recorder
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import family_of
from ldmref.passport import Kit
from ldmref.passport.batches import CallRow, RowReader, rows_of, tokens_axis
from ldmref.passport.recorded import record_layers
from ldmref.trace.model import Trace

PAD = 3  # tokens behind the longest text of a padded batch
Batches = Callable[[list[CallRow]], Sequence[Sequence[CallRow]]]
ChangeArrays = Callable[[DeclaredNetwork, dict[str, Any]], Mapping[str, Any]]


def all_together(rows: list[CallRow]) -> list[list[CallRow]]:
    """Return batches of both prompts: all negatives, then all positives, of each step."""
    calls = list(dict.fromkeys(at.call for at in rows))
    half = max(len(calls) // 2, 1)
    found = []
    for first in range(half):
        both = [at for row in (0, 1) for at in rows if at.row == row]
        found.append([at for at in both if calls.index(at.call) % half == first])
    return found


def one_by_one(rows: list[CallRow]) -> list[list[CallRow]]:
    """Return each half of guidance by itself."""
    return [[at] for at in rows]


def run_batches(
    kit: Kit,
    batches: Batches,
    *,
    pad: int = 0,
    change: ChangeArrays = lambda network, arrays: arrays,
    steer: Callable[[Any], Any] = lambda model: model,
) -> Trace:
    """Return the dump of a port in float32 that is given the kit's inputs of each row.

    Args:
        kit: The kit.
        batches: Returns the rows of each call of the port, of those of a network.
        pad: Tokens of padding behind the longest text, where the network has a mask.
        change: Changes the arrays of a call.
        steer: Changes the model.
    """
    model = steer(kit.model(NumpyBackend(dtype="float32")))
    found = RecordedRun({}, [], {"dtype": "float32"})
    ops = record_layers(model.backend, make_recorder(found), model.config, None)
    for network in family_of(model.config).networks(model.config):
        if network.name == "vae.encode":
            continue
        for batch in batches(rows_of(kit.trace, network.name)):
            arrays = change(network, stack_rows(kit.trace, network, batch, pad))
            params = model.params[network.params]
            ops.compile(network.function, params)(**network.settings, **arrays)
    return Trace(found.tensors, tuple(found.entries), found.manifest)


def stack_rows(
    run: Trace, network: DeclaredNetwork, batch: Sequence[CallRow], pad: int
) -> dict[str, np.ndarray]:
    """Return the inputs of some rows of a run, texts padded with other numbers than zero."""
    reader = RowReader(run, network)
    masked = any(x.content == "mask" for x in network.inputs)
    arrays = {}
    for x in network.inputs:
        rows = [reader.read(at, x) for at in batch]
        present = [row for row in rows if row is not None]
        if not present:
            continue  # of reference images, which the run does not have
        if tokens_axis(x) == 1 and masked:
            masks = [reader.mask(at) for at in batch]
            lengths = [
                len(row) if pad < 0 or m is None else int(m.sum())
                for row, m in zip(present, masks, strict=True)
            ]
            most = max(lengths) + max(pad, 0)
            fill = 0 if x.content == "mask" else 1
            present = [
                _padded(row[:n], most, fill) for row, n in zip(present, lengths, strict=True)
            ]
        array = np.stack(present)
        arrays[x.argument] = array.astype(np.float32) if array.dtype.kind == "f" else array
    return arrays


def _padded(row: np.ndarray, length: int, fill: float) -> np.ndarray:
    more = [(0, length - len(row)), *[(0, 0)] * (row.ndim - 1)]
    return np.pad(row, more, constant_values=fill)
