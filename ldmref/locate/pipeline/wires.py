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

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.layouts import relative_error
from ldmref.locate.pipeline.added_noise import NOISED
from ldmref.locate.pipeline.combination import PLAIN
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.trace.model import TraceEntry

SETTINGS = ("scale", "rescale", "sigma")  # inputs of guidance that are no predictions
Variants = list[tuple[str, np.ndarray]]


def judge_wires(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for every wire whose two ends were recorded."""
    yield from _judge_halves(context)
    yield from _judge_predictions(context)
    yield from _judge_initial(context)
    yield from _judge_states(context)


# -- predictions ----------------------------------------------------------------------------------


def _judge_halves(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for what guidance was given, from the halves of the U-Net's output."""
    networks = context.calls(context.denoiser)
    recorded = context.calls("guidance")
    if len(networks) != len(recorded):
        return
    for network, entry in zip(networks, recorded, strict=True):
        roles = [role for role in entry.inputs if role not in SETTINGS]
        raw = context.read_output(network)
        kind = entry.attributes.get("prediction_type", context.config.prediction_type)
        if raw is None or kind != context.config.prediction_type:
            continue
        if sorted(roles) != ["cond", "uncond"] or _name_of(entry) not in PLAIN:
            continue
        uncond = context.read(entry, "uncond")
        cond = context.read(entry, "cond")
        assert uncond is not None and cond is not None
        if raw.ndim != cond.ndim or raw.shape[0] != 2 * cond.shape[0] or uncond.shape != cond.shape:
            continue
        halves = np.split(raw[:, : cond.shape[1]], 2)  # further channels are variances
        if halves[0].shape != cond.shape:
            continue
        cond_first = entry.attributes.get("halves") == ["cond", "uncond"]
        right_uncond, right_cond = halves[::-1] if cond_first else halves
        right = np.concatenate([right_uncond, right_cond])
        yield context.judge(
            entry,
            "prediction",
            np.concatenate([uncond, cond]),
            right,
            variants=[
                ("the halves are exchanged", np.concatenate([right_cond, right_uncond])),
                ("both are the conditional half", np.concatenate([right_cond] * 2)),
                ("both are the unconditional half", np.concatenate([right_uncond] * 2)),
                *_from_before(context, networks, network, right),
            ],
            segment=f"from {network.call} to {entry.call}",
        )


def _is_doubled(got: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether a step was given the same batch twice, one after the other."""
    twice = len(got) == 2 * len(expected) and got.shape[1:] == expected.shape[1:]
    return twice and np.array_equal(got[: len(expected)], got[len(expected) :])


def _name_of(entry: TraceEntry) -> str | None:
    return entry.attributes.get("name", entry.attributes.get("guidance"))


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
    steps = context.calls("sampler")
    guidances = context.calls("guidance")
    networks = context.calls(context.denoiser)
    sources = guidances or networks
    for k, step in enumerate(steps):
        named = step.attributes.get("evaluations")
        if isinstance(named, list):
            sought = [context.port.find(str(name)) for name in named]
        else:
            sought = [sources[k]] if len(sources) == len(steps) else []
        for i, source in enumerate(sought):
            roles = [f"prediction.{i}"] if i else ["model_output", "prediction"]
            got = context.read(step, *roles)
            expected = None if source is None else context.read_output(source)
            if source is None or got is None or expected is None:
                continue
            if source in networks and expected.shape != got.shape:
                continue  # the halves of a guidance that was not recorded
            if source in guidances and _is_doubled(got, expected):
                got = got[: len(expected)]
            variants: Variants = []
            for role, words in (("cond", "conditional"), ("uncond", "unconditional")):
                part = context.read(source, role)
                if part is not None and part.shape == got.shape:
                    text = f"guidance is computed but not used: the {words} prediction"
                    variants.append((text, part))
            if source in sources:
                variants += _from_before(context, sources, source, expected)
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
    """Yield a row for the state of the first step, from the initial latents."""
    steps = context.calls("sampler")
    initial = next(iter(context.calls("initial")), None)
    got = context.read(steps[0], "sample", "x") if steps else None
    expected = context.read_output(initial)
    if initial is None or got is None or expected is None or _number(steps[0].call) > 0:
        return
    yield context.judge(
        steps[0],
        "initial latents",
        got,
        expected,
        variants=[*_changes_of(got, expected)],
        segment=f"from the initial latents to {steps[0].call}",
    )


def _judge_states(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the state of each step, from what the step before returned."""
    for step, following in pairwise(context.calls("sampler")):
        if not _continues(context, step, following):
            continue
        got = context.read(following, "sample", "x")
        expected = state_after(context, step)
        if got is None or expected is None:
            continue
        blended = _blended(context, step, following, got, expected)
        if blended is not None and relative_error(got, blended) <= 16 * context.epsilon:
            continue
        before = context.read(step, "sample", "x")
        variants = [*_changes_of(got, expected)]
        if before is not None and before.shape == got.shape:
            variants.append(("the state before the step: its result is not used", before))
        yield context.judge(
            following,
            "state",
            got,
            expected,
            variants=variants,
            segment=f"from {step.call} to {following.call}",
        )


def state_after(context: PipelineContext, step: TraceEntry) -> np.ndarray | None:
    """Return x after a step; of inpainting, with the known values put into it."""
    constrained = context.read_output(context.port.find(step.call, "constrain"))
    return context.read_output(step) if constrained is None else constrained


def clamp_of(got: np.ndarray, expected: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Return the clamping that might have changed an array, in words and as it would be."""
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


def _number(call: str) -> int:
    """Return the number of a call, 0 if it has none."""
    found = re.search(r"\.(\d+)", call)
    return int(found[1]) if found else 0


def _continues(context: PipelineContext, step: TraceEntry, following: TraceEntry) -> bool:
    """Return whether a step starts where the step before it ended, without a jump between."""
    if _number(following.call) != _number(step.call) + 1:
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
        return after <= before  # a larger timestep begins another image, or jumps back
    end, start = context.number(step, "sigma_next"), context.number(following, "sigma")
    return end is None or start is None or abs(end - start) <= 1e-3 * max(end, start)


def _blended(
    context: PipelineContext,
    step: TraceEntry,
    following: TraceEntry,
    got: np.ndarray,
    expected: np.ndarray,
) -> np.ndarray | None:
    """Return the state with known values put into it, as inpainting in diffusers does.

    Between the steps, the known part of the image is noised; each value comes from one of both.
    """
    calls = context.port.calls
    begin, end = calls.index(step.call), calls.index(following.call)
    for noised in context.calls("add_noise"):
        if begin < calls.index(noised.call) < end:
            return _nearer(context.read_output(noised), got, expected)
    return None


def blended_at_the_end(
    context: PipelineContext, steps: list[TraceEntry], got: np.ndarray, expected: np.ndarray
) -> np.ndarray | None:
    """Return the last state with the known part of the image put into it; None: there is none."""
    calls = context.port.calls
    noised = [
        e for e in context.calls("add_noise") if calls.index(e.call) > calls.index(steps[0].call)
    ]
    known = context.read(noised[-1], *NOISED) if noised else None
    return _nearer(known, got, expected)


def _nearer(known: np.ndarray | None, got: np.ndarray, expected: np.ndarray) -> np.ndarray | None:
    """Return the known or the expected value, whichever is nearer to an array."""
    if known is None or known.shape != got.shape or expected.shape != got.shape:
        return None
    return np.where(np.abs(got - known) < np.abs(got - expected), known, expected)
