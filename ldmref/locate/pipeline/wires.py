"""Judge the wires between calls: what one call returned, against what the next one was given.

| from            | to                          | kind            |
|-----------------|-----------------------------|-----------------|
| U-Net           | guidance: which half is it? | prediction      |
| guidance, U-Net | the step                    | prediction      |
| step            | the next step               | state           |
| initial latents | the first step              | initial latents |

The wires from the sampler to the U-Net are in `inputs`, and those to the decoder in `latents`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.added_noise import NOISED
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import RunEvaluation, sigma_of, state_of
from ldmref.locate.pipeline.images import Variants
from ldmref.locate.pipeline.roles import first_roles_of
from ldmref.locate.pipeline.text_inputs import SETTINGS
from ldmref.samplers.denoiser import TO_X0, convert
from ldmref.trace.calls import CONSTRAIN
from ldmref.trace.model import TraceEntry

ROUNDED_TIME = 1e-5  # of a timestep, which schedulers interpolate in float32


def judge_wires(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for every wire whose two ends were recorded."""
    yield from _judge_halves(context)
    yield from _judge_predictions(context)
    yield from _judge_initial(context)
    yield from _judge_states(context)


# -- predictions ----------------------------------------------------------------------------------


def _judge_halves(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for what guidance was given, from the parts of the denoiser's outputs."""
    if not context.calls("sampler"):  # guidance alone: its predictions are given
        for entry in context.calls("guidance"):
            context.compared(entry, *entry.inputs)
    before: np.ndarray | None = None
    for evaluation in context.evaluations:
        entry = evaluation.guidance
        if entry is None:
            continue
        roles = [role for role in entry.inputs if role not in (*SETTINGS, "guide")]
        parts = _parts_of(context, evaluation, roles)
        requested = [context.read(entry, role) for role in roles]
        got = [x for x in requested if x is not None]
        if not got or len(parts) != len(got) or any(x.shape != got[0].shape for x in got):
            why = "the parts of the network's outputs are not known"
            if not evaluation.networks:
                why = f"no call of the {context.denoiser} was recorded"
            context.ledger.explain(entry, why, *roles)
            continue
        right = np.concatenate([parts[role] for role in roles])
        if right.shape != np.concatenate(got).shape:
            context.ledger.explain(entry, "they have another shape", *roles)
            continue
        variants: Variants = []
        if roles in (["uncond", "cond"], ["cond", "uncond"]):
            cond, uncond = parts["cond"], parts["uncond"]
            exchanged = {"cond": uncond, "uncond": cond}
            variants = [
                ("the halves are exchanged", np.concatenate([exchanged[r] for r in roles])),
                ("both are the conditional half", np.concatenate([cond] * 2)),
                ("both are the unconditional half", np.concatenate([uncond] * 2)),
            ]
        if before is not None and before.shape == right.shape:
            variants.append(("the prediction of the step before", before))
        before = right
        calls = " and ".join(network.call for network in evaluation.networks)
        yield context.judge(
            entry,
            "prediction",
            np.concatenate(got),
            right,
            least=_least_of(context, entry),
            variants=variants,
            segment=f"from {calls} to {entry.call}",
        )
        context.compared(entry, *roles)


def _least_of(context: PipelineContext, entry: TraceEntry) -> float | None:
    """Return the error that is allowed at least; predictions of another kind were converted."""
    kind = entry.attributes.get("prediction_type", context.config.prediction_type)
    return None if kind == context.config.prediction_type else max(1e-4, context.rounding)


def _parts_of(
    context: PipelineContext, evaluation: RunEvaluation, roles: list[str]
) -> dict[str, np.ndarray]:
    """Return the denoiser's predictions by role; {} if it is not known which is which."""
    state = state_of(context, evaluation)
    outputs = [context.read_output(network) for network in evaluation.networks]
    if state is None or any(x is None or len(x) % len(state) for x in outputs):
        return {}
    n, channels = len(state), state.shape[1]
    parts = [x[i : i + n, :channels] for x in outputs for i in range(0, len(x), n)]  # type: ignore
    halves = context.halves(evaluation.guidance)
    third = [role for role in roles if role not in ("cond", "uncond")]
    if context.is_diffusers and len(evaluation.networks) == 2 and len(parts) == 2:
        order = ["cond", "uncond"]
    elif {"cond", "uncond"} <= {*roles}:
        order = [*halves, *third]
    else:
        order = roles
    if len(order) != len(parts) or sorted(order) != sorted(roles):
        return {}
    found = dict(zip(order, parts, strict=True))
    return {role: _converted(context, evaluation, x, state) for role, x in found.items()}


def _converted(
    context: PipelineContext, evaluation: RunEvaluation, x: np.ndarray, state: np.ndarray
) -> np.ndarray:
    """Return a prediction of the network in the kind that the guidance combines."""
    entry, sigma = evaluation.guidance, sigma_of(context, evaluation)
    own = context.config.prediction_type
    kind = own if entry is None else entry.attributes.get("prediction_type", own)
    if kind not in TO_X0 or kind == own or sigma is None:
        return x
    return convert({"": x}, own, kind, state, sigma, context.path)[""]


def _is_doubled(got: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether a step was given the same batch twice, one after the other."""
    twice = len(got) == 2 * len(expected) and got.shape[1:] == expected.shape[1:]
    return twice and np.array_equal(got[: len(expected)], got[len(expected) :])


def _from_before(
    context: PipelineContext, calls: list[TraceEntry], call: TraceEntry, like: np.ndarray
) -> Variants:
    """Return the output of the call before, if it has the shape of an array."""
    index = calls.index(call)
    before = context.read_output(calls[index - 1]) if index else None
    if before is None or before.shape != like.shape:
        return []
    return [("the prediction of the step before", before)]


def _judge_predictions(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for what the steps were given, from guidance, otherwise from the U-Net."""
    guidances = context.calls("guidance")
    networks = context.calls(context.denoiser)
    sources = guidances or networks
    for evaluation in context.evaluations:
        step, suffix = evaluation.step, evaluation.suffix
        source = evaluation.guidance
        if source is None and len(evaluation.networks) == 1:
            source = evaluation.networks[0]
        roles = [f"prediction{suffix}"] if suffix else ["model_output", "prediction"]
        got, expected = context.read(step, *roles), context.read_output(source)
        if source is None or got is None or expected is None:
            continue
        if source in networks and expected.shape != got.shape:
            state = context.read(step, "sample", "x")
            if state is None or len(expected) != len(state) or got.shape[1:] == expected.shape[1:]:
                context.ledger.explain(step, "no guidance was recorded", *roles)
                continue
            expected = expected[:, : got.shape[1]]
        if source in guidances and _is_doubled(got, expected):
            got = got[: len(expected)]
        variants: Variants = []
        for role, words in (("cond", "conditional"), ("uncond", "unconditional")):
            part = context.read(source, role)
            if part is not None and part.shape == got.shape:
                variants.append(
                    (f"guidance is computed but not used: the {words} prediction", part)
                )
        if source in sources:
            variants += _from_before(context, sources, source, expected)
        context.compared(step, *roles)
        yield context.judge(
            step,
            "prediction",
            got,
            expected,
            variants=variants,
            segment=f"from {source.call} to {step.call}",
        )


# -- states ---------------------------------------------------------------------------------------


def _judge_initial(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the initial latents, and for the state of the first step that they lead to."""
    steps = context.calls("sampler")
    initial = next(iter(context.calls("initial")), None)
    expected = context.read_output(initial)
    if initial is None or expected is None:
        return
    yield from _judge_begin(context, initial, expected)
    got = context.read(steps[0], "sample", "x") if steps else None
    if got is None or not _is_first(context, steps[0]):
        return
    context.compared(steps[0], "sample", "x")
    yield context.judge(
        steps[0],
        "initial latents",
        got,
        expected,
        variants=[*_changes_of(got, expected)],
        segment=f"from the initial latents to {steps[0].call}",
    )


def _is_first(context: PipelineContext, step: TraceEntry) -> bool:
    """Return whether the first recorded step of a pass is its first one: none was left out."""
    numbers = [entry.call.number for entry in context.calls_of_all("sampler")]
    return step.call.number == 0 or numbers == [*range(len(numbers))]


def _judge_begin(context: PipelineContext, initial: TraceEntry, got: np.ndarray) -> Iterator[Row]:
    """Yield a row for initial latents that follow from given ones, or from an image with noise.

    Those of pure noise are judged by their standard deviation (`latents`).
    """
    requested = context.read(initial, "latents")
    noised = [
        e
        for e in context.calls("add_noise")
        if context.port.calls.index(e.call) < context.port.calls.index(initial.call)
    ]
    schedule = None if context.unknown_scheduler else context.make_schedule()
    if noised:
        right = context.read_output(noised[-1])
        if right is not None and right.shape == got.shape:
            segment = f"from {noised[-1].call} to the initial latents"
            yield context.judge(initial, "initial latents", got, right, segment=segment)
            context.compared_output(initial)
    elif requested is not None and requested.shape == got.shape and schedule is not None:
        scale = float(schedule.init_noise_sigma) if context.states_on_path else 1.0
        variants = [
            ("the scale of the initial noise is missing (init_noise_sigma)", requested),
            ("the noise is scaled twice", requested * scale * scale),
        ]
        asked = context.requested("latents")
        if asked is not None and asked.shape == requested.shape:
            yield context.judge(initial, "given latents", requested, asked)
        context.compared(initial, "latents")
        context.compared_output(initial)
        yield context.judge(
            initial, "initial latents", got, scale * requested, least=1e-5, variants=variants
        )


def _judge_states(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the state of each step, from what the step before returned."""
    for step, following in pairwise(context.calls("sampler")):
        got = context.read(following, "sample", "x")
        expected = state_after(context, step)
        if got is None or expected is None:
            continue
        if not _continues(context, step, following):
            if context.port.manifest.get("branch") is not None and np.array_equal(got, expected):
                context.compared(following, "sample", "x")
            continue
        context.compared(following, "sample", "x")
        before = context.read(step, "sample", "x")
        variants = [*_changes_of(got, expected)]
        if before is not None and before.shape == got.shape:
            variants.append(("the state before the step: its result is not used", before))
        blend = _blend(context, step, following, expected)
        if blend is not None:
            blended, others = blend
            variants = [*others, ("the known part is not put back", expected), *variants]
            expected = blended
        segment = f"from {step.call} to {following.call}"
        row = context.judge(following, "state", got, expected, variants=variants, segment=segment)
        yield context.unless_changed(row, "latents")


def state_after(context: PipelineContext, step: TraceEntry) -> np.ndarray | None:
    """Return x after a step; of inpainting, with the known values put into it."""
    constrained = context.read_output(context.port.find(step.call, CONSTRAIN))
    return context.read_output(step) if constrained is None else constrained


def clamp_of(got: np.ndarray, expected: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Return the clamping that might have changed an array, in words and as it would be.

    Its range contains 0, as those of programs do: otherwise it would be the cause of every change
    of the smallest of positive values.
    """
    limits = float(np.min(got, initial=0.0)), float(np.max(got, initial=0.0))
    clamped = np.clip(expected, *limits)
    if not np.isfinite(limits).all() or np.array_equal(clamped, expected):
        return None
    return f"the state is clamped to [{limits[0]:.5g}, {limits[1]:.5g}]", clamped


def _changes_of(got: np.ndarray, expected: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the ways in which a state may have been changed between two calls."""
    if got.shape != expected.shape or not got.size:
        return
    clamp = clamp_of(got, expected)
    if clamp is not None:
        yield clamp


def _continues(context: PipelineContext, step: TraceEntry, following: TraceEntry) -> bool:
    """Return whether a step starts where the step before it ended, without a jump between."""
    if following.call.number != step.call.number + 1:
        return False  # a part of the steps was recorded
    a, b = step.attributes, following.attributes
    if "i_next" in a and "i" in b:
        if a["i_next"] != b["i"]:
            return False
        state = context.read(following, "x")
        jumps = [context.read_output(jump) for jump in context.calls("jump")]
        return state is None or not any(np.array_equal(state, x) for x in jumps if x is not None)
    before, after = context.number(step, "timestep"), context.number(following, "timestep")
    if before is not None and after is not None:
        # A larger timestep begins another image, or jumps back; one of two that are equal but for
        # the rounding of an interpolation in float32 does not.
        return after <= before + ROUNDED_TIME * abs(before)
    end, start = context.number(step, "sigma_next"), context.number(following, "sigma")
    return end is None or start is None or abs(end - start) <= 1e-3 * max(end, start)


def _blend(
    context: PipelineContext, step: TraceEntry, following: TraceEntry, expected: np.ndarray
) -> tuple[np.ndarray, Variants] | None:
    """Return the state with known values put into it, as inpainting in diffusers does.

    Between the steps, the known part of the image is noised, and the mask says which value comes
    from it. None: nothing is put back. Without a recorded mask the nearer value is taken, and
    nothing says that it is the right one.
    """
    calls = context.port.calls
    begin, end = calls.index(step.call), calls.index(following.call)
    for noised in context.calls("add_noise"):
        if begin < calls.index(noised.call) < end:
            return _with_known(context, context.read_output(noised), following, expected)
    return None


def _with_known(
    context: PipelineContext,
    known: np.ndarray | None,
    entry: TraceEntry,
    expected: np.ndarray,
) -> tuple[np.ndarray, Variants] | None:
    """Return expected values with known ones where a mask is 0, and what known faults give."""
    if known is None or known.shape != expected.shape:
        return None
    mask = recorded_mask(context, expected)
    if mask is None:
        got = context.read(entry, "sample", "x", *first_roles_of(context, "vae.decode"))
        found = None if got is None else _nearer(known, got, expected)
        return None if found is None else (found, [])
    blended = (1.0 - mask) * known + mask * expected
    variants = [("the mask is inverted", mask * known + (1.0 - mask) * expected)]
    return blended, [*variants, ("only the known part is kept", known)]


def recorded_mask(context: PipelineContext, like: np.ndarray) -> np.ndarray | None:
    """Return the recorded mask in the size of latents, (n, 1 or c, h, w); None: there is none."""
    for entry in context.calls("mask")[-1:]:
        mask = context.read_output(entry, "mask")
        if mask is None or mask.ndim != 4 or mask.shape[2:] != like.shape[2:]:
            continue
        if mask.shape[1] in (1, like.shape[1]) and len(mask) >= len(like):
            return mask[: len(like)]
    return None


def puts_known_back(context: PipelineContext) -> bool:
    """Return whether the known part of an image is put into the state after the steps."""
    steps = context.calls("sampler")
    order = context.port.calls
    noised = [order.index(e.call) for e in context.calls("add_noise")]
    return bool(steps and noised) and noised[-1] > order.index(steps[0].call)


def blended_at_the_end(
    context: PipelineContext, steps: list[TraceEntry], got: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, Variants] | None:
    """Return the last state with the known part of the image put into it; None: there is none."""
    if not puts_known_back(context):
        return None
    known = context.read(context.calls("add_noise")[-1], *NOISED)
    if known is None or known.shape != expected.shape:
        return None
    mask = recorded_mask(context, expected)
    if mask is None:
        found = _nearer(known, got, expected)
        return None if found is None else (found, [])
    inverted = mask * known + (1.0 - mask) * expected
    return (1.0 - mask) * known + mask * expected, [("the mask is inverted", inverted)]


def _nearer(known: np.ndarray, got: np.ndarray, expected: np.ndarray) -> np.ndarray | None:
    """Return the known or the expected value, whichever is nearer to an array."""
    if known.shape != got.shape or expected.shape != got.shape:
        return None
    return np.where(np.abs(got - known) < np.abs(got - expected), known, expected)
