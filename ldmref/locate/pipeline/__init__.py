"""Judge the computations of a pipeline between its networks.

A run of ldmref, or of a port in its names, is run again on the recorded arrays
(`ldmref.locate.run`), and a run of diffusers under the names of a run of ldmref. Other judges
compare what no run computes: what the caller gave, noise of which only the distribution is known,
and training.

| module                  | contents                                                    |
|-------------------------|-------------------------------------------------------------|
| `diffusers_run`         | a run of diffusers, under the names of a run of ldmref      |
| `diffusers_request`     | what it was asked for                                       |
| `diffusers_evaluations` | its predictions, and the guidance of each step              |
| `diffusers_images`      | its images, its mask and its noise                          |
| `evaluations`           | which recorded calls belong to an evaluation                |
| `port_run`, `context`   | a recorded run, its scheduler, and the comparison           |
| `coverage`              | what was compared: the rest is "not judged"                 |
| `missing_inputs`        | inputs of networks that were not recorded                   |
| `roles`                 | the names under which the inputs of networks are recorded   |
| `passes`                | splits a trace into its runs and batches                    |

| judge of    | what it compares                                                        |
|-------------|-------------------------------------------------------------------------|
| `asked`     | the guidance that was asked for, with what was used                     |
| `initial`   | the noise with which a run begins, with its distribution                |
| `images`    | images and masks, with what the caller gave                             |
| `added_noise` | the noise that is added to the latents of an image                    |
| `tokens`    | tokens of further prompts                                               |
| `sizes`     | positions and sizes, with the size of the latents                       |
| `schedule`  | levels that a scheduler was given                                       |
| `noise_tests` | noise of steps, with its distribution                                 |
| `references`, `controls`, `hints`, `residuals` | what a program computes from further images |
| `training`, `gradients` | a training step, and its gradients                          |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ldmref.families.lookup import networks_of_run
from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.pipeline.added_noise import judge_added_noise
from ldmref.locate.pipeline.asked import judge_asked, judge_embedded_scale
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.controls import judge_controls
from ldmref.locate.pipeline.coverage import Coverage, names_of, rows_of_rest
from ldmref.locate.pipeline.diffusers_run import view_run
from ldmref.locate.pipeline.gradients import judge_gradients
from ldmref.locate.pipeline.images import judge_images, judge_prepared
from ldmref.locate.pipeline.initial import judge_initial
from ldmref.locate.pipeline.missing_inputs import fill_inputs, rows_of_missing
from ldmref.locate.pipeline.noise_tests import judge_noises
from ldmref.locate.pipeline.passes import split_passes
from ldmref.locate.pipeline.references import judge_references
from ldmref.locate.pipeline.schedule import judge_given_levels, judge_schedule
from ldmref.locate.pipeline.sizes import judge_positions, judge_sizes
from ldmref.locate.pipeline.tokens import judge_tokens
from ldmref.locate.pipeline.training import judge_training
from ldmref.locate.recorded.argument_names import name_as_declared
from ldmref.locate.recorded.unfit import try_judge
from ldmref.locate.replay.networks import name_unknown_pipeline
from ldmref.locate.run import follow_run, follow_view
from ldmref.locate.run.branches import BranchPart, split_branches
from ldmref.locate.run.calls import INPUT, OUTPUT
from ldmref.locate.run.follow import SHOWN
from ldmref.locate.run.request import ENCODER, LATENTS, NO_NOISE
from ldmref.locate.run.visits import visit_guidances
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.trace.calls import CONSTRAIN
from ldmref.trace.model import Trace, without_own_arguments

OF_TRAINING = (judge_training, judge_gradients)
# What a run that was followed is given.
JUDGES_OF_GIVEN = (
    judge_given_levels,
    judge_noises,
    judge_initial,
    judge_positions,
    judge_images,
    judge_prepared,
    judge_added_noise,
    judge_asked,
)

# What a run that was followed has and no request of ldmref.
JUDGES_APART = {
    "sizes": judge_sizes,
    "tokens": judge_tokens,
    "schedule": judge_schedule,
    "controls": judge_controls,
    "references": judge_references,
}


def judge_host(
    port: Trace,
    model: LatentDiffusion,
    dtype: str,
    notes: list[str],
    controlnets: Sequence[ControlNet] = (),
    guide: LatentDiffusion | None = None,
) -> list[Row]:
    """Return the rows of all computations of the pipeline that were recorded.

    Arrays between the networks that no judge compared have a row each, "not judged".

    Args:
        port: The trace.
        model: The model that the port ran.
        dtype: The port's number format.
        notes: Further findings are added here.
        controlnets: The ControlNets of the run, in their order; (): they are not known.
        guide: The weaker model of a run with autoguidance. None: there is none.
    """
    port = without_own_arguments(port)
    unknown = _unknown_pipeline(port, model)
    if unknown:
        return unknown
    port = fill_inputs(port, model, controlnets)
    context = PipelineContext(port, model, dtype, notes, controlnets=controlnets)
    if not context.is_diffusers:
        port = name_as_declared(port, networks_of_run(model.config))
        context = replace(context, port=port)
    missing = rows_of_missing(port, model, controlnets)
    rows = [row for judge in OF_TRAINING for row in try_judge(judge, context)]
    of_steps = context.calls(STEP.call)
    generates = bool(of_steps) or "mode" in context.params
    found = _follow(context, guide) if generates and not context.calls("train") else None
    if found is None or (isinstance(found, str) and not of_steps):
        return [*rows, *_judge_networks_alone(context), *missing]
    if isinstance(found, str):
        rows += [*_visit_guidances(context), *_judge_given(context)]
        return [*rows, *_rows_of_rest(context, found), *missing]
    return [*rows, *found, *_rows_of_rest(context), *missing]


def _follow(context: PipelineContext, guide: LatentDiffusion | None) -> list[Row] | str:
    """Return the rows of a run that is followed, or in words why it cannot be."""
    found = follow_diffusers(context)
    if isinstance(found, str) and not context.is_diffusers:
        return _follow_own(context, guide)
    return found


def _judge_networks_alone(context: PipelineContext) -> list[Row]:
    """Return the rows of networks and guidance without steps: what they read is given."""
    for entry in context.port.entries:
        if entry.call.network or entry.call.kind == COMBINE.call:
            context.coverage.give(names_of(entry, INPUT))
    rows = [*try_judge(judge_sizes, context), *_visit_guidances(context)]
    return [*rows, *_rows_of_rest(context)]


def _judge_given(context: PipelineContext) -> Iterator[Row]:
    """Yield the rows of what a run of diffusers that is not followed was given."""
    for part in split_passes(context.port) if context.is_diffusers else ():
        for judge in (*JUDGES_OF_GIVEN, judge_embedded_scale, *JUDGES_APART.values()):
            yield from try_judge(judge, replace(context, port=part, whole=context.port))


def _visit_guidances(context: PipelineContext) -> list[Row]:
    """Return the rows of guidance, each call by itself."""
    found = visit_guidances(context.port, context.model, context.path, context.epsilon)
    context.coverage.note(found.computed)
    return found.rows()


def _follow_own(context: PipelineContext, guide: LatentDiffusion | None) -> list[Row] | str:
    """Return the rows of a run of ldmref, or of a port in its names; or why it is not followed."""
    parts = split_branches(context.port)
    if parts:
        return _follow_branches(context, parts)
    followed = follow_run(context.port, context.model, context.controlnets, guide, context.epsilon)
    if isinstance(followed, str):
        return followed
    context.notes.extend(followed.notes)
    context.coverage.note(followed.computed)
    if not any(name.call.kind == ENCODER for name in followed.computed):
        for entry in context.calls(ENCODER):  # apart from the run
            context.coverage.give(names_of(entry, INPUT))
    return _with_noises(context, followed.rows())


def _with_noises(context: PipelineContext, rows: list[Row]) -> list[Row]:
    """Return rows of a run with those of noise that it was given, by its distribution."""
    if LATENTS not in context.params or not any(row.note == NO_NOISE for row in rows):
        return rows
    judged = [
        row
        for part in split_passes(context.port)
        for judge in (judge_initial, judge_noises)
        for row in try_judge(judge, replace(context, port=part, whole=context.port))
    ]
    known = {row.call for row in judged}
    return [*(row for row in rows if row.note != NO_NOISE or row.call not in known), *judged]


def _follow_branches(context: PipelineContext, parts: Sequence[BranchPart]) -> list[Row] | str:
    """Return the rows of a run that changed its request on the way."""
    rows: list[Row] = []
    for part in parts:
        followed = follow_view(part.view, context.model, context.epsilon)
        if isinstance(followed, str):
            return followed
        own = {entry.name for entry in part.port.entries}
        mine = {name: x for name, x in followed.computed.items() if name.entry in own}
        within = replace(context, port=part.port)
        rows += try_judge(judge_schedule, within)
        rows += try_judge(judge_noises, within) if part.begins_anew else []
        rows += replace(followed, computed=mine).rows()
        context.coverage.note(mine)
    return rows


def follow_diffusers(context: PipelineContext) -> list[Row] | str:
    """Return the rows of a run of diffusers that is followed from its request to its images.

    Its noise, of which only the distribution is known, levels that its scheduler is given, and
    positions have further rows.

    Args:
        context: The recorded run.

    Returns:
        The rows, or in words why the run cannot be followed.
    """
    passes = split_passes(context.port)
    apart = replace(context, coverage=Coverage(), notes=[])
    rows: list[Row] = []
    for part in passes:
        whole = None if len(passes) == 1 else context.port
        found = _follow_pass(replace(apart, port=part, whole=whole))
        if isinstance(found, str):
            return found
        rows += found
    context.notes.extend(apart.notes)
    context.coverage.add(apart.coverage)
    return rows


def _follow_pass(apart: PipelineContext) -> list[Row] | str:
    """Return the rows of one pass, or in words why it cannot be followed."""
    found = view_run(apart)
    if isinstance(found, str):
        return found
    followed = follow_view(found.view, found.model, apart.epsilon)
    if isinstance(followed, str):
        return followed
    rows = followed.rows()
    if found.unread and any(row.verdict == DIFFERS for row in rows):
        return found.unread
    for entry in apart.calls("initial"):
        if entry.inputs:  # noise that the caller gave
            apart.coverage.give(names_of(entry, OUTPUT))
    if apart.unknown_scheduler:
        for entry in apart.calls("schedule"):
            apart.coverage.explain(names_of(entry, OUTPUT), apart.unknown_scheduler)
    known = {(row.call, row.kind, row.verdict) for row in rows}
    for judge in (*JUDGES_OF_GIVEN, *(JUDGES_APART[name] for name in found.apart)):
        judged = try_judge(judge, apart)
        rows += [x for x in judged if (x.call, x.kind, x.verdict) not in known]
    apart.coverage.note(followed.computed)
    return rows


def _rows_of_rest(context: PipelineContext, why: str = "") -> Iterator[Row]:
    """Yield the rows of recorded arrays that nothing compared, with the reason if it is known."""
    port = context.port
    whole = [entry for entry in port.entries if not entry.layer]
    host = [e for e in whole if e.call.is_host and e.call.kind not in SHOWN]
    host += [entry for entry in port.entries if entry.layer == CONSTRAIN]
    networks = [e for e in whole if e.call.network]
    yield from rows_of_rest(port, context.coverage, host, networks, why)


def _unknown_pipeline(port: Trace, model: LatentDiffusion) -> list[Row]:
    """Return a row that says that a pipeline is not known, if its latents are tokens."""
    kind = name_unknown_pipeline(port, model)
    steps = [call for call in port.calls if call.startswith("sampler")]
    if not kind or not steps:
        return []
    family = model.family
    note = f"{family.name} does not read a {kind}: nothing between its networks is judged"
    return [Row(steps[0], "", "pipeline", verdict=UNKNOWN, note=note)]
