"""Judge sigmas, timesteps and alphas_cumprod."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import DIFFERS, EQUAL, UNKNOWN, Row
from ldmref.locate.parts.scheduler_faults import (
    config_faults,
    fit_shift,
    other_levels,
    other_tables,
    shift_levels,
)
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray, names_of
from ldmref.locate.run.calls import OUTPUT, ArrayName
from ldmref.samplers import Schedule
from ldmref.samplers.flow_spacings import shift_factor
from ldmref.samplers.path import FLOW, VE
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace.model import TraceEntry

TABLE = 1e-5  # relative error of a float32 table of alphas_cumprod
SPACINGS = ("leading", "linspace", "trailing", "karras", "exponential", "beta_sigma")


def other_schedules(context: PipelineContext) -> Iterator[tuple[str, Schedule]]:
    """Yield the schedules of other forward processes: words and schedule."""
    for text, changed in config_faults(context.config):
        kept = len(context.notes)
        other = context.make_schedule(changed)
        del context.notes[kept:]
        if other is not None:
            yield text, other


def judge_schedule(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for alphas_cumprod, timesteps and sigmas, as far as they were recorded."""
    entry = context.schedule_entry
    if entry is None:
        return
    for other in context.calls("schedule"):
        if context.unknown_scheduler:
            why = context.unknown_scheduler
            yield context.not_judged(other, "schedule", why, *names_of(other, OUTPUT))
        elif other is not entry:
            yield from _judge_again(context, entry, other)
    if context.unknown_scheduler:
        return
    alphas = context.recorded_output(entry, "alphas_cumprod")
    config = context.config
    if alphas is not None and config.path is VE:
        yield _judge_table(context, alphas)
    schedule = context.make_schedule()
    if schedule is None:
        return
    others = [*other_schedules(context), *other_levels(config, schedule, context.tokens)]
    for spacing in () if config.path is FLOW else SPACINGS:
        other = _other_spacing(context, spacing)
        if other is not None:
            others.append((f"spacing {spacing}", other))
    timesteps = context.recorded_output(entry, "timesteps")
    if timesteps is not None and timesteps.array.size:
        got = timesteps.made(np.array(context.recorded_timesteps))
        variants = [(text, other.timesteps) for text, other in others]
        variants += [
            ("the timesteps are in increasing order", schedule.timesteps[::-1]),
            ("the timesteps are truncated to whole numbers", np.floor(schedule.timesteps)),
        ]
        right = schedule.timesteps
        yield context.judge(got, "timesteps", right, least=1e-4, variants=variants)
    yield from _judge_sigmas(context, entry, schedule, [(text, x.sigmas) for text, x in others])


def _judge_table(context: PipelineContext, recorded: RecordedArray) -> Row:
    """Return the row of a table of alpha-bar.

    An error relative to the largest value does not show those of the smallest ones.
    """
    config, alphas = context.config, recorded.array
    expected = training_alphas_cumprod(config)
    if config.rescale_betas_zero_snr and alphas.shape == expected.shape:
        alphas = np.where(alphas == 0.0, expected, alphas)  # DDIM keeps 0, Euler nearly 0
    kind = "alphas_cumprod"
    got, others = recorded.made(alphas), other_tables(config)
    row = context.judge(got, kind, expected, least=TABLE, variants=others)
    if row.verdict == DIFFERS:
        return row
    ratio = recorded.made(alphas / expected)
    others = ((text, table / expected) for text, table in other_tables(config))
    return context.judge(ratio, kind, np.ones_like(expected), least=10 * TABLE, variants=others)


def judge_given_levels(context: PipelineContext) -> Iterator[Row]:
    """Yield the rows of a schedule that was made of levels or timesteps that it was given."""
    if context.schedule_entry is not None and context.schedule_entry.inputs:
        yield from judge_schedule(context)


def _judge_sigmas(
    context: PipelineContext,
    entry: TraceEntry,
    schedule: Schedule,
    variants: list[tuple[str, np.ndarray]],
) -> Iterator[Row]:
    """Yield rows for the recorded noise levels."""
    config = context.config
    recorded = context.recorded_output(entry, "sigmas")
    if recorded is None or recorded.array.ndim != 1:
        return
    sigmas = recorded.array
    if context.choose_sampler(config)[0].nfe == 2:
        sigmas = _without_repeats(sigmas, len(schedule.sigmas))
    if len(sigmas) > len(schedule.sigmas):
        return
    shift = fit_shift(sigmas, schedule.sigmas)
    words = f"sigma shift {shift:.5g}"
    if config.path is FLOW:
        factor = shift_factor(config, context.tokens, len(schedule.timesteps))
        words = f"shift {factor * shift:.5g} instead of {factor:.5g}"
    variants = [*variants, (words, shift_levels(schedule.sigmas, shift))]
    variants += [("the last sigma is missing", schedule.sigmas[:-1])]
    if sigmas.shape == schedule.sigmas.shape:
        ended = np.append(schedule.sigmas[:-1], sigmas[-1])
        words = f"the last sigma is {sigmas[-1]:.4g} instead of {schedule.sigmas[-1]:.4g}"
        variants += [(words, ended)]
    got, right = recorded.made(sigmas), schedule.sigmas
    row = context.judge(got, "sigmas", right, least=1e-4, variants=variants)
    yield row
    if row.verdict == EQUAL and sigmas is not recorded.array:
        yield from _judge_repeats(context, recorded, sigmas)


def _judge_repeats(
    context: PipelineContext, sigmas: RecordedArray, ends: np.ndarray
) -> Iterator[Row]:
    """Yield a row for recorded levels of second evaluations that are not those of the steps' ends.

    A list has each level between steps twice, and may have its last one again. Heun's second
    evaluation is at the end of its step; other samplers may list levels between.
    """
    right = np.concatenate([ends[:1], np.repeat(ends[1:-1], 2), ends[-1:]])
    right = np.pad(right, (0, len(sigmas.array) - len(right)), mode="edge")
    if context.agrees(sigmas, right):
        return
    if context.choose_sampler(context.config)[0].name == "heun":
        yield context.judge(sigmas, "sigmas of second evaluations", right, least=1e-4)
    else:
        why = "the levels of second evaluations are not those at the ends of steps"
        yield context.row(sigmas, "sigmas", verdict=UNKNOWN, note=why)


def _without_repeats(sigmas: np.ndarray, n: int) -> np.ndarray:
    """Return the n levels at the ends of steps, of a list that has those between steps twice."""
    ends = np.r_[0:1, 1 : len(sigmas) : 2]
    doubled = len(sigmas) == 2 * n and not np.diff(sigmas[1:-1].reshape(-1, 2)).any()
    return sigmas[ends][:n] if doubled or len(sigmas) == 2 * n - 2 else sigmas


def _judge_again(context: PipelineContext, first: TraceEntry, again: TraceEntry) -> Iterator[Row]:
    """Yield rows for a schedule that was made again: of a branch, or for another run."""
    if context.port.manifest.get("branch") is not None:  # followed with its steps
        return
    for role in again.outputs:
        got, expected = context.recorded_output(again, role), context.read_output(first, role)
        if got is not None and expected is not None and got.array.shape == expected.shape:
            yield context.judge(got, role, expected)
        else:
            name = ArrayName(again.name, OUTPUT, role)
            context.coverage.explain([name], "another schedule than the first")


def _other_spacing(context: PipelineContext, spacing: str):
    kept = len(context.notes)
    schedule = context.make_schedule(spacing=spacing)
    del context.notes[kept:]
    return schedule
