"""Judge the steps of an inversion, which DDIM's steps undo."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeGuard

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import NOISE, PipelineContext
from ldmref.locate.pipeline.recorded_step import RecordedEvaluation, evaluated_x0
from ldmref.locate.pipeline.step_faults import StepSettings
from ldmref.samplers import implicit, sample
from ldmref.trace.model import TraceEntry

ROUNDINGS = 4.0  # units per size of an array that a step adds; see `judge_inversion`


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

        def denoise(x: np.ndarray, sigma: float, answers: Iterator = answers) -> np.ndarray:
            return next(answers)

        expected = next(sample(denoise, x, (sigma, sigma_next), implicit(iterations))).x
        sizes = _size(x) + _size(expected)
        for x_e, x0, level in seen:
            sizes += (sigma_next - sigma) / level * (_size(x_e) + _size(x0))
        units = ROUNDINGS * sizes / (_size(expected) or 1.0)
        least = context.epsilon * max(NOISE, units)
        yield context.judge(entry, "step", output, expected, least=least)


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
        point = first.state if at is None else at
        there = sigma if level is None else level
        seen = RecordedEvaluation(entry, point, prediction, [])
        yield point, evaluated_x0(context, seen, there, settings), there
        number += 1


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value <= 10**6


def _size(x: np.ndarray) -> float:
    return float(np.max(np.abs(x), initial=0.0))
