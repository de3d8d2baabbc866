"""Judge the scale of the initial noise, and of the latents that the decoder is given."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.layouts import first_nonfinite, relative_error
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.schedule import other_schedules
from ldmref.locate.pipeline.wires import blended_at_the_end, clamp_of, state_after

DEVIATIONS = 6.0  # standard deviations of a sample's standard deviation
LEAST = 2e-6  # latents are handed over in float32
KNOWN_SCALES = (0.18215, 0.13025, 0.3611, 1.5305, 1.0)


def judge_latents(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the initial latents and the decoder's input."""
    yield from _judge_initial(context)
    yield from _judge_decoder(context)


def _judge_initial(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the standard deviation of the initial latents of a run from pure noise."""
    steps = context.calls("sampler")
    schedule = context.make_schedule()
    image = any(context.calls(kind) for kind in ("vae.encode", "add_noise", "jump"))
    if not steps or schedule is None or image or not _is_first(context, schedule.timesteps):
        return
    state = context.read(steps[0], "sample", "x")
    if state is None or state.size < 64:
        return
    bad = first_nonfinite(state)
    if bad:
        values = {"error": math.inf, "verdict": DIFFERS, "note": bad}
        yield Row(steps[0].call, "", "initial noise", **values)
        return
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
    row = Row(steps[0].call, "", "initial noise", error, allowed)
    if error <= allowed:
        yield row
        return
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
    values = {**vars(row), "verdict": DIFFERS, "note": note}
    if left[best] <= allowed:
        values |= {"cause": best, "explained": left[best]}
    yield Row(**values)


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
    decoded = [context.read(entry, "latents", "input", "z", "sample") for entry in entries]
    sizes = [0 if got is None else len(got) for got in decoded]
    for i, (entry, got) in enumerate(zip(entries, decoded, strict=True)):
        last = state_after(context, steps[-1]) if steps else None
        if got is None or last is None:
            continue
        if sum(sizes) == len(last):  # also if the images of a batch are decoded one by one
            last = last[sum(sizes[:i]) : sum(sizes[: i + 1])]
        if got.shape != last.shape:
            note = "decoded in another batch than the last step"
            yield Row(entry.call, "", "latents", verdict=UNKNOWN, note=note)
            continue
        end = None if context.is_diffusers else context.number(steps[-1], "sigma_next")
        last = last / context.path.spread(end or 0.0)  # in variance-preserving scale
        scale = context.model.config.vae.scaling_factor
        shift = context.model.config.vae.shift_factor
        blended = blended_at_the_end(context, steps, (got - shift) * scale, last)
        last = last if blended is None else blended
        expected = last / scale + shift
        least = max(LEAST, 16 * context.epsilon)
        clamp = clamp_of((got - shift) * scale, last)
        changed = clamp is not None and relative_error(got, expected) > least
        if clamp is not None and changed and relative_error(got, clamp[1] / scale + shift) <= 1e-5:
            yield context.judge(
                steps[-1],
                "state",
                (got - shift) * scale,
                last,
                variants=[clamp],
                segment="from the last step to the decoder",
            )
            continue
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
        fitted = (
            f"latents = {slope:.5g} x + {offset:.5g} instead of {1 / scale:.5g} x + {shift:.5g}"
        )
        words = f"shift factor {offset:.5g} instead of {shift:.5g}"
        variants.append((words, last / scale + offset))
        variants.append((fitted, slope * last + offset))
        yield context.judge(
            entry,
            "latents",
            got,
            expected,
            least=least,
            variants=_first_that_fits(variants, got),
            segment="from the last step to the decoder",
        )


def _first_that_fits(
    variants: list[tuple[str, np.ndarray]], got: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the variants until one explains the array: simple ones come first."""
    scale = float(np.max(np.abs(got), initial=1e-30))
    for text, array in variants:
        yield text, array
        if float(np.max(np.abs(array - got), initial=0.0)) <= 1e-5 * scale:
            return


def _fit_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the slope and offset of the line through points; NaN if some are not finite."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan, math.nan
    offset, slope = np.polynomial.polynomial.polyfit(x.ravel(), y.ravel(), 1)
    return float(slope), float(offset)
