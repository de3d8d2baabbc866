"""Judge what each evaluation of the U-Net is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.schedule import other_schedules
from ldmref.locate.pipeline.text_inputs import judge_text
from ldmref.samplers import Schedule
from ldmref.samplers.denoiser import in_own_scale
from ldmref.trace.model import TraceEntry

SIZES = ("original_size", "crops_coords_top_left", "target_size")
OWN_SIZES = ("original_width", "sizes")  # requests of other programs


def judge_inputs(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the text, the sizes, the timestep and the latents of the U-Net's calls."""
    networks = context.calls(context.denoiser)
    yield from judge_text(context, networks)
    yield from _judge_sizes(context, networks)
    steps = context.calls("sampler")
    if len(steps) == len(networks):
        for network, step in zip(networks, steps, strict=True):
            yield from _judge_timestep(context, network, step)
            yield from _judge_latents(context, network, step)


# -- micro-conditioning ---------------------------------------------------------------------------


def _judge_sizes(context: PipelineContext, networks: list[TraceEntry]) -> Iterator[Row]:
    """Yield a row for the sizes, once for all calls that were given the same."""
    seen: list[np.ndarray] = []
    for network in networks:
        sizes = context.read(network, "time_ids", "added_cond_kwargs.time_ids", "sizes")
        sample = context.read(network, "sample", "input", "x")
        if sizes is None or sample is None or sizes.ndim != 2 or sizes.shape[1] != 6:
            continue
        if any(np.array_equal(sizes, x) for x in seen):
            continue
        seen.append(sizes)
        if any(context.params.get(name) is not None for name in OWN_SIZES):
            continue
        factor = context.model.config.vae.factor
        h, w = (float(size * factor) for size in sample.shape[2:])
        usual = np.array([h, w, 0.0, 0.0, h, w])
        expected = np.broadcast_to(_asked_sizes(context, usual), sizes.shape).copy()
        if any(context.params.get(f"negative_{name}") is not None for name in SIZES):
            negative = _asked_sizes(context, expected[-1], "negative_")
            expected[: len(expected) // 2] = negative
        variants = [
            ("the micro-conditioning is forgotten: all sizes are zero", 0 * expected),
            ("width and height are exchanged", expected[:, [1, 0, 3, 2, 5, 4]]),
            ("sizes of the latents instead of the image", expected / factor),
            ("original and target size without the crop's place", expected[:, [0, 1, 4, 5, 2, 3]]),
        ]
        yield context.judge(network, "micro-conditioning", sizes, expected, variants=variants)


def _asked_sizes(context: PipelineContext, usual: np.ndarray, prefix: str = "") -> np.ndarray:
    """Return the six sizes of a request: original height and width, top and left, target."""
    found = usual.copy()
    for i, name in enumerate(SIZES):
        asked = context.params.get(prefix + name)
        if isinstance(asked, list | tuple) and len(asked) == 2:
            found[2 * i : 2 * i + 2] = asked
    return found


# -- timestep and latents -------------------------------------------------------------------------


def _judge_timestep(
    context: PipelineContext, network: TraceEntry, step: TraceEntry
) -> Iterator[Row]:
    got = context.read(network, "timestep", "t")
    if got is None:
        return
    t = context.number(step, "timestep")
    schedule = context.make_schedule()
    if t is None:
        sigma = context.number(step, "sigma")
        if sigma is None or schedule is None or "x_at" in step.inputs:
            return
        t = schedule.timestep(sigma)
    expected = np.full(np.shape(got), t)
    got = np.asarray(got, np.float64)
    variants = [
        ("the timestep is scaled by 1000", 1000.0 * expected),
        ("the timestep is scaled by 1/1000", expected / 1000.0),
        ("the timestep is smaller by 1", expected - 1.0),
        ("the timestep is larger by 1", expected + 1.0),
        ("the timestep t is 1000 - t", 1000.0 - expected),
        ("the timestep is truncated to a whole number", np.floor(expected)),
    ]
    if schedule is not None:
        index = int(np.argmin(np.abs(schedule.timesteps - t)))
        near = {index + 1: "the next step", index - 1: "the previous step"}
        for i, other in enumerate(schedule.timesteps):
            if i != index:
                words = f"the timestep of {near.get(i, f'step {i}')}"
                variants.append((words, np.full(np.shape(got), other)))
        variants.append(("the number of the step", np.full(np.shape(got), float(index))))
    least = max(1e-5, 2 * context.epsilon)
    segment = "from the sampler to the U-Net's timestep"
    yield context.judge(
        network, "timestep", got, expected, least=least, variants=variants, segment=segment
    )


def _judge_latents(
    context: PipelineContext, network: TraceEntry, step: TraceEntry
) -> Iterator[Row]:
    got = context.read(network, "sample", "input", "x")
    state = context.read(step, "sample", "x")
    if got is None or state is None or got.ndim != 4 or got.shape[2:] != state.shape[2:]:
        return
    if got.shape[1] < state.shape[1] or got.shape[0] % state.shape[0] or "x_at" in step.inputs:
        return
    got = got[:, : state.shape[1]]  # further channels are those of masks and known images
    sigma = _sigma_of(context, step)
    if sigma is None:
        return
    on_path = context.states_on_path
    kind = context.config.prediction_type
    scale = in_own_scale(kind, 1.0, sigma, context.path)[0] if on_path else 1.0
    times = got.shape[0] // state.shape[0]
    repeated = np.concatenate([state] * times)
    variants = [
        ("the scaling of the input is missing (scale_model_input)", repeated),
        ("the input is scaled twice", repeated * scale**2),
        ("the input is divided by sigma", repeated / max(sigma, 1e-9)),
        ("the input is scaled by 1/sqrt(1 + sigma^2)", repeated / math.hypot(1.0, sigma)),
    ]
    others = _other_scales(context, step, repeated) if on_path else ()
    yield context.judge(
        network,
        "latents",
        got,
        repeated * scale,
        least=1e-4,
        variants=chain(variants, others),
        segment="from the sampler's state to the U-Net's sample",
    )


def _other_scales(
    context: PipelineContext, step: TraceEntry, state: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a state as it would be scaled with other forward processes."""
    for text, schedule in other_schedules(context):
        sigma = _sigma_of(context, step, schedule)
        if sigma is not None:
            kind = context.config.prediction_type
            yield text, in_own_scale(kind, state, sigma, context.path)[0]


def _sigma_of(
    context: PipelineContext, step: TraceEntry, schedule: Schedule | None = None
) -> float | None:
    """Return the noise level of a step in a schedule, by default that of the run."""
    t = context.number(step, "timestep")
    if t is not None and (schedule or context.make_schedule()) is not None:
        return context.sigma_at(t, schedule)
    return context.number(step, "sigma")
