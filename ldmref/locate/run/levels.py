"""The noise levels on which a recorded run went, where they are others than its request gives.

They are those of the recorded schedule. A port may record none: then they are read from the steps,
or from the times that its network was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.run.calls import INPUT, OUTPUT, SCHEDULE, ArrayName
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.parts import STEP
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import Schedule
from ldmref.samplers.spacings import sigmas_at
from ldmref.trace.model import Trace

SAME_LEVELS = 1e-4  # relative error of levels that were rounded to float32, and of what follows


class RecordedLevels(NamedTuple):
    """Noise levels of a run.

    Attributes:
        sigmas: The levels, (steps + 1,), decreasing.
        names: The arrays of steps and networks from which they were read.
    """

    sigmas: list[float]
    names: frozenset[ArrayName]


def read_levels(
    port: Trace,
    computed: Mapping[ArrayName, np.ndarray],
    model: LatentDiffusion,
    schedule: Schedule | None,
) -> list[RecordedLevels]:
    """Return the recorded levels of a run if they are others than those that it computed.

    Args:
        port: The recorded run.
        computed: What the run computed.
        model: The model that ran.
        schedule: The schedule of the run. None: it has none.

    Returns:
        The levels, several if it was not recorded where the last step ends; [] if they are those
        of the run, or cannot be read.
    """
    whole = ArrayName(f"{SCHEDULE}/", OUTPUT, "sigmas")
    if whole.tensor_in(port) is not None:
        return _of_schedule(port, computed, whole)
    if schedule is None:
        return []
    found = _of_steps(port, computed, schedule) or _of_times(port, computed, model, schedule)
    falling = [levels for levels in found if np.all(np.diff(levels.sigmas) < 0.0)]
    errors = [relative_error(np.array(levels.sigmas), schedule.sigmas) for levels in falling]
    return [] if min(errors, default=0.0) <= SAME_LEVELS else falling


def _of_schedule(
    port: Trace, computed: Mapping[ArrayName, np.ndarray], name: ArrayName
) -> list[RecordedLevels]:
    """Return the levels of a recorded schedule."""
    got, right = name.tensor_in(port), computed.get(name)
    if got is None or right is None or got.shape != right.shape:
        return []
    if relative_error(got[:-1], right[:-1]) <= SAME_LEVELS:  # where the run ends is one fault
        return []
    same = relative_error(got, right) <= SAME_LEVELS
    return [] if same else [RecordedLevels(np.ravel(got).tolist(), frozenset())]


def _of_steps(
    port: Trace, computed: Mapping[ArrayName, np.ndarray], schedule: Schedule
) -> list[RecordedLevels]:
    """Return the levels at which the steps begin, and where the last one ends."""
    levels = dict(_numbers(port, computed, STEP.call, "sigma"))
    if len(levels) != len(schedule.timesteps):
        return []
    last = max(levels, key=lambda name: name.call.number)._replace(role="sigma_next")
    got = last.tensor_in(port)
    ends = _ends(schedule) if got is None else [float(np.ravel(got)[0])]
    return [RecordedLevels([*levels.values(), end], frozenset(levels)) for end in ends]


def _of_times(
    port: Trace,
    computed: Mapping[ArrayName, np.ndarray],
    model: LatentDiffusion,
    schedule: Schedule,
) -> list[RecordedLevels]:
    """Return the levels of the times that the network was given, if it was called once a step."""
    denoiser = model.denoiser
    role = next((x.role for x in denoiser.inputs if x.argument == "t"), "")
    times = dict(_numbers(port, computed, denoiser.name, role))
    if len(times) != len(schedule.timesteps):
        return []
    t = np.array([*times.values()])
    table = schedule.training_sigmas
    if schedule.of_flow and schedule.path is not FLOW:
        return []
    levels = t / len(table) if schedule.of_flow else schedule.path.level(sigmas_at(table, t))
    begun = np.asarray(levels).tolist()
    return [RecordedLevels([*begun, end], frozenset(times)) for end in _ends(schedule)]


def _ends(schedule: Schedule) -> list[float]:
    """Return the levels at which a run may end: that of its own schedule, and no noise."""
    return [*dict.fromkeys((float(schedule.sigmas[-1]), 0.0))]


def _numbers(
    port: Trace, computed: Mapping[ArrayName, np.ndarray], kind: str, role: str
) -> Iterator[tuple[ArrayName, float]]:
    """Yield the numbers of one role that were recorded of the calls of one kind, in their order."""
    names = [
        name for name in computed if (name.call.kind, name.side, name.role) == (kind, INPUT, role)
    ]
    for name in sorted(names, key=lambda name: name.call.number):
        got = name.tensor_in(port)
        if got is not None and got.size and not np.ptp(got):
            yield name, float(np.ravel(got)[0])
