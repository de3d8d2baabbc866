"""Judge the scale of the initial noise, and of the latents that the decoder is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.layouts import first_nonfinite, largest_value, relative_error
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.pipeline.roles import first_roles_of
from ldmref.locate.pipeline.schedule import other_schedules
from ldmref.locate.pipeline.steps import is_inversion
from ldmref.locate.pipeline.wires import blended_at_the_end, clamp_of, state_after
from ldmref.ports.port import port_of
from ldmref.samplers import Schedule
from ldmref.samplers.path import FLOW
from ldmref.trace.model import TraceEntry

DEVIATIONS = 6.0  # standard deviations of a sample's standard deviation
LEAST = 2e-6  # latents are handed over in float32
KNOWN_SCALES = (0.18215, 0.13025, 0.3611, 1.5305, 1.0)


def judge_latents(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the initial latents and the decoder's input."""
    yield from judge_initial(context)
    yield from _judge_decoder(context)
    yield from _judge_tiny_decoder(context)


def judge_initial(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the standard deviation of the initial latents of a run from pure noise."""
    steps = context.calls("sampler")
    schedule = context.make_schedule()
    initial = next(iter(context.calls("initial")), None)
    known = initial is not None and context.ledger.has(initial, "output", "output")
    state = context.read(steps[0], "sample", "x") if steps else None
    if state is None or known or is_inversion(steps[0]):
        return
    if context.unknown_scheduler or schedule is None:
        if (
            initial is not None
            and not context.calls("vae.encode")
            and context.model.config.scheduler.path is FLOW
        ):
            noise = context.read_output(initial)
            if noise is not None:
                context.compared_output(initial)
                yield judge_normal(context, initial, "initial noise", noise)
        elif initial is not None:
            why = context.unknown_scheduler or "its schedule is not known"
            context.ledger.explain(initial, why, "output", side="output")
        return
    if not _is_first(context, schedule.timesteps):
        yield from _judge_noised(context, steps[0], state)
        return
    row = _judge_deviation(context, schedule, steps[0], state)
    encoded = not context.request and context.calls("vae.encode")
    if row.verdict == DIFFERS and encoded:  # nothing says whether it begins with an image
        yield from _judge_noised(context, steps[0], state)
        return
    context.compared(steps[0], "sample", "x")
    context.compared_output(initial)
    yield row


def _judge_deviation(
    context: PipelineContext, schedule: Schedule, step: TraceEntry, state: np.ndarray
) -> Row:
    """Return a row for the standard deviation of the first state of a run from pure noise."""
    bad = first_nonfinite(state)
    if bad:
        values = {"error": math.inf, "verdict": DIFFERS, "note": bad}
        return Row(step.call, "", "initial noise", **values)
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
    row = Row(step.call, "", "initial noise", error, allowed)
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


def _judge_noised(context: PipelineContext, step: TraceEntry, state: np.ndarray) -> Iterator[Row]:
    """Yield a row for a first state that is not the schedule's: an image with noise.

    It is the latents with noise that were recorded. Otherwise only its distribution is known, from
    that of the encoder: a x0 + b noise, where a = 1 and b = sigma, or for a flow a = 1 - b.
    """
    noised = [context.read_output(e) for e in context.calls("add_noise")]
    alike = [x for x in noised if x is not None and x.shape == state.shape]
    if alike:
        right = min(alike, key=lambda x: relative_error(state, x))
        yield context.judge(step, "initial latents", state, right)
        context.compared(step, "sample", "x")
        return
    encoder = next(iter(context.calls("vae.encode")), None)
    mean, sigma = context.read_output(encoder, "mean"), context.number(step, "sigma")
    scale = context.latent_scale
    clean = context.normalize(mean)
    if clean is None or sigma is None or clean.shape[1:] != state.shape[1:]:
        context.ledger.explain(
            step, "the image that it begins with was not recorded", "sample", "x"
        )
        return
    signal = 1.0 - sigma if context.path is FLOW else 1.0
    logvar = context.read_output(encoder, "logvar")
    sampled = context.params.get("rng") == "torch" and logvar is not None
    spread = np.zeros(1)
    if sampled:
        spread = scale.spread(np.exp(0.5 * np.clip(logvar, -30.0, 20.0)))  # type: ignore[arg-type]
    centre = signal * clean
    deviation = np.sqrt(sigma**2 + (signal * spread) ** 2)
    segment = "from the encoder to the first state"
    yield judge_normal(context, step, "initial noise", (state - centre) / deviation, segment)
    context.compared(step, "sample", "x")


def _is_first(context: PipelineContext, timesteps: np.ndarray) -> bool:
    """Return whether the first recorded step is the first of the schedule."""
    first = context.calls("sampler")[0]
    if "i" in first.attributes:
        return first.attributes["i"] == 0
    t = context.number(first, "timestep")
    return t is None or abs(t - timesteps[0]) < 1.0


def _is_close(state: np.ndarray, scale: float) -> bool:
    return abs(float(np.std(state)) / scale - 1.0) < DEVIATIONS / math.sqrt(2.0 * state.size)


def _judge_decoder(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the scale and shift of the latents between sampler and decoder."""
    steps = context.calls("sampler")
    entries = context.calls("vae.decode")
    names = first_roles_of(context, "vae.decode")
    decoded = [context.read(entry, *names) for entry in entries]
    sizes = [0 if got is None else len(got) for got in decoded]
    for i, (entry, got) in enumerate(zip(entries, decoded, strict=True)):
        last = state_after(context, steps[-1]) if steps else None
        if got is not None and not steps:
            context.compared(entry, *names)  # a decoder alone: its latents are given
        if got is None or last is None:
            continue
        if not _is_last(context, steps[-1]):
            note = "the last step was not recorded"
            yield Row(entry.call, "", "latents", verdict=UNKNOWN, note=note)
            context.compared(entry, *names)
            continue
        if sum(sizes) == len(last):  # also if the images of a batch are decoded one by one
            last = last[sum(sizes[:i]) : sum(sizes[: i + 1])]
        scale = context.latent_scale
        last = last / context.path.spread(_end_level(context, steps[-1]))  # in that of the decoder
        expected = context.denormalize(last)
        context.compared(entry, *names)
        if expected is None or got.shape != expected.shape:
            note = "decoded in another batch than the last step"
            yield Row(entry.call, "", "latents", verdict=UNKNOWN, note=note)
            continue
        normalized = scale.normalize(got)
        others: list[tuple[str, np.ndarray]] = []
        blend = blended_at_the_end(context, steps, normalized, last)
        if blend is not None:
            unblended, (last, inverted) = last, blend
            changed_parts = [*inverted, ("the known part is not put back", unblended)]
            others = [(text, scale.denormalize(x)) for text, x in changed_parts]
            expected = scale.denormalize(last)
        least = max(LEAST, context.rounding)
        clamp = clamp_of(normalized, last)
        changed = clamp is not None and relative_error(got, expected) > least
        if clamp and changed and relative_error(got, scale.denormalize(clamp[1])) <= 1e-5:
            yield context.judge(
                steps[-1],
                "state",
                normalized,
                last,
                variants=[clamp],
                segment="from the last step to the decoder",
            )
            continue
        variants = [*others, *_unpacked(context, expected), *_scale_faults(context, last, got)]
        row = context.judge(
            entry,
            "latents",
            got,
            expected,
            least=least,
            variants=_first_that_fits(variants, got),
            segment="from the last step to the decoder",
        )
        yield context.unless_changed(row, "latents")


def _is_last(context: PipelineContext, step: TraceEntry) -> bool:
    """Return whether a step ends at the last level of its run, as far as that was recorded."""
    entry = context.schedule_entry
    visits = None if entry is None else entry.attributes.get("visits")
    end = step.attributes.get("i_next")
    return not isinstance(visits, list) or not visits or end is None or end == visits[-1]


def _end_level(context: PipelineContext, step: TraceEntry) -> float:
    """Return the level at which the last step ends; states of diffusers have the variance 1."""
    if context.is_diffusers:
        return 0.0
    end = context.number(step, "sigma_next")
    schedule = None if context.unknown_scheduler else context.make_schedule()
    if end is None and context.number(step, "sigma") is not None and schedule is not None:
        return float(schedule.sigmas[-1])
    return end or 0.0


def _scale_faults(
    context: PipelineContext, last: np.ndarray, got: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Return what known faults would give the decoder of the latents `last`, beside `got`."""
    kind = context.latent_scale.kind
    if kind.scales is None:
        return _denormalization_faults(context, last)
    scale, shift = kind.scales(context.model.config.vae)
    slope, offset = _fit_line(last, got)
    variants = [
        ("the scaling factor is missing", last + shift),
        ("multiplied by the scaling factor instead of divided", last * scale + shift),
        ("the shift factor is missing", last / scale),
        ("the shift factor is subtracted instead of added", last / scale - shift),
        ("shifted before the scaling", (last + shift) / scale),
    ]
    for other in KNOWN_SCALES:
        text = f"scaling factor {other:g} instead of {scale:g}"
        variants.append((text, last / other + shift))
    fitted = f"latents = {slope:.5g} x + {offset:.5g} instead of {1 / scale:.5g} x + {shift:.5g}"
    words = f"shift factor {offset:.5g} instead of {shift:.5g}"
    return [*variants, (words, last / scale + offset), (fitted, slope * last + offset)]


def _denormalization_faults(
    context: PipelineContext, last: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Return z as known faults give it, if latents are normalised by more than two numbers."""
    scale = context.latent_scale
    steps = scale.ops, scale.params, scale.config
    expected = scale.kind.denormalize(*steps, last)
    faults = [
        ("the latents are not denormalised", last),
        ("normalised instead of denormalised", scale.kind.normalize(*steps, last)),
        ("denormalised twice", scale.kind.denormalize(*steps, expected)),
    ]
    found: list[tuple[str, np.ndarray]] = [(text, scale.unfold(x)) for text, x in faults]
    patch = scale.config.patch
    if patch > 1:
        n, channels, h, w = expected.shape
        c = channels // patch**2
        rows_first = expected.reshape(n, patch, patch, c, h, w).transpose(0, 3, 4, 1, 5, 2)
        columns_first = expected.reshape(n, c, patch, patch, h, w).transpose(0, 1, 4, 3, 5, 2)
        for text, patches in (
            ("channels are read as row, column, channel", rows_first),
            ("rows and columns of a patch are exchanged", columns_first),
        ):
            found.append((text, patches.reshape(n, c, h * patch, w * patch)))
    return found


def _judge_tiny_decoder(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the latents of a tiny autoencoder, which reads them as they are."""
    steps = context.calls("sampler")
    names = first_roles_of(context, "taesd.decode")
    for entry in context.calls("taesd.decode"):
        got = context.read(entry, *names)
        last = state_after(context, steps[-1]) if steps else None
        if not steps:
            context.compared(entry, *names)
        if got is None or last is None or got.shape != last.shape:
            continue
        expected = last / context.path.spread(_end_level(context, steps[-1]))
        context.compared(entry, *names)
        least = max(LEAST, context.rounding)
        segment = "from the last step to the tiny decoder"
        yield context.judge(entry, "latents", got, expected, least=least, segment=segment)


def _unpacked(context: PipelineContext, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield latents that were unpacked from tokens in another order."""
    n, c, h, w = x.shape
    if port_of(context.model.family).unpack is None or h % 2 or w % 2:
        return
    tokens = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5)  # n, r, k, c, y, x
    orders = {
        "a patch is read as row, column, channel": lambda t: t.reshape(
            n, h // 2, w // 2, 2, 2, c
        ).transpose(0, 5, 1, 3, 2, 4),
        "rows and columns of a patch are exchanged": lambda t: t.transpose(0, 3, 1, 5, 2, 4),
        "tokens run down the columns": lambda t: (
            t.reshape(n, (h // 2) * (w // 2), c, 2, 2)
            .reshape(n, w // 2, h // 2, c, 2, 2)
            .transpose(0, 3, 2, 4, 1, 5)
        ),
    }
    for text, unpack in orders.items():
        yield text, unpack(tokens).reshape(n, c, h, w)
    yield "rows and columns are exchanged", _turned(x)


def _turned(x: np.ndarray) -> np.ndarray:
    """Return the transposed image; the image itself if it is not square."""
    return x.swapaxes(2, 3) if x.shape[2] == x.shape[3] else x


def _first_that_fits(
    variants: list[tuple[str, np.ndarray]], got: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the variants until one explains the array: simple ones come first."""
    near = 1e-5 * largest_value(got)
    for text, array in variants:
        yield text, array
        if largest_value(array - got) <= near:
            return


def _fit_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the slope and offset of the line through points; NaN if some are not finite."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan, math.nan
    offset, slope = np.polynomial.polynomial.polyfit(x.ravel(), y.ravel(), 1)
    return float(slope), float(offset)
