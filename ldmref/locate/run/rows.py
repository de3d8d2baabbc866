"""The rows of a run that was followed: one for each array that was compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ldmref.families.lookup import networks_of_run
from ldmref.locate.findings import DIFFERS, EQUAL, UNKNOWN, Row
from ldmref.locate.law import allowed_error, noise_floor
from ldmref.locate.normal import NormalDeviation
from ldmref.locate.recorded.layouts import first_nonfinite, largest_value, recognise, relative_error
from ldmref.locate.run.calls import OUTPUT, SCHEDULE, ArrayName
from ldmref.locate.run.causes import RunCauses
from ldmref.locate.run.levels import RecordedLevels
from ldmref.locate.run.noises import ImpliedNoise
from ldmref.locate.run.pieces import ARGUMENTS, WrongArray, channel_groups
from ldmref.samplers.parts import STEP
from ldmref.trace.calls import GUIDE_CALLS
from ldmref.trace.model import Trace, TraceEntry

# What rows call arrays: of what a call returns, by its kind; of what it reads, by its role.
RETURNED = {"guidance": "guidance", "sampler": "step", "jump": "jump"}
READ = {
    "x": "state", "sample": "state", "model_output": "prediction", "input_ids": "tokens",
    "scale": "guidance scale",
    "cond": "conditional prediction", "uncond": "unconditional prediction",
    "class_labels": "classes", "hint": "control image", "controlnet_cond": "control image",
    "mode": "kind of control image", "guidance": "guidance scale",
    "time_ids": "micro-conditioning", "target_timestep": "end of the step",
}  # fmt: skip
ROUNDINGS = 3  # of the recorded arrays, whose largest difference is the noise of a computation
TABLE = 1e-4  # relative error of what follows from a table in float32
NUMBER = 1e-5  # the same of one number of it; of levels and times, which may be 0, also absolute
LEAST = {  # that is allowed, by role
    "sigmas": TABLE, "timesteps": TABLE, "alphas_cumprod": TABLE, "timestep": NUMBER,
    "sigma": NUMBER, "sigma_next": NUMBER, "sigma_at": NUMBER, "scale": 1e-6,
}  # fmt: skip
MAY_BE_ZERO = ("timestep", "sigma", "sigma_next", "sigma_at")
OTHER_SHAPE = "shape {} instead of {}"
NO_NOISE_OF_STEP = "the noise of the step was not recorded"
IMPLIED = "of the noise that it implies, which was not recorded"
NORMAL = f"compared are the mean and the standard deviation {IMPLIED}"
RESIDUALS = "control."  # begins the roles of what ControlNets add
Explained = tuple[WrongArray, tuple[str, float | None]]


@dataclass(frozen=True)
class RunComparison:
    """A run that was followed.

    Attributes:
        port: The recorded run.
        computed: What the run computed, by the array that was recorded in its place.
        round_again: Returns the same in the port's number format, from other roundings of the
            recorded arrays, whose largest difference is the noise of a computation.
        epsilon: The unit of rounding of the port's number format.
        causes: Finds the causes of wrong arrays.
        without_noise: Finds causes that depend on no noise which was not recorded.
        unknown: The first call of each network of which not all outputs were recorded, by kind.
        least: The relative errors that are allowed at least.
        assumed: Arrays from which the request was read, and why: they say nothing.
        changeable: Arrays that a callback may have changed, and what rows say then.
        levels: The comparison of its levels, if it continues with recorded ones that are others.
        of_levels: These levels.
        notes: What was assumed of the run, since it was not recorded, in words.
        implied: Noises that were not recorded, by the arrays from which they were read.
    """

    port: Trace
    computed: Mapping[ArrayName, np.ndarray]
    round_again: Callable[[], Sequence[Mapping[ArrayName, np.ndarray]]]
    epsilon: float
    causes: RunCauses
    without_noise: RunCauses
    unknown: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[ArrayName, float] = field(default_factory=dict)
    assumed: Mapping[ArrayName, str] = field(default_factory=dict)
    changeable: Mapping[ArrayName, str] = field(default_factory=dict)
    levels: RunComparison | None = None
    of_levels: RecordedLevels | None = None
    notes: Sequence[str] = ()
    implied: Mapping[ArrayName, ImpliedNoise] = field(default_factory=dict)
    _explained: dict[tuple[str, ...], list[Explained]] = field(default_factory=dict)

    @cached_property
    def rounded(self) -> Sequence[Mapping[ArrayName, np.ndarray]]:
        """What other roundings give; needed only where something differs by more than a unit."""
        return self.round_again()

    def rows(self) -> list[Row]:
        """Return a row for each array that was compared, in the order of the run.

        An array that is wrong as the one before it in the same place has the same cause.
        """
        if self.levels is None:
            return self._rows_of(self.computed)
        read = {name for name in self.computed if name.call.kind == SCHEDULE}
        if self.of_levels is not None:
            read |= self.of_levels.names
            self.levels.causes.explain_levels(self.of_levels)
        levels = [name for name in self.levels.computed if name in read]
        rest = [name for name in self.computed if name not in read]
        return [*self.levels._rows_of(levels), *self._rows_of(rest)]

    def _rows_of(self, names: Iterable[ArrayName]) -> list[Row]:
        """Return the rows of some arrays, in the order in which they were recorded."""
        known = (name for name in names if not self._is_left_out(name, self.computed[name]))
        ordered = sorted(known, key=lambda name: self._order[name.entry])
        return [row for name in ordered for row in self._rows(name)]

    @cached_property
    def _order(self) -> Mapping[str, int]:
        """The number of each recorded entry, by its name."""
        return {entry.name: i for i, entry in enumerate(self.port.entries)}

    def _is_left_out(self, name: ArrayName, computed: np.ndarray) -> bool:
        """Return whether an array is what networks returned that the caller did not record."""
        selection = self.port.manifest.get("selection") or {}
        left_out = bool(self.unknown) and not self._recorded_networks & {*self.unknown}
        left_out = left_out and bool(selection.get("calls"))
        bad = first_nonfinite(np.asarray(computed, np.float64))
        got = name.tensor_in(self.port)
        return left_out and bool(bad) and got is not None and not first_nonfinite(got)

    @cached_property
    def _recorded_networks(self) -> set[str]:
        """The kinds of the calls of networks that were recorded."""
        return {entry.call.kind for entry in self.port.entries if not entry.layer}

    def _rows(self, name: ArrayName) -> Iterator[Row]:
        """Yield the row of an array, or of each group of its channels."""
        entry, got = name.entry_in(self.port), name.tensor_in(self.port)
        assert entry is not None and got is not None
        computed, kind = self.computed[name], self._kind(entry, name)
        groups = self._groups(name, np.shape(got), np.shape(computed))
        for words, channels in groups or [(kind, None)]:
            wrong = WrongArray(name, words, got, computed, channels)
            if channels is not None:
                wrong = replace(wrong, got=got[:, channels], right=computed[:, channels])
            yield self._row(entry, wrong)

    def _groups(self, name: ArrayName, *shapes: tuple[int, ...]) -> list[tuple[str, slice]]:
        """Return the groups of the channels of the denoiser's latents; [] for another array."""
        model = self.causes.model
        if not model.config.image_channels or name.call.kind != model.denoiser.name:
            return []
        latents = {x.role for x in model.denoiser.inputs if x.argument == "x"}
        width = model.config.denoiser.in_channels
        fits = all(len(shape) == 4 and shape[1] == width for shape in shapes)
        return channel_groups(model.config) if name.role in latents and fits else []

    def _row(self, entry: TraceEntry, wrong: WrongArray) -> Row:
        got, right = wrong.got, wrong.right
        expected = np.asarray(right, np.float64)
        whole = right.dtype.kind in "iub"
        bad = first_nonfinite(got)
        if first_nonfinite(expected):
            return self._row_of_unknown(entry, wrong, bad)
        if wrong.name in self.implied:
            return self._row_of_implied(entry, wrong, self.implied[wrong.name].describe())
        if wrong.name in self.assumed:
            note = self.assumed[wrong.name]
            return Row(entry.call, entry.layer, wrong.words, verdict=UNKNOWN, note=note)
        real = got.dtype.kind != "c"
        error = relative_error(got, expected) if real and not bad else float("inf")
        floor = noise_floor(0.0, self.epsilon)
        role = wrong.name.role.partition(".")[0]
        least = max(self.least.get(wrong.name, 0.0), LEAST.get(role, 0.0))
        if role in MAY_BE_ZERO and np.isfinite(error):
            error = largest_value(got - expected) / (1.0 + largest_value(expected))
        if error > max(allowed_error(floor), least) and not whole:
            found = [run[wrong.name] for run in self.rounded if wrong.name in run]
            others = [np.asarray(wrong.take(x), np.float64) for x in found]
            floor = max([floor, *(relative_error(x, expected) for x in others)])
            floor = noise_floor(floor, self.epsilon)
        allowed = 0.0 if whole else max(allowed_error(floor), least)
        values = {"error": error, "allowed": allowed, "floor": None if whole else floor}
        other = "" if got.shape == expected.shape else OTHER_SHAPE.format(got.shape, expected.shape)
        row = Row(entry.call, entry.layer, wrong.words, **values, note=bad or other)
        if error <= allowed:
            return row
        if wrong.name in self.changeable:
            return replace(row, verdict=UNKNOWN, note=self.changeable[wrong.name])
        row = replace(row, note=row.note or _describe_wrong(wrong.name, got, right))
        cause, left = self._explain(wrong, error, allowed) if real and not bad else ("", None)
        return replace(row, verdict=DIFFERS, cause=cause, explained=left)

    def _row_of_unknown(self, entry: TraceEntry, wrong: WrongArray, bad: str) -> Row:
        """Return the row of an array that is computed from what was not recorded, or is NaN.

        A step without its noise may still be that of another setting, which draws none.
        """
        row = Row(entry.call, entry.layer, wrong.words, verdict=UNKNOWN)
        if bad:
            return replace(row, note=f"{bad}, as upstream")
        if entry.call.kind == STEP.call and "noise" not in entry.inputs:
            allowed = allowed_error(noise_floor(0.0, self.epsilon))
            found = self.without_noise.find(wrong, self.computed, math.inf, allowed)
            if found is not None and found[1] <= allowed:
                values = {"error": math.inf, "allowed": allowed, "explained": found[1]}
                return replace(row, verdict=DIFFERS, cause=found[0], **values)
        note = "what it is computed from is not finite"
        if self.unknown:
            note = f"what {next(iter(self.unknown.values()))} returned was not recorded"
        elif entry.call.kind == STEP.call:
            note = NO_NOISE_OF_STEP
        return replace(row, note=note)

    def _row_of_implied(
        self, entry: TraceEntry, wrong: WrongArray, deviation: NormalDeviation
    ) -> Row:
        """Return the row of an array by the noise that it implies, which was not recorded.

        If that is none, the array may be one of other settings, which draw none. Other noise may be
        right where no settings were recorded.
        """
        error, allowed, cause = deviation
        row = Row(entry.call, entry.layer, wrong.words, verdict=UNKNOWN)
        if not cause:
            return replace(row, error=error, allowed=allowed, verdict=EQUAL, note=NORMAL)
        least = allowed_error(noise_floor(0.0, self.epsilon))
        found = self.without_noise.find(wrong, self.computed, math.inf, least)
        if found is not None and found[1] <= least:
            values = {"error": math.inf, "allowed": least, "explained": found[1]}
            return replace(row, verdict=DIFFERS, cause=found[0], **values)
        if not self.port.manifest.get("params"):
            return replace(row, note=f"{NO_NOISE_OF_STEP}; it implies {cause}")
        values = {"error": error, "allowed": allowed, "cause": cause}
        return replace(row, verdict=DIFFERS, note=IMPLIED, **values)

    def _explain(self, wrong: WrongArray, error: float, allowed: float) -> tuple[str, float | None]:
        """Return the cause of a wrong array, "" if none is found, and the error that it leaves."""
        place = (wrong.name.call.kind, wrong.name.side, wrong.name.role, wrong.words)
        for before, answer in self._explained.get(place, []):
            same = np.array_equal(before.got, wrong.got)
            if same and np.array_equal(before.right, wrong.right):
                return answer
        found = self.causes.find(wrong, self.computed, error, allowed)
        if found is None and wrong.got.size > 1:
            expected = np.asarray(wrong.right, np.float64)
            layout = recognise(wrong.got, expected, max(allowed, 1e-6))
            found = layout and (layout.text, relative_error(layout.array, expected))
        if found is None:
            found = self.causes.find_by_runs(wrong, error, allowed)
        answer = found or ("", None)
        self.causes.remember(answer[0])
        self._explained.setdefault(place, []).append((wrong, answer))
        return answer

    def _kind(self, entry: TraceEntry, name: ArrayName) -> str:
        """Return what a row calls an array."""
        if entry.layer:
            return entry.layer
        if name.side == OUTPUT and name.role == OUTPUT:
            return RETURNED.get(entry.call.kind, OUTPUT)
        if name.role.startswith(RESIDUALS):
            return "residuals"
        arguments = self._arguments.get(entry.call.kind.removeprefix(GUIDE_CALLS))
        if arguments is not None:
            words = ARGUMENTS.get(arguments.get(name.role, ""))
            return words or READ.get(name.role) or name.role.replace("_", " ")
        return READ.get(name.role, name.role)

    @cached_property
    def _arguments(self) -> Mapping[str, Mapping[str, str]]:
        """The arguments of each network of the run, by the roles of its inputs."""
        networks = networks_of_run(self.causes.model.config)
        return {net.name: {x.role: x.argument for x in net.inputs} for net in networks}


def _describe_wrong(name: ArrayName, got: np.ndarray, right: np.ndarray) -> str:
    """Return where whole numbers differ first, and what noise has as its mean and deviation."""
    if name.role.partition(".")[0] == "noise":
        return f"mean {got.mean():.3g}, standard deviation {got.std():.3g}"
    if right.dtype.kind not in "iub" or np.array_equal(got, right):
        return ""
    first = tuple(int(i) for i in np.argwhere(got != right)[0])
    count = np.count_nonzero(got != right)
    return f"{got[first]} instead of {right[first]} at {[*first]}, {count} of {got.size} differ"
