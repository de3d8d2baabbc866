"""What a pipeline computes between its networks.

A complete run of ldmref is followed (`ldmref.locate.run`), and one of diffusers under the names of
a run of ldmref. Of other runs, and where a run of diffusers differs, each computation is computed
again from its recorded state.

| module        | what is judged                                                        |
|---------------|-----------------------------------------------------------------------|
| `diffusers_run` | a run of diffusers, under the names of a run of ldmref              |
| `diffusers_request` | what it was asked for                                           |
| `diffusers_evaluations` | its predictions, and the guidance of each step              |
| `diffusers_images` | its images, its mask and its noise                               |
| `tokens`      | token ids of the prompts                                              |
| `inputs`      | what the U-Net is given: latents, timestep, text, micro-conditioning  |
| `conditions`  | what the denoiser is given of the size of the image                   |
| `classes`     | the numbers of classes that the denoiser is given                     |
| `images`      | images, masks, encoded latents, further channels                      |
| `references`  | what the denoiser reads of reference images                           |
| `schedule`    | sigmas, timesteps and alphas_cumprod                                  |
| `added_noise` | the noise that is added to the latents of an image                    |
| `combination` | the combination of predictions by guidance                            |
| `asked`       | the guidance that was asked for, against what was used                |
| `wires`       | what one call returned, against what the next one was given           |
| `known_parts` | what puts the known part of an image back, and jumps back (RePaint)   |
| `steps`       | the sampler's steps, with the history of recorded earlier steps       |
| `latents`     | the scale of the initial noise, and of the latents before the decoder |
| `training`    | a training step: noising, target and losses                           |
| `gradients`   | the gradients of a training step: the norm of each layer's            |
| `controls`    | what ControlNets are given, and what the denoiser is given of them    |
| `hints`       | the control image of ControlNets, or its latents, and its kind        |
| `residuals`   | the sum of the outputs of ControlNets, as the denoiser adds it        |
| `ledger`      | what of all this was compared: the rest is "not judged"               |
| `missing_inputs` | inputs of networks that were not recorded                          |
| `roles`       | the names under which the inputs of networks are recorded             |
| `passes`      | splits a trace into its runs and batches                              |
| `branches`    | splits a recorded branch into parts with one request each             |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ldmref.locate.findings import DIFFERS, EQUAL, UNKNOWN, Row
from ldmref.locate.layouts import CLOSE
from ldmref.locate.networks import name_unknown_pipeline
from ldmref.locate.pipeline.added_noise import judge_added_noise
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.locate.pipeline.branches import split_branches
from ldmref.locate.pipeline.classes import judge_class_labels
from ldmref.locate.pipeline.combination import judge_guidance
from ldmref.locate.pipeline.conditions import judge_conditions
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.controls import judge_controls
from ldmref.locate.pipeline.diffusers_run import view_run
from ldmref.locate.pipeline.gradients import judge_gradients
from ldmref.locate.pipeline.images import judge_images, judge_prepared
from ldmref.locate.pipeline.inputs import judge_inputs, judge_positions, judge_sizes
from ldmref.locate.pipeline.known_parts import judge_known_parts
from ldmref.locate.pipeline.latents import judge_initial, judge_latents
from ldmref.locate.pipeline.ledger import Ledger, rows_of_rest
from ldmref.locate.pipeline.missing_inputs import fill_inputs, rows_of_missing
from ldmref.locate.pipeline.passes import split_passes
from ldmref.locate.pipeline.references import judge_references
from ldmref.locate.pipeline.schedule import judge_given_levels, judge_schedule
from ldmref.locate.pipeline.selected import mark_selected
from ldmref.locate.pipeline.steps import judge_noises, judge_steps, judge_times
from ldmref.locate.pipeline.tokens import judge_tokens
from ldmref.locate.pipeline.training import judge_training
from ldmref.locate.pipeline.wires import judge_wires
from ldmref.locate.run import follow_run, follow_view
from ldmref.locate.run.follow import SHOWN
from ldmref.locate.unfit import try_judge
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.trace.calls import CONSTRAIN
from ldmref.trace.model import Trace, without_own_arguments

JUDGES = (
    judge_schedule,
    judge_images,
    judge_prepared,
    judge_added_noise,
    judge_inputs,
    judge_conditions,
    judge_references,
    judge_class_labels,
    judge_controls,
    judge_guidance,
    judge_asked,
    judge_wires,
    judge_known_parts,
    judge_steps,
    judge_latents,
    judge_training,
    judge_gradients,
)
# Of a run that was followed: what it is given, and whether its steps are those of its schedule.
JUDGES_OF_GIVEN = (
    judge_given_levels,
    judge_times,
    judge_noises,
    judge_initial,
    judge_positions,
    judge_images,
    judge_prepared,
    judge_added_noise,
    judge_asked,
)

# Of a run that was followed, what no request of ldmref has.
JUDGES_APART = {
    "sizes": judge_sizes,
    "tokens": judge_tokens,
    "schedule": judge_schedule,
    "controls": judge_controls,
    "references": judge_references,
    "steps": judge_steps,
}

FITTED = "latents = "  # two numbers, which say less than a declared one that is another


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
        notes: What is found beside the rows is added here.
        controlnets: The ControlNets of the run, in their order; (): they are not known.
        guide: The weaker model of a run with autoguidance. None: there is none.
    """
    port = without_own_arguments(port)
    unknown = _unknown_pipeline(port, model)
    if unknown:
        return unknown
    port = fill_inputs(port, model, controlnets)
    context = PipelineContext(port, model, dtype, notes, controlnets=controlnets)
    missing = rows_of_missing(port, model, controlnets)
    right = follow_diffusers(context)
    if right is not None:
        return [*right, *missing]
    followed = follow_run(port, model, controlnets, guide, context.epsilon)
    if isinstance(followed, str):
        rows = _judge_each(context)
    else:
        rows = _explain_apart(followed.rows(), context)
        context.ledger.marked.update(followed.computed)
    return [*rows, *_rows_of_rest(context), *missing]


def _explain_apart(rows: list[Row], context: PipelineContext) -> list[Row]:
    """Return rows of a run with causes that only the family's own functions say.

    They are those of arrays that it makes of the image's size, and of latents whose channels are
    normalised. Calls that were given the same array are judged once.
    """
    if all(row.verdict == EQUAL for row in rows):
        return rows
    apart = replace(context, ledger=Ledger(), notes=[])
    judged = [row for judge in (judge_conditions, judge_latents) for row in try_judge(judge, apart)]
    known = [row for row in judged if row.cause and not row.cause.startswith(FITTED)]

    def explained(row: Row) -> Row:
        alike = (x for x in known if x.kind == row.kind)
        other = next((x for x in alike if math.isclose(x.error, row.error, rel_tol=CLOSE)), None)
        if other is None or row.verdict != DIFFERS or row.cause == other.cause:
            return row
        return replace(row, cause=other.cause, explained=other.explained, segment=other.segment)

    return [explained(row) for row in rows]


def follow_diffusers(context: PipelineContext) -> list[Row] | None:
    """Return the rows of a run of diffusers that is followed from its request to its images.

    What the run is given has rows of its own: its noise, of which only the distribution is known,
    levels that its scheduler is given, and positions.

    Args:
        context: The recorded run.

    Returns:
        None if the run cannot be followed, or not all of it, or if anything in it differs: then
        each computation is judged from its recorded state.
    """
    passes = split_passes(context.port)
    apart = replace(context, ledger=Ledger(), notes=[])
    rows: list[Row] = []
    for part in passes:
        whole = None if len(passes) == 1 else context.port
        found = _follow_pass(replace(apart, port=part, whole=whole))
        if found is None:
            return None
        rows += found
    context.notes.extend(apart.notes)
    context.ledger.marked.update(apart.ledger.marked)
    return rows


def _follow_pass(apart: PipelineContext) -> list[Row] | None:
    """Return the rows of one pass, all of which are equal; None if they are not."""
    found = view_run(apart)
    if isinstance(found, str):
        return None
    followed = follow_view(found.view, found.model, apart.epsilon)
    if isinstance(followed, str):
        return None
    rows = followed.rows(explained=False)  # a wrong run is judged part by part
    if any(row.verdict != EQUAL for row in rows):
        return None
    for entry in apart.calls("initial"):
        if entry.inputs:  # noise that the caller gave
            apart.compared_output(entry)
    known = {(row.call, row.kind) for row in rows}
    for judge in (*JUDGES_OF_GIVEN, *(JUDGES_APART[name] for name in found.apart)):
        judged = try_judge(judge, apart)
        rows += [x for x in judged if x.verdict != EQUAL or (x.call, x.kind) not in known]
    apart.ledger.marked.update(followed.computed)
    if any(row.verdict != EQUAL for row in rows) or any(_rows_of_rest(apart)):
        return None
    return rows


def _rows_of_rest(context: PipelineContext) -> Iterator[Row]:
    """Yield the rows of recorded arrays that nothing compared."""
    port = context.port
    whole = [entry for entry in port.entries if not entry.layer]
    host = [e for e in whole if e.call.is_host and e.call.kind not in SHOWN]
    host += [entry for entry in port.entries if entry.layer == CONSTRAIN]
    networks = [e for e in whole if e.call.network]
    yield from rows_of_rest(port, context.ledger, host, networks)


def _judge_each(context: PipelineContext) -> list[Row]:
    """Return the rows of all computations, each from its recorded state."""
    port = context.port
    rows = try_judge(judge_tokens, context)
    passes = split_passes(port)
    for part in passes:
        within = context if len(passes) == 1 else replace(context, port=part, whole=port)
        rows += _judge_pass(within)
    mark_selected(port, context.ledger, context.denoiser)
    return rows


def _unknown_pipeline(port: Trace, model: LatentDiffusion) -> list[Row]:
    """Return a row that says that a pipeline is not known, if its latents are tokens."""
    kind = name_unknown_pipeline(port, model)
    steps = [call for call in port.calls if call.startswith("sampler")]
    if not kind or not steps:
        return []
    family = model.family
    note = f"{kind} is no pipeline that {family.name} reads: nothing between its networks is judged"
    return [Row(steps[0], "", "pipeline", verdict=UNKNOWN, note=note)]


def _judge_pass(context: PipelineContext) -> list[Row]:
    """Return the rows of one pass, whose branches have requests of their own."""
    parts = split_branches(context.port)
    trunk = replace(context, port=parts.trunk) if parts.trunk is not context.port else context
    of_parts = {
        judge_guidance: parts.requests,
        judge_asked: parts.requests,
        judge_steps: parts.samplings,
    }
    rows: list[Row] = []
    for judge in JUDGES:
        for part in of_parts.get(judge, (parts.trunk,)):
            within = trunk if part is parts.trunk else replace(trunk, port=part)
            rows += try_judge(judge, within)
    return rows
