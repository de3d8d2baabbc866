"""The original of a port of a kit: the kit's model, with the kit's inputs where a dump has none."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import replace

import numpy as np

from ldmref.locate.diff import ModelOriginal
from ldmref.locate.faults.table import ROTATIONS
from ldmref.locate.findings import DIFFERS, EQUAL, NOISY, UNKNOWN, WIRING, Row
from ldmref.locate.original import PortOriginal
from ldmref.models.model import LatentDiffusion
from ldmref.passport.apart import RowsApart, with_schedules
from ldmref.passport.batches import CallRow, RowMatch, RowReader, batch_of
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, tensor_name

PIPELINE = "pipeline"  # of a manifest: the class of diffusers that was recorded
BATCH = "batch"  # the kind of a row that is right in its batch, and not alone
READS_BATCH = (
    "right for the batch, and another result than the row alone: it reads padding or others"
)
AS_DIFFUSERS = "texts of unequal length as diffusers computes them together; the kit has each alone"


class KitOriginal(ModelOriginal):
    """The model of a kit, with which the calls of a port of it are compared.

    Args:
        model: The kit's model.
        run: The kit's run, or its rows that the port has.
        whole: The kit's run. None: `run`.
    """

    def __init__(self, model: LatentDiffusion, run: Trace, whole: Trace | None = None):
        super().__init__(model)
        self.run = run
        self.whole = run if whole is None else whole

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

    def judge_host(self, port: Trace, dtype: str, notes: list[str]) -> list[Row]:
        """Return the rows of what is computed between the networks.

        Steps without a recorded schedule follow the kit's, which is not judged.
        """
        port, added = with_schedules(port, self.whole)
        return [row for row in super().judge_host(port, dtype, notes) if row.call not in added]

    def _has_inputs(self, port: Trace, call: TraceCall, layer: str) -> bool:
        entry = port.find(call, layer) if layer else None
        return entry is not None and bool(entry.inputs)


class RowsOriginal:
    """The original of a kit, with which the rows of a port's batches are compared.

    A fault of a row that its batch as the port computed it does not have is one of the batch: the
    layer is right, and reads padding or other rows.

    Args:
        original: What judges a row: the kit's model, or its modules.
        in_batch: What judges a call of the port as it is.
        port: The port's run, with its batches.
        apart: The rows.
        model: The kit's model, whose family may have a rule for texts of unequal length. None: a
            kit of modules, which have none.
    """

    def __init__(
        self,
        original: PortOriginal,
        in_batch: PortOriginal,
        port: Trace,
        apart: RowsApart,
        model: LatentDiffusion | None = None,
    ):
        self.original = original
        self.in_batch = in_batch
        self.batches = port
        self.apart = apart
        self.model = model
        self._right: dict[tuple[str, bool], set[str]] = {}

    @property
    def family(self) -> str:
        """The family of the model, "" for one that ldmref does not know."""
        return self.original.family

    @property
    def controlnets(self) -> int:
        """Number of ControlNets of the run."""
        return self.original.controlnets

    def judge_call(self, port: Trace, call: TraceCall, dtype: str, gaps: list[str]) -> list[Row]:
        """Return the rows of one row of a call."""
        match = self.apart.matches.get(call)
        if match is None:  # of a network whose rows are not known
            return self.original.judge_call(port, call, dtype, gaps)
        found = []
        for row in self.original.judge_call(port, call, dtype, gaps):
            if self._is_turned(row, match, dtype):
                continue  # as any right wire
            found.append(self._of_batch(row, match, dtype) if row.verdict == DIFFERS else row)
        if self._is_as_diffusers(match):
            found.append(Row(call, "", BATCH, verdict=UNKNOWN, note=AS_DIFFUSERS))
        return found

    def _is_as_diffusers(self, match: RowMatch) -> bool:
        """Return whether a padded row was given the arrays of diffusers' rule for its family."""
        padded = match.of_port is not None and match.of_port.padding > 0
        model = self.model if padded else None
        arrays = {} if model is None else rule_arrays(self.batches, match.port.call, model)
        entry = self.batches.find(match.port.call)
        roles = {} if entry is None else entry.inputs
        return bool(arrays) and all(
            role in roles and np.array_equal(self.batches.tensors[roles[role]], x)
            for role, x in arrays.items()
        )

    def judge_host(self, port: Trace, dtype: str, notes: list[str]) -> list[Row]:
        """Return the rows of what is computed between the networks.

        A pipeline of diffusers recorded its own request, which its batches follow.
        """
        whole = self.batches if PIPELINE in self.batches.manifest else self.apart.host
        return self.original.judge_host(whole, dtype, notes)

    def _is_turned(self, row: Row, match: RowMatch, dtype: str) -> bool:
        """Return whether a wire differs by the angle of the row's place in its batch alone.

        Behind padding in front, queries and keys are rotated by other angles than those of the row
        alone. Attention reads the differences of angles, which are the same.
        """
        behind = match.of_port is not None and match.of_port.start > 0
        rotated = row.kind == WIRING and any(name in row.segment for name in ROTATIONS)
        return (
            behind and rotated and row.layer in self._right_in_batch(match.port.call, dtype, False)
        )

    def _of_batch(self, row: Row, match: RowMatch, dtype: str) -> Row:
        """Return a row that differs; of kind `BATCH` if the whole batch is right."""
        layer = self.apart.renamed.get((str(match.port.call), row.layer), row.layer)
        if layer in self._right_in_batch(match.port.call, dtype, False):
            return replace(row, kind=BATCH, cause="", explained=None, note=READS_BATCH)
        if layer in self._right_in_batch(match.port.call, dtype, True):
            return replace(row, kind=BATCH, verdict=UNKNOWN, cause="", note=AS_DIFFUSERS)
        return row

    def _right_in_batch(self, call: TraceCall, dtype: str, together: bool) -> set[str]:
        """Return the layers of a port's call that are right as the whole batch computed them.

        Args:
            call: The port's call.
            dtype: The port's number format.
            together: Whether texts of unequal length follow diffusers' rule for the family.
        """
        key = call, together
        if key not in self._right:
            port = _with_together(self.batches, call, self.model) if together else self.batches
            rows = [] if port is None else self.in_batch.judge_call(port, call, dtype, [])
            wrong = {row.layer for row in rows if row.verdict not in (EQUAL, NOISY)}
            self._right[key] = {row.layer for row in rows} - wrong
        return self._right[key]


def rule_arrays(port: Trace, call: TraceCall, model: LatentDiffusion) -> dict[str, np.ndarray]:
    """Return the arrays of diffusers' rule for texts of unequal length, by role.

    Returns:
        The arrays; {} if the family has no such rule, or the call is of another network.
    """
    rule = model.family.text.together
    text = RowReader(port, model.denoiser).text(CallRow(call, 0))
    if rule is None or text is None or call.kind != model.denoiser.name:
        return {}
    arrays = rule(model.backend, batch_of(port, call), len(text))
    return {role: np.asarray(x) for role, x in arrays.items()}


def _with_together(port: Trace, call: TraceCall, model: LatentDiffusion | None) -> Trace | None:
    """Return a port whose call has the arrays of diffusers' rule; None if there are none."""
    arrays, entry = {} if model is None else rule_arrays(port, call, model), port.find(call)
    if not arrays or entry is None:
        return None
    added = {tensor_name(call, "", "input", role): x for role, x in arrays.items()}
    inputs = {**entry.inputs, **dict(zip(arrays, added, strict=True))}
    return port.with_entries([replace(entry, inputs=inputs)], added)


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
