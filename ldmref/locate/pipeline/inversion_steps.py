"""Judge the steps of an inversion, which DDIM's steps undo."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeGuard

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.law import NOISE
from ldmref.locate.layouts import largest_value
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.recorded_step import RecordedEvaluation, evaluated_x0
from ldmref.locate.pipeline.step_faults import StepSettings
from ldmref.samplers import implicit, sample
from ldmref.trace.model import TraceEntry

ROUNDINGS = 4.0  # units per size of an array that a step adds; see `judge_inversion`


def is_inversion(step: TraceEntry) -> bool:
    """Return whether a step leads to more noise: that of an inversion says its iterations."""
    return "iterations" in step.attributes


def judge_start(context: PipelineContext, step: TraceEntry, state: np.ndarray) -> Iterator[Row]:
    """Yield a row for the first state of an inversion: the latents of the image.

    On a path alpha, sigma the state is x0 sqrt(alpha^2 + sigma^2) at the last level of the
    schedule, of the variance that a state of this level has.
    """
    encoder = next(iter(context.calls("vae.encode")), None)
    mean = context.read_output(encoder, "mean")
    schedule = context.make_schedule()
    clean = context.normalize(mean)
    if clean is None or schedule is None or clean.shape[1:] != state.shape[1:]:
        why = "the image that it begins with was not recorded"
        context.ledger.explain(step, why, "sample", "x")
        return
    context.compared(step, "sample", "x")
    spread = schedule.path.spread(float(schedule.sigmas[-1]))
    yield context.judge(step, "initial latents", state, clean * spread)


def rising_levels(context: PipelineContext, step: TraceEntry, levels: np.ndarray) -> list[float]:
    """Return the levels of an inversion, those of the schedule from the last one to the first.

    Without iterations it begins at half of the second level, or at the lowest of the training if
    that is lower, where the schedule ends at 0: there is no slope at 0.
    """
    rising = [float(level) for level in levels[::-1]]
    schedule = context.make_schedule()
    if rising[0] == 0.0 and not step.attributes["iterations"] and schedule is not None:
        lowest = schedule.path.level(float(schedule.training_sigmas[0]))
        rising[0] = min(rising[1] / 2.0, lowest)
    return rising


def judge_inversion(
    context: PipelineContext, evaluations: Sequence[RecordedEvaluation], settings: StepSettings
) -> Iterator[Row]:
    """Yield a row for every recorded step, recomputed with its recorded predictions.

    An evaluation at sigma_e gives x' = x + r (x_e - x0) with r = (sigma' - sigma)/sigma_e. With
    unit roundoff u, the recorded prediction gives x0 within u (4 |x0| + 3 |x_e|), and r multiplies
    this error; the difference, quotient, product and sum add less than 4 u (|x| + |x'|). For
    iterations after the first, r < 1, so the errors of their points do not grow. ROUNDINGS units
    of 2 u for each of these sizes cover it twice.
    """
    for evaluation in evaluations:
        entry = evaluation.entry
        output = context.read_output(entry)
        iterations = entry.attributes.get("iterations")
        sigma = context.number(entry, "sigma")
        sigma_next = context.number(entry, "sigma_next")
        if output is None or sigma is None or sigma_next is None:
            yield context.not_judged(entry, "step", "its levels or its result were not recorded")
            continue
        if not _is_count(iterations) or not 0.0 <= sigma < sigma_next < math.inf:
            yield context.not_judged(entry, "step", "its levels or iterations are none")
            continue
        seen = list(_evaluations(context, entry, evaluation, settings, sigma))
        if len(seen) != iterations + (sigma > 0.0) or not all(level for *_, level in seen):
            yield context.not_judged(entry, "step", "not all its evaluations were recorded")
            continue
        answers = iter(x0 for _, x0, _ in seen)
        x = evaluation.state
        points: list[tuple[np.ndarray, float]] = []

        def denoise(
            x: np.ndarray, sigma: float, answers: Iterator = answers, points: list = points
        ) -> np.ndarray:
            points.append((x, sigma))
            return next(answers)

        expected = next(sample(denoise, x, (sigma, sigma_next), implicit(iterations))).x
        sizes = largest_value(x) + largest_value(expected)
        for x_e, x0, level in seen:
            sizes += (sigma_next - sigma) / level * (largest_value(x_e) + largest_value(x0))
        units = ROUNDINGS * sizes / (largest_value(expected) or 1.0)
        least = context.epsilon * max(NOISE, units)
        yield context.judge(entry, "step", output, expected, least=least)
        yield from _judge_points(context, entry, points, least)
        x0 = context.read(entry, "x0")
        if x0 is not None:
            x_e, right, _ = seen[0]
            units = ROUNDINGS * (1.0 + largest_value(x_e) / (largest_value(right) or 1.0))
            context.compared(entry, "x0")
            yield context.judge(entry, "x0", x0, right, least=context.epsilon * max(NOISE, units))


def _judge_points(
    context: PipelineContext,
    entry: TraceEntry,
    points: Sequence[tuple[np.ndarray, float]],
    least: float,
) -> Iterator[Row]:
    """Yield rows for where a step evaluated its network: states and levels."""
    for number, (x, sigma) in enumerate(points):
        suffix = f".{number}" if number else ""
        got, level = (
            context.read(entry, f"x_at{suffix}"),
            context.number(entry, f"sigma_at{suffix}"),
        )
        if got is not None:
            context.compared(entry, f"x_at{suffix}")
            yield context.judge(entry, f"x_at{suffix}", got, x, least=least)
        if level is not None:
            context.compared(entry, f"sigma_at{suffix}")
            wide = np.array([level]), np.array([sigma])
            yield context.judge(entry, f"sigma_at{suffix}", *wide)


def _evaluations(
    context: PipelineContext,
    entry: TraceEntry,
    first: RecordedEvaluation,
    settings: StepSettings,
    sigma: float,
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield the point, x0 and the level of each recorded evaluation of a step."""
    number = 0
    while True:
        suffix = f".{number}" if number else ""
        prediction = context.read(entry, f"prediction{suffix}")
        if prediction is None:
            return
        at = context.read(entry, f"x_at{suffix}")
        level = context.number(entry, f"sigma_at{suffix}")
        if number and (at is None or level is None):
            return
        point = first.state if at is None else at
        there = sigma if level is None else level
        seen = RecordedEvaluation(entry, point, prediction, [])
        yield point, evaluated_x0(context, seen, there, settings), there
        number += 1


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value <= 10**6
