"""The steps of a traced run: states, predictions and maps of each, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, UsageError, short_repr
from ldmref.explore.format import CODE, not_a_record
from ldmref.samplers.denoiser import TO_X0, in_own_scale
from ldmref.samplers.path import PATHS, VE, NoisePath
from ldmref.trace.model import Trace, TraceEntry

HALVES = ("uncond", "cond")  # predictions, in addition to the guided one
HOW = "record it with ldmref record, or trace all of its calls"
KEPT = 5  # arrays of a step: two states, x0 and its halves
MAX_STATES = 2**32  # bytes of those of all steps
NUMBERS = "fiu"  # kinds of dtypes
CALL = re.compile(r"sampler\.(\d{1,9})")


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """One step of one image.

    Args:
        x, x_next: The states before and after it, (c, h, w) float32.
        x0: The guided prediction of its first evaluation, (c, h, w) float32.
        halves: The predictions `uncond` and `cond`, those that were computed, as `x0`.
        sigma, sigma_next: The noise levels of the states.
        timestep: The timestep of `sigma`.
        maps: The map of each word, (words, h', w') float16; None: the prompt had no part.
        described: The words, and the layers of the maps.
        path: The path of the states.
        levels: Where the step begins and ends on the curve of the run, as its trace says:
            `curve`, and pairs `signal` and `noise`. None: it does not.
    """

    x: np.ndarray
    x_next: np.ndarray
    x0: np.ndarray
    halves: Mapping[str, np.ndarray]
    sigma: float
    sigma_next: float
    timestep: float
    maps: np.ndarray | None
    described: Mapping[str, Any]
    path: NoisePath = VE
    levels: Mapping[str, Any] | None = None


class TraceArrays:
    """The checked arrays of a trace.

    Args:
        trace: The trace.
        name: Its file, for messages.
    """

    def __init__(self, trace: Trace, name: str):
        self.trace = trace
        self.name = name

    def array(self, entry: TraceEntry, side: str, role: str, kinds: str = "f") -> np.ndarray:
        """Return an array of an entry, of some kinds of numbers.

        Raises:
            CorruptModelError: It is missing, or of another kind.
        """
        named = entry.inputs if side == "input" else entry.outputs
        if role not in named:
            suffix = "" if role == side else f".{role}"
            raise self.bad(f"'{entry.name}/{side}{suffix}' is missing")
        array = np.asarray(self.trace.tensors[named[role]])
        if array.dtype.kind not in kinds:
            raise self.bad(f"'{entry.name}' holds {role!r} as {array.dtype}")
        return array

    def latents(self, entry: TraceEntry, side: str, role: str) -> np.ndarray:
        """Return latents of the only image, (c, h, w) float32.

        Raises:
            CorruptModelError: As `array`, or the shape is another one.
            UsageError: There are several images.
        """
        array = self.array(entry, side, role)
        if array.ndim == 4 and len(array) > 1:
            message = f"{self.name} cannot be explored: it is a run of {len(array)} images"
            raise UsageError(message, code=CODE, hint="record a run of one image")
        if array.ndim != 4 or not array.size:
            raise self.bad(f"{role!r} of {entry.call} has the shape {array.shape}")
        return np.asarray(array, np.float32)[0]

    def level(self, entry: TraceEntry, role: str) -> float:
        """Return the noise level that is an input of an entry.

        Raises:
            CorruptModelError: It is missing, or not a finite number from 0.
        """
        array = self.array(entry, "input", role, NUMBERS)
        if array.size != 1:
            raise self.bad(f"{role!r} of {entry.call} has the shape {array.shape}")
        sigma = float(np.ravel(array)[0])
        if not 0.0 <= sigma < math.inf:
            raise self.bad("its noise levels are not finite numbers from 0")
        return sigma

    def path(self, entry: TraceEntry) -> NoisePath:
        """Return the path of a step.

        Raises:
            CorruptModelError: It is not a known one.
        """
        name = entry.attributes.get("path", VE.name)
        if not isinstance(name, str) or name not in PATHS:
            raise self.bad(f"the path of {entry.call} is {short_repr(name)}")
        return PATHS[name]

    def levels(self, entry: TraceEntry) -> Mapping[str, Any] | None:
        """Return where a step begins and ends on the curve of its run; None if it does not say.

        Raises:
            CorruptModelError: It is not a curve with two pairs of numbers.
        """
        levels = entry.attributes.get("levels")
        if levels is None:
            return None
        try:
            pairs = [[float(x) for x in levels[key]] for key in ("signal", "noise")]
            right = all(len(pair) == 2 and all(map(math.isfinite, pair)) for pair in pairs)
            right = right and isinstance(levels["curve"], str)
        except (TypeError, KeyError, ValueError):
            right = False
        if not right:
            raise self.bad(f"the levels of {entry.call} are {short_repr(levels)}")
        return levels

    def bad(self, why: str) -> CorruptModelError:
        """Return the error about a file that is not a record."""
        return not_a_record(self.name, why)


def read_steps(arrays: TraceArrays) -> list[RecordedStep]:
    """Return the steps of a trace in their order.

    Raises:
        CorruptModelError: A step lacks something, or its arrays do not fit those of the others.
        UsageError: There are no steps, or several images.
    """
    entries = [entry for entry in arrays.trace.entries if not entry.layer]
    schedules = [e for e in entries if e.call.kind == "schedule"]
    last = schedules[-1] if schedules else None
    before = None
    found = []
    for entry in entries:
        match = CALL.fullmatch(entry.call)
        if match is not None:
            found.append((int(match[1]), entry, before or last))
        elif entry.call.kind == "schedule":
            before = entry
    if not found:
        message = f"{arrays.name} cannot be explored: it holds no steps of a sampler"
        raise UsageError(message, code=CODE, hint=HOW)
    found.sort(key=lambda step: step[0])
    total = KEPT * len(found) * arrays.latents(found[0][1], "input", "x").nbytes
    if total > MAX_STATES:  # entries may name one array again and again
        raise arrays.bad(f"its {len(found):,} steps would take {total:,} bytes")
    steps = [_read_step(arrays, k, entry, schedule) for k, (_, entry, schedule) in enumerate(found)]
    shape = steps[0].x.shape
    for step in steps:
        latents = {"x": step.x, "output": step.x_next, "x0": step.x0} | dict(step.halves)
        for role, array in latents.items():
            if array.shape != shape:
                raise arrays.bad(f"{role!r} has the shape {array.shape}")
    return steps


def _read_step(
    arrays: TraceArrays, k: int, entry: TraceEntry, schedule: TraceEntry | None
) -> RecordedStep:
    find = arrays.trace.find
    x = arrays.latents(entry, "input", "x")
    sigma = arrays.level(entry, "sigma")
    point, level = x, sigma
    if "x_at" in entry.inputs:
        point = arrays.latents(entry, "input", "x_at")
        level = arrays.level(entry, "sigma_at")
    kind = entry.attributes.get("prediction_type")
    path = arrays.path(entry)
    if "x0" in entry.inputs:
        x0 = arrays.latents(entry, "input", "x0")
    else:
        guided = arrays.latents(entry, "input", "prediction")
        x0 = _to_x0(arrays, kind, guided, point, level, path)
    halves = {}
    evaluations = entry.attributes.get("evaluations")
    first = evaluations[0] if isinstance(evaluations, list) and evaluations else ""
    guidance = find(str(first or f"guidance.{k:03}"))
    if guidance is not None:
        kind = guidance.attributes.get("prediction_type", kind)
        for role in HALVES:
            if role in guidance.inputs:
                y = arrays.latents(guidance, "input", role)
                halves[role] = _to_x0(arrays, kind, y, point, level, path)
    words = find(f"words.{k:03}")
    maps = None
    if words is not None:
        maps = arrays.array(words, "output", "output")
        if maps.ndim != 4 or not len(maps):
            raise arrays.bad(f"the maps of {words.call} have the shape {maps.shape}")
        maps = maps[0]
    return RecordedStep(
        x,
        arrays.latents(find(entry.call, "constrain") or entry, "output", "output"),
        x0,
        halves,
        sigma,
        arrays.level(entry, "sigma_next"),
        _timestep(arrays, entry, schedule),
        maps,
        {} if words is None else words.attributes,
        path,
        arrays.levels(entry),
    )


def _to_x0(
    arrays: TraceArrays, kind: Any, y: np.ndarray, x: np.ndarray, sigma: float, path: NoisePath
) -> Any:
    """Return the predicted x0 of an output of the network, (c, h, w) float32."""
    if kind == "x0":
        return y
    if not isinstance(kind, str) or kind not in TO_X0:
        raise arrays.bad(f"the type of its predictions is {short_repr(kind)}")
    if y.shape != x.shape:
        raise arrays.bad(f"a prediction has the shape {y.shape}")
    xt, level = in_own_scale(kind, x.astype(np.float64), sigma, path)
    return np.asarray(TO_X0[kind](xt, y.astype(np.float64), np.float64(level)), np.float32)


def _timestep(arrays: TraceArrays, entry: TraceEntry, schedule: TraceEntry | None) -> float:
    i = entry.attributes.get("i")
    if schedule is not None and "timesteps" in schedule.outputs:
        timesteps = np.ravel(arrays.array(schedule, "output", "timesteps", NUMBERS))
        if isinstance(i, int) and 0 <= i < len(timesteps):
            return float(timesteps[i])
    raise arrays.bad(f"the timestep of {entry.call} is missing")
