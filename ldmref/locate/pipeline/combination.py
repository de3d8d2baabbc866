"""Judge the combination of predictions by guidance: each visit of the part `COMBINE`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np

from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.parts.guidance_faults import known_guidance_faults
from ldmref.locate.parts.hypotheses import hypotheses
from ldmref.locate.parts.rules import (
    NUMBERS,
    PLAIN,
    RecordedRule,
    depends_on_level,
    guidance_rule,
    other_guidances,
)
from ldmref.locate.parts.visit import Visit
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import sigma_of
from ldmref.locate.pipeline.text_inputs import SETTINGS
from ldmref.samplers.interfaces import History
from ldmref.samplers.parts import COMBINE
from ldmref.trace.model import TraceEntry

PARTS_LACK = "its parts or its result were not recorded"
HALVES_LACK = "its halves or its result were not recorded"
NOT_REMEMBERED = "what the steps before it leave was not recorded"


def judge_guidance(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for every recorded guidance; without any, for what each step was given."""
    recorded = context.calls("guidance")
    visits = [*_visits(context, recorded)]
    around = zip([None, *visits], visits, [*visits[1:], None], strict=False)
    for entry, (before, visit, after) in zip(recorded, around, strict=True):
        row = _judge(context, entry, visit, before, after)
        if row.verdict == UNKNOWN:
            context.compared(entry, *SETTINGS)  # the row says that they were not
        else:
            yield from _judge_level(context, entry)
        context.compared_output(entry)  # the row says whether it was compared
        yield row
    if not recorded and context.is_diffusers:
        yield from _judge_steps(context)


def _visits(context: PipelineContext, recorded: list[TraceEntry]) -> Iterator[Visit | str]:
    """Yield the visits of recorded calls, or why there is none.

    What the first evaluation of a step leaves is the memory of the next step, unless that jumps
    back or was not recorded.
    """
    evaluations = {e.guidance.call: e for e in context.evaluations if e.guidance is not None}
    begin = _first(context)
    memory: History | None = ()  # of the step; None: not known
    left: History | None = ()
    number = -1
    for entry in recorded:
        evaluation = evaluations.get(entry.call)
        first = evaluation is None or evaluation.number == 0
        if evaluation is not None and first:
            step = evaluation.step
            starts = number < 0 if begin is None else step.attributes.get("i") == begin
            follows = step.call.number == number + 1
            memory = () if starts else left if follows and number >= 0 else None
            number = step.call.number
        elif evaluation is None:
            memory = left
        sigma = None if evaluation is None else sigma_of(context, evaluation)
        visit = _visit(context, entry, memory, sigma)
        if first:
            left = visit.memory() if isinstance(visit, Visit) else None
        yield visit


def _first(context: PipelineContext) -> int | None:
    """Return the index of the level at which the run begins, if it was recorded."""
    entry = context.schedule_entry
    visits = None if entry is None else entry.attributes.get("visits")
    return int(visits[0]) if isinstance(visits, list) and visits else None


def _visit(
    context: PipelineContext, entry: TraceEntry, memory: History | None, sigma: float | None
) -> Visit | str:
    """Return the visit of a recorded call, or why it cannot be computed."""
    numbers = {role: context.number(entry, role) for role in NUMBERS}
    if entry.attributes.get("name") is None and numbers["rescale"] is None:
        numbers["rescale"] = float(context.params.get("guidance_rescale") or 0.0)
    rule = guidance_rule(entry.attributes, entry.inputs, numbers)
    if not isinstance(rule, RecordedRule):
        return rule
    scale = context.number(entry, "scale")
    scale = context.asked_scale if scale is None else scale
    arrays = {}
    for slot, role in COMBINE.roles_of(entry.inputs):
        if slot.several and role not in NUMBERS:
            arrays[rule.arrays.get(role, role)] = context.read(entry, role)
    if "uncond" not in arrays and (rule.foreign or scale is None):
        scale = 1.0
    if scale is None:
        return PARTS_LACK if rule.foreign else "the guidance scale was not recorded"
    recorded = context.number(entry, "sigma")
    level = sigma if recorded is None else recorded
    known = {name: np.asarray(x, np.float64) for name, x in arrays.items() if x is not None}
    guidance = rule.guidance
    needed = {*guidance.needs(context.path.ratio(1.0 if level is None else level), scale)}
    alone = _is_one(known, scale) and not rule.foreign
    if not known or (needed - {*known} and not alone):
        return _lacking(entry)
    if level is None and depends_on_level(guidance, known, scale):
        return "its level was not recorded"
    level = 1.0 if level is None else level
    if guidance.remembers and memory is None:
        return NOT_REMEMBERED
    inputs = {"predictions": known, "sigma": level, "scale": scale, "memory": memory or ()}
    return Visit(COMBINE, guidance, {**inputs, "path": context.path})


def _lacking(entry: TraceEntry) -> str:
    name = entry.attributes.get("name", entry.attributes.get("guidance"))
    return HALVES_LACK if name in (*PLAIN, "embedded") else PARTS_LACK


def _is_one(predictions: Mapping[str, np.ndarray], scale: float) -> bool:
    return {*predictions} == {"cond"} and scale == 1.0


def _judge(
    context: PipelineContext,
    entry: TraceEntry,
    visit: Visit | str,
    before: Visit | str | None = None,
    after: Visit | str | None = None,
) -> Row:
    output = context.read_output(entry)
    if not isinstance(visit, Visit):
        return context.not_judged(entry, "guidance", visit)
    if output is None:
        return context.not_judged(entry, "guidance", _lacking(entry))
    return judge_visit(context, entry, visit, output, before, after)


def judge_visit(
    context: PipelineContext,
    entry: TraceEntry,
    visit: Visit,
    output: np.ndarray,
    before: Visit | str | None = None,
    after: Visit | str | None = None,
) -> Row:
    """Return the row of one visit; those before and after it may have been taken in its place."""
    expected = visit.output()
    if expected is None:
        return context.not_judged(entry, "guidance", PARTS_LACK)
    floor = visit.noise(expected, context.epsilon)
    near = [x if isinstance(x, Visit) else None for x in (before, after)]
    rules = other_guidances(visit.rule)
    got = np.asarray(output, np.float64)
    causes = chain(known_guidance_faults(visit), hypotheses(visit, got, *near, rules=rules))
    return context.judge(entry, "guidance", output, expected, floor=floor, variants=causes)


def _judge_level(context: PipelineContext, entry: TraceEntry) -> Iterator[Row]:
    """Yield a row for the noise level of a guidance that is not that of its evaluation."""
    evaluation = next((e for e in context.evaluations if e.guidance is entry), None)
    got = context.number(entry, "sigma")
    right = None if evaluation is None else sigma_of(context, evaluation)
    if got is None or right is None:
        return
    context.compared(entry, "sigma")
    row = context.judge(entry, "guidance level", np.array([got]), np.array([right]), least=1e-5)
    if row.verdict == DIFFERS:
        yield row


def _judge_steps(context: PipelineContext) -> Iterator[Row]:
    """Yield rows from the halves of the U-Net's output, and what the steps were given."""
    scale = context.asked_scale
    networks = context.calls(context.denoiser)
    steps = context.calls("sampler")
    if scale is None or len(networks) != len(steps):
        return
    before: Visit | str | None = None
    rule = guidance_rule({}, {}, {"rescale": float(context.params.get("guidance_rescale") or 0.0)})
    for network, step in zip(networks, steps, strict=True):
        raw = context.read_output(network)
        recorded = context.read(step, "model_output")
        if raw is None or recorded is None or raw.shape[0] != 2 * recorded.shape[0]:
            continue
        halves = dict(zip(context.halves(), np.split(raw, 2), strict=True))
        assert isinstance(rule, RecordedRule)
        inputs = {"predictions": halves, "sigma": 1.0, "scale": scale}
        visit = Visit(COMBINE, rule.guidance, inputs)
        yield judge_visit(context, step, visit, recorded, before)
        before = visit
