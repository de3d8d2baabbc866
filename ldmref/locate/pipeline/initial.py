"""Judge the noise with which a run begins, of which only the distribution is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray, names_of
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.pipeline.schedule import other_schedules
from ldmref.locate.recorded.layouts import first_nonfinite
from ldmref.locate.run.calls import OUTPUT
from ldmref.samplers import Schedule
from ldmref.samplers.path import FLOW

DEVIATIONS = 6.0  # standard deviations of a sample's standard deviation


def judge_initial(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the standard deviation of the initial latents of a run from pure noise."""
    steps = context.calls("sampler")
    schedule = context.make_schedule()
    initial = next(iter(context.calls("initial")), None)
    known = initial is not None and context.coverage.has(initial, "output", "output")
    state = context.recorded(steps[0], "sample", "x") if steps else None
    if state is None or known:
        return
    if context.unknown_scheduler or schedule is None:
        if (
            initial is not None
            and not context.calls("vae.encode")
            and context.model.config.scheduler.path is FLOW
        ):
            noise = context.recorded_output(initial)
            if noise is not None:
                yield judge_normal(context, noise, "initial noise")
        elif initial is not None:
            why = context.unknown_scheduler or "its schedule is not known"
            context.coverage.explain(names_of(initial, OUTPUT), why)
        return
    if not _is_first(context, schedule.timesteps):  # it begins with an image
        return
    yield _judge_deviation(context, schedule, state)


def _judge_deviation(context: PipelineContext, schedule: Schedule, first: RecordedArray) -> Row:
    """Return a row for the standard deviation of the first state of a run from pure noise."""
    kind, state = "initial noise", first.array
    bad = first_nonfinite(state)
    if bad:
        return context.row(first, kind, error=math.inf, verdict=DIFFERS, note=bad)
    on_path = context.states_on_path
    sigma = float(schedule.sigmas[0])
    expected = float(schedule.init_noise_sigma)
    if not on_path:
        expected = 1.0
    elif not context.is_diffusers:
        expected = sigma if _is_close(state, sigma) else expected
    deviation = float(np.sqrt(np.mean(np.square(state))))
    ratio = deviation / expected
    allowed = DEVIATIONS / math.sqrt(2.0 * state.size)
    error = abs(ratio - 1.0)
    row = context.row(first, kind, error=error, allowed=allowed)
    if error <= allowed:
        return row
    causes = {
        "the scale of the initial noise is missing (init_noise_sigma)": 1.0,
        "scaled by sigma instead of sqrt(1 + sigma^2)": sigma,
        "scaled by sqrt(1 + sigma^2) instead of sigma": math.hypot(1.0, sigma),
        "the noise is scaled twice": expected * expected,
    }
    if on_path:
        causes |= {text: float(x.init_noise_sigma) for text, x in other_schedules(context)}
    left = {text: abs(deviation / scale - 1.0) for text, scale in causes.items()}
    best = min(left, key=left.__getitem__)
    note = f"standard deviation {deviation:.5g} instead of {expected:.5g}"
    row = replace(row, verdict=DIFFERS, note=note)
    return replace(row, cause=best, explained=left[best]) if left[best] <= allowed else row


def _is_first(context: PipelineContext, timesteps: np.ndarray) -> bool:
    """Return whether the first recorded step is the first of the schedule."""
    first = context.calls("sampler")[0]
    if "i" in first.attributes:
        return first.attributes["i"] == 0
    t = context.number(first, "timestep")
    return t is None or abs(t - timesteps[0]) < 1.0


def _is_close(state: np.ndarray, scale: float) -> bool:
    return abs(float(np.std(state)) / scale - 1.0) < DEVIATIONS / math.sqrt(2.0 * state.size)
