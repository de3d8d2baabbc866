"""The rows of a run that was followed: one for each array that was compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.law import allowed_error, choose_cause, noise_floor
from ldmref.locate.layouts import CLOSE, first_nonfinite, recognise, relative_error
from ldmref.locate.run.calls import OUTPUT, ArrayName
from ldmref.models.declared import DeclaredNetwork
from ldmref.trace.calls import GUIDE_CALLS, TraceCall
from ldmref.trace.model import Trace, TraceEntry

# What rows call arrays: of what a call returns, by its kind; of what it reads, by its role.
RETURNED = {"guidance": "guidance", "sampler": "step", "jump": "jump"}
READ = {
    "x": "state", "sample": "state", "model_output": "prediction", "input_ids": "tokens",
    "scale": "guidance scale",
    "cond": "conditional prediction", "uncond": "unconditional prediction",
    "class_labels": "classes", "hint": "control image", "controlnet_cond": "control image",
    "mode": "kind of control image",
}  # fmt: skip
OTHER_SHAPE = "shape {} instead of {}"
RESIDUALS = "control."  # begins the roles of what ControlNets add
ARGUMENTS = {  # of networks
    "x": "latents", "context": "text", "pooled": "pooled text", "mask": "mask of the text",
}  # fmt: skip


@dataclass(frozen=True)
class RunComparison:
    """A run that was followed.

    Attributes:
        port: The recorded run.
        networks: The networks of the model, whose inputs have names.
        computed: What the run computed, by the array that was recorded in its place.
        round_again: Returns the same in the port's number format, from other roundings of the
            recorded arrays, whose largest difference is the noise of a computation.
        epsilon: The unit of rounding of the port's number format.
        unknown: The first call of a network whose outputs were not recorded.
        least: The relative errors that are allowed at least.
    """

    port: Trace
    networks: Sequence[DeclaredNetwork]
    computed: Mapping[ArrayName, np.ndarray]
    round_again: Callable[[], Sequence[Mapping[ArrayName, np.ndarray]]]
    epsilon: float
    unknown: Sequence[str] = ()
    least: Mapping[ArrayName, float] = field(default_factory=dict)

    @cached_property
    def rounded(self) -> Sequence[Mapping[ArrayName, np.ndarray]]:
        """What other roundings give; needed only where something differs by more than a unit."""
        return self.round_again()

    def rows(self) -> list[Row]:
        """Return a row for each array that was compared, in the order of the run."""
        return [self._row(name, x) for name, x in self.computed.items()]

    def _row(self, name: ArrayName, computed: np.ndarray) -> Row:
        entry, got = name.entry_in(self.port), name.tensor_in(self.port)
        assert entry is not None and got is not None
        expected = np.asarray(computed, np.float64)
        whole = computed.dtype.kind in "iub"
        bad = first_nonfinite(got)
        if first_nonfinite(expected):
            note = f"{bad}, as upstream" if bad else "what it is computed from is not finite"
            if self.unknown:
                note = f"what {self.unknown[0]} returned was not recorded"
            kind = self._kind(entry, name)
            return Row(entry.call, entry.layer, kind, verdict=UNKNOWN, note=note)
        real = got.dtype.kind != "c"
        error = relative_error(got, expected) if real and not bad else float("inf")
        floor = noise_floor(0.0, self.epsilon)
        least = self.least.get(name, 0.0)
        if error > max(allowed_error(floor), least) and not whole:
            others = [np.asarray(run[name], np.float64) for run in self.rounded if name in run]
            floor = max([floor, *(relative_error(x, expected) for x in others)])
            floor = noise_floor(floor, self.epsilon)
        allowed = 0.0 if whole else max(allowed_error(floor), least)
        values = {"error": error, "allowed": allowed, "floor": None if whole else floor}
        other = "" if got.shape == expected.shape else OTHER_SHAPE.format(got.shape, expected.shape)
        row = Row(entry.call, entry.layer, self._kind(entry, name), **values, note=bad or other)
        if error <= allowed:
            return row
        found = choose_cause(self._neighbours(entry, name, got), error, allowed) if real else None
        if found is None and real:
            layout = recognise(got, expected, max(allowed, 1e-6))
            found = layout and (layout.text, relative_error(layout.array, expected))
        cause, left = found or ("", None)
        return replace(row, verdict=DIFFERS, cause=cause, explained=left)

    def _neighbours(
        self, entry: TraceEntry, name: ArrayName, got: np.ndarray
    ) -> Iterator[tuple[str, float]]:
        """Yield the same array of the calls before and after, with the error that it leaves."""
        call = entry.call
        for words, i in (("before", call.number - 1), ("after", call.number + 1)):
            other = self.computed.get(name._replace(entry=f"{call.kind}.{i:03}/"))
            if other is not None:
                expected = np.asarray(other, np.float64)
                yield f"that of the call {words}", relative_error(got, expected)

    def _kind(self, entry: TraceEntry, name: ArrayName) -> str:
        """Return what a row calls an array."""
        if entry.layer:
            return entry.layer
        if name.side == OUTPUT and name.role == OUTPUT:
            return RETURNED.get(entry.call.kind, OUTPUT)
        kind = entry.call.kind.removeprefix(GUIDE_CALLS)
        network = next((net for net in self.networks if net.name == kind), None)
        if name.role.startswith(RESIDUALS):
            return "residuals"
        if network is not None:
            arguments = {x.role: x.argument for x in network.inputs}
            words = ARGUMENTS.get(arguments.get(name.role, ""))
            return words or READ.get(name.role) or name.role.replace("_", " ")
        return READ.get(name.role, name.role)


# What computing each part apart calls the same array.
ALSO = {"state": ("initial noise", "initial latents")}


def explain_rows(rows: Sequence[Row], apart: Sequence[Row]) -> list[Row]:
    """Return the rows of a run, with what computing each part apart says of those that differ.

    Args:
        rows: Those of a run that was followed, which decide.
        apart: Those of each computation from its recorded state.
    """
    left = [row for row in apart if row.verdict == DIFFERS]
    found = {i: _find(row, left) for i, row in enumerate(rows) if row.verdict == DIFFERS}
    for i in [i for i, other in found.items() if other is None]:
        found[i] = _as_elsewhere(rows[i], apart)
    for i in [i for i, other in found.items() if other is None]:  # under another name
        others = [row for row in left if row.call == rows[i].call]
        same = [j for j, other in found.items() if other is None and rows[j].call == rows[i].call]
        if len(others) == len(same) == 1:
            found[i] = others[0]
            left.remove(others[0])
    return [found.get(i) or row for i, row in enumerate(rows)]


def _find(row: Row, left: list[Row]) -> Row | None:
    """Take the row of the same array out of those that are left."""
    for other in left:
        if (other.call, other.layer) == (row.call, row.layer) and _is_same_kind(row, other):
            left.remove(other)
            return other
    return None


def _as_elsewhere(row: Row, apart: Sequence[Row]) -> Row | None:
    """Return a row with the cause that the same array has in another call, if it is as wrong."""
    kind = TraceCall(row.call).kind
    for other in apart:
        of_same = TraceCall(other.call).kind == kind and _is_same_kind(row, other)
        if of_same and other.cause and math.isclose(other.error, row.error, rel_tol=CLOSE):
            return replace(row, cause=other.cause, explained=other.explained, segment=other.segment)
    return None


def _is_same_kind(row: Row, other: Row) -> bool:
    named = row.kind.replace("_", " ")
    return other.kind.replace("_", " ") in (named, *ALSO.get(row.kind, ()))
