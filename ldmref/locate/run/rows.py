"""The rows of a run that was followed: one for each array that was compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.law import allowed_error, noise_floor
from ldmref.locate.layouts import first_nonfinite, recognise, relative_error
from ldmref.locate.run.calls import OUTPUT, ArrayName
from ldmref.locate.run.causes import RunCauses
from ldmref.models.declared import DeclaredNetwork
from ldmref.trace.calls import GUIDE_CALLS
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
        causes: Finds the causes of wrong arrays.
        unknown: The first call of a network whose outputs were not recorded.
        least: The relative errors that are allowed at least.
    """

    port: Trace
    networks: Sequence[DeclaredNetwork]
    computed: Mapping[ArrayName, np.ndarray]
    round_again: Callable[[], Sequence[Mapping[ArrayName, np.ndarray]]]
    epsilon: float
    causes: RunCauses
    unknown: Sequence[str] = ()
    least: Mapping[ArrayName, float] = field(default_factory=dict)

    @cached_property
    def rounded(self) -> Sequence[Mapping[ArrayName, np.ndarray]]:
        """What other roundings give; needed only where something differs by more than a unit."""
        return self.round_again()

    def rows(self, explained: bool = True) -> list[Row]:
        """Return a row for each array that was compared, in the order of the run.

        Args:
            explained: Whether causes are searched for wrong arrays.
        """
        return [self._row(name, x, explained) for name, x in self.computed.items()]

    def _row(self, name: ArrayName, computed: np.ndarray, explained: bool) -> Row:
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
        if not explained:
            return replace(row, verdict=DIFFERS)
        row = replace(row, note=row.note or _describe_wrong(name, got, computed))
        found = None
        if real and not bad:
            found = self.causes.find(name, row.kind, got, self.computed, error, allowed)
        if found is None and real and got.size > 1:
            layout = recognise(got, expected, max(allowed, 1e-6))
            found = layout and (layout.text, relative_error(layout.array, expected))
        if found is None and real and not bad:
            found = self.causes.find_by_runs(name, got, self.computed, error, allowed)
        cause, left = found or ("", None)
        self.causes.remember(cause)
        return replace(row, verdict=DIFFERS, cause=cause, explained=left)

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


def _describe_wrong(name: ArrayName, got: np.ndarray, right: np.ndarray) -> str:
    """Return where whole numbers differ first, and what noise has as its mean and deviation."""
    if name.role.partition(".")[0] == "noise":
        return f"mean {got.mean():.3g}, standard deviation {got.std():.3g}"
    if right.dtype.kind not in "iub" or np.array_equal(got, right):
        return ""
    first = tuple(int(i) for i in np.argwhere(got != right)[0])
    count = np.count_nonzero(got != right)
    return f"{got[first]} instead of {right[first]} at {[*first]}, {count} of {got.size} differ"
