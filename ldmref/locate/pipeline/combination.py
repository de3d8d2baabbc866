"""Judge the combination of predictions by guidance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.layouts import largest_value
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import sigma_of, state_of
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.pipeline.text_inputs import SETTINGS
from ldmref.math.guidance import classifier_free_guidance, rescale_guidance
from ldmref.trace.model import TraceEntry

EMBEDDED = "embedded"  # the network reads the scale
AUTO = "autoguidance"
MORE = {  # guidances with a third prediction: its role, and that of its scale
    "skip_layers": ("skipped", "skip_scale"),
    "perturbed": ("perturbed", "perturbed_scale"),
}
PLAIN = (None, "", "cfg", "classifier_free", "none")
SURE = ("guidance", "cond", "the sum", "the prediction")  # beginnings of causes


def judge_guidance(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for every recorded guidance; without any, for what each step was given."""
    recorded = context.calls("guidance")
    for before, entry in zip([None, *recorded], recorded, strict=False):
        row = _judge(context, entry, before)
        if row.verdict == UNKNOWN:
            context.compared(entry, *SETTINGS)  # the row says that they were not
        else:
            yield from _judge_level(context, entry)
        context.compared_output(entry)  # the row says whether it was compared
        yield row
        yield from _judge_scale(context, entry)
    if not recorded and context.is_diffusers:
        yield from _judge_steps(context)
    if context.is_diffusers:
        yield from _judge_missing(context)


def _judge(context: PipelineContext, entry: TraceEntry, before: TraceEntry | None) -> Row:
    uncond = context.read(entry, "uncond")
    cond = context.read(entry, "cond", "text")
    output = context.read_output(entry)
    name = entry.attributes.get("name", entry.attributes.get("guidance"))
    if name == AUTO:
        return _judge_autoguidance(context, entry, output, cond, uncond)
    if name in MORE:
        return _judge_added(context, entry, str(name), output, cond, uncond)
    if name not in (*PLAIN, EMBEDDED):
        return context.not_judged(entry, "guidance", f"guidance {name!r} is not recomputed")
    scale = context.asked_scale
    recorded = context.number(entry, "scale")
    scale = recorded if recorded is not None else scale
    alone = name == EMBEDDED or (scale == 1.0 and uncond is None)
    if output is not None and cond is not None and alone:
        return context.judge(entry, "guidance", output, cond)
    if output is None or cond is None or uncond is None:
        return context.not_judged(entry, "guidance", "its halves or its result were not recorded")
    if scale is None:
        return context.not_judged(entry, "guidance", "the guidance scale was not recorded")
    return compare(context, entry, uncond, cond, scale, output, _halves(context, before))


def _judge_added(
    context: PipelineContext,
    entry: TraceEntry,
    name: str,
    output: np.ndarray | None,
    cond: np.ndarray | None,
    uncond: np.ndarray | None,
) -> Row:
    """Return the row of a guidance that adds scale (cond - y), for a third prediction y."""
    role, scale_role = MORE[name]
    third, added = context.read(entry, role), context.number(entry, scale_role)
    scale = context.number(entry, "scale")
    parts = (output, cond, third, added)
    if any(x is None for x in parts) or (uncond is not None and scale is None):
        return context.not_judged(entry, "guidance", "its parts or its result were not recorded")
    assert output is not None and cond is not None and third is not None and added is not None
    guided = cond
    if uncond is not None and scale is not None:
        guided = classifier_free_guidance(uncond, cond, scale)
    expected = guided + added * (cond - third)
    weights = (scale or 0.0, added)
    floor = _rounding(
        context, expected, weights, cond, third, *([] if uncond is None else [uncond])
    )
    changes = {
        f"the {role} prediction is not used": guided,
        "guidance is dropped: the conditional prediction alone": cond,
        f"the sign of the {role} prediction is reversed": guided - added * (cond - third),
    }
    phi = context.number(entry, "rescale") or 0.0
    if phi:
        expected = rescale_guidance(expected, cond, phi)
    row = context.judge(entry, "guidance", output, expected, floor=floor, variants=changes.items())
    context.compared(entry, scale_role)
    return row


def _judge_scale(context: PipelineContext, entry: TraceEntry) -> Iterator[Row]:
    """Yield a row for the scales that a guidance used, from those that were asked for.

    A callback may change them from step to step.
    """
    true_cfg = context.request.get("true_cfg_scale")  # of pipelines that have two scales
    second = true_cfg is not None and _is_second(context, entry)
    asked = {
        "scale": true_cfg if second else context.asked_scale,
        "rescale": context.request.get("guidance_rescale", 0.0),
    }
    for role, value in asked.items():
        got = context.number(entry, role)
        if got is None:
            continue
        if not isinstance(value, int | float):
            continue  # the recorded one is all that is known
        context.compared(entry, role)
        words = f"{got:g} instead of {value:g}"
        row = context.judge(
            entry,
            f"guidance {role}",
            np.array([got]),
            np.array([float(value)]),
            least=1e-6,
            variants=[(words, np.array([got]))],
        )
        if row.verdict == DIFFERS and any(name.startswith("callback") for name in context.request):
            note = f"{words}; the callback of the run may have changed it"
            yield context.not_judged(entry, f"guidance {role}", note)
        elif row.verdict == DIFFERS:
            yield row


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


def _is_second(context: PipelineContext, entry: TraceEntry) -> bool:
    """Return whether a guidance combines two calls of a denoiser, each with a scale of its own."""
    evaluation = next((e for e in context.evaluations if e.guidance is entry), None)
    return (
        evaluation is not None and len(evaluation.networks) == 2 and "skipped" not in entry.inputs
    )


def _judge_missing(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for steps without guidance, though it was asked for."""
    networks = context.calls(context.denoiser)[:1]
    names = {*roles_of(context, "guidance"), "timestep_cond"}
    reads_scale = any(role in names for e in networks for role in e.inputs)
    changed = any(name.startswith("callback") for name in context.request)
    asked = context.asked_scale
    negative = context.request.get("negative_prompt")
    embeds = context.requested("negative_prompt_embeds")
    true_cfg = context.request.get("true_cfg_scale")  # of pipelines that have two scales
    requested = negative is not None or embeds is not None
    second = isinstance(true_cfg, int | float) and true_cfg > 1.0 and requested
    for evaluation in context.evaluations:
        if evaluation.guidance is not None or len(evaluation.networks) != 1:
            continue
        network, step = evaluation.networks[0], evaluation.step
        state, raw = state_of(context, evaluation), context.read_output(network)
        if state is None or raw is None or len(raw) != len(state):
            continue
        may = "guided" in step.attributes and not reads_scale and not changed
        if second or (may and asked is not None and asked > 1.0):
            scale = true_cfg if second else asked
            cause = "guidance is dropped: the network is not asked for the negative prompt"
            note = f"guidance scale {scale:g} was asked for"
            values = {"error": float("inf"), "verdict": DIFFERS, "cause": cause, "note": note}
            yield Row(step.call, "", "guidance", **values)


def _judge_autoguidance(
    context: PipelineContext,
    entry: TraceEntry,
    output: np.ndarray | None,
    cond: np.ndarray | None,
    uncond: np.ndarray | None,
) -> Row:
    """Return the row of a guidance by a weaker model, with or without a classifier-free one."""
    guide = context.read(entry, "guide")
    weight = entry.attributes.get("weight")
    scale = context.number(entry, "scale")
    own = cond
    if cond is not None and uncond is not None and scale is not None:
        own = classifier_free_guidance(uncond, cond, scale)
    if output is None or own is None or guide is None or not isinstance(weight, int | float):
        return context.not_judged(entry, "guidance", "its parts or its result were not recorded")
    expected = classifier_free_guidance(guide, own, weight)
    floor = _rounding(context, expected, (weight,), guide, own)
    changes = {
        "the weaker model is not used": own,
        "the weaker model alone": guide,
        "the two models are exchanged": classifier_free_guidance(own, guide, weight),
        "a weight larger by 1": own + weight * (own - guide),
    }
    return context.judge(entry, "guidance", output, expected, floor=floor, variants=changes.items())


def _halves(context: PipelineContext, entry: TraceEntry | None) -> tuple[np.ndarray, ...]:
    """Return the predictions that a guidance was given, () if they were not recorded."""
    parts = context.read(entry, "uncond"), context.read(entry, "cond", "text")
    found = tuple(x for x in parts if x is not None)
    return found if len(found) == 2 else ()


def _judge_steps(context: PipelineContext) -> Iterator[Row]:
    """Yield rows from the halves of the U-Net's output, and what the steps were given."""
    scale = context.asked_scale
    networks = context.calls(context.denoiser)
    steps = context.calls("sampler")
    if scale is None or len(networks) != len(steps):
        return
    before: tuple[np.ndarray, ...] = ()
    for network, step in zip(networks, steps, strict=True):
        raw = context.read_output(network)
        recorded = context.read(step, "model_output")
        if raw is None or recorded is None or raw.shape[0] != 2 * recorded.shape[0]:
            continue
        uncond, cond = np.split(raw, 2)
        yield compare(context, step, uncond, cond, scale, recorded, before)
        before = (uncond, cond)


def compare(
    context: PipelineContext,
    entry: TraceEntry,
    uncond: np.ndarray,
    cond: np.ndarray,
    scale: float,
    output: np.ndarray,
    before: tuple[np.ndarray, ...] = (),
) -> Row:
    """Return the row of one guidance; `before` are the predictions of the step before."""
    phi = context.number(entry, "rescale") or float(context.params.get("guidance_rescale") or 0.0)
    guided = classifier_free_guidance(uncond, cond, scale)
    expected = rescale_guidance(guided, cond, phi) if phi else guided
    floor = _rounding(context, expected, (scale,), uncond, cond)
    larger = cond + scale * (cond - uncond)
    changes = {
        "guidance is dropped: the conditional prediction alone": cond,
        "guidance is dropped: the unconditional prediction alone": uncond,
        "cond and uncond are swapped": classifier_free_guidance(cond, uncond, scale),
        f"guidance rescale {phi:g} is missing": guided,
        "the sum uncond + scale cond": uncond + scale * cond,
        "cond + scale (cond - uncond), which is a scale larger by 1": larger,
    }
    if before and all(x.shape == uncond.shape for x in before):
        earlier = classifier_free_guidance(before[0], before[1], scale)
        changes["the prediction of the step before"] = earlier
    row = context.judge(entry, "guidance", output, expected, floor=floor, variants=changes.items())
    if row.verdict == DIFFERS and not row.note and not row.cause.startswith(SURE):
        rescaled = rescale_guidance(guided, cond, 1.0)
        fitted = _fit(output, guided, rescaled)
        other = guided + fitted * (rescaled - guided)
        text = f"guidance rescale {fitted:.3g} instead of {phi:g}"
        found = context.judge(
            entry, "guidance", output, expected, floor=floor, variants=[(text, other)]
        )
        if found.cause == text:
            return found
    if row.verdict != DIFFERS or row.note or row.cause.startswith(SURE):
        return row
    fitted = _fit(output, uncond, cond)
    text = f"guidance scale {fitted:.5g} instead of {scale:g}"
    if scale and abs(fitted / scale - 1000.0) < 1.0:
        text = f"guidance scale times 1000: {fitted:.5g} instead of {scale:g}"
    fit = classifier_free_guidance(uncond, cond, fitted)
    return context.judge(entry, "guidance", output, expected, floor=floor, variants=[(text, fit)])


def _rounding(
    context: PipelineContext,
    expected: np.ndarray,
    scales: tuple[float, ...],
    *predictions: np.ndarray,
) -> float:
    """Return the noise floor of a guidance, relative.

    The difference of two predictions is multiplied by a scale, with the rounding of both.
    """
    size = max(map(largest_value, predictions)) * (1.0 + 2.0 * sum(map(abs, scales)))
    return context.epsilon * size / (largest_value(expected) or 1.0)


def _fit(x: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Return s of start + s (end - start) that is nearest to x."""
    difference = end - start
    return float(np.vdot(difference, x - start) / max(np.vdot(difference, difference), 1e-300))
