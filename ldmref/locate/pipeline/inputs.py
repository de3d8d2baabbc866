"""Judge what each evaluation of the U-Net is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, product

import numpy as np

from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.layouts import relative_error
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.schedule import other_schedules
from ldmref.locate.pipeline.tokens import expected_ids
from ldmref.locate.precision import exact_backend
from ldmref.models.conditioning import get_hidden_states
from ldmref.models.config import TEXT_ENCODERS
from ldmref.samplers import Schedule
from ldmref.samplers.denoiser import in_own_scale
from ldmref.trace.model import TraceEntry

SIZES = ("original_size", "crops_coords_top_left", "target_size")
OWN_SIZES = ("original_width", "sizes")  # requests of other programs


def judge_inputs(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the text, the sizes, the timestep and the latents of the U-Net's calls."""
    networks = context.calls(context.denoiser)
    yield from _judge_text(context, networks)
    yield from _judge_sizes(context, networks)
    steps = context.calls("sampler")
    if len(steps) == len(networks):
        for network, step in zip(networks, steps, strict=True):
            yield from _judge_timestep(context, network, step)
            yield from _judge_latents(context, network, step)


# -- text -----------------------------------------------------------------------------------------


def _judge_text(context: PipelineContext, networks: list[TraceEntry]) -> Iterator[Row]:
    """Yield a row for the hidden states, once for all calls that were given the same."""
    texts = _encoded(context)
    if not texts:
        return
    seen: list[np.ndarray] = []
    for network in networks:
        states = context.read(network, "encoder_hidden_states", "context")
        if states is None or any(np.array_equal(states, x) for x in seen):
            continue
        seen.append(states)
        yield _judge_states(context, network, states, texts)


def _encoded(context: PipelineContext) -> list[np.ndarray]:
    """Return the hidden states of every prompt, (l, d), from the recorded text encoders."""
    rows: list[list[np.ndarray]] = []
    encoders = context.model.config.text_encoders
    if len(encoders) > 1 and any(encoder.model_type != "clip" for encoder in encoders):
        return []  # the family joins their states in its own way
    for name, _ in zip(TEXT_ENCODERS, encoders, strict=False):
        outputs = [context.read_output(entry) for entry in context.calls(name)]
        rows.append([row for x in outputs if x is not None and x.ndim == 3 for row in x])
    if not rows or not all(rows):
        return []
    lengths = {row.shape[0] for part in rows for row in part}
    if len(lengths) != 1:
        return []
    if len(rows) == 1:
        return rows[0]
    return [_condition(context, np.concatenate(pair, axis=1)) for pair in product(*rows)]


def _condition(context: PipelineContext, states: np.ndarray) -> np.ndarray:
    """Return the hidden states of a prompt, (l, d), as the family gives them to the denoiser."""
    ops = exact_backend()
    condition = context.model.family.condition
    found = condition(ops, context.model.config, states[None], None, (0, 0)).context
    return states if found is None else np.asarray(get_hidden_states(found))[0]


def _judge_states(
    context: PipelineContext, network: TraceEntry, states: np.ndarray, texts: list[np.ndarray]
) -> Row:
    zero = np.zeros_like(texts[0])
    allowed = [*texts, zero] if context.model.config.zero_empty_negative else texts
    if states.shape[1:] != texts[0].shape:
        note = f"shape {states.shape[1:]} instead of {texts[0].shape}"
        return Row(network.call, "", "text", math.inf, verdict=DIFFERS, note=note)
    nearest = []
    for row in states:
        errors = [relative_error(row, text) for text in allowed]
        nearest.append(allowed[int(np.argmin(errors))])
    expected = np.stack(nearest)
    segment = "from text_encoder to the U-Net's encoder_hidden_states"
    order = _right_order(context, texts)
    if order is not None and len(states) % 2 == 0 and len(order) == 2:
        each = len(states) // 2
        ordered = np.repeat(order, each, axis=0)
        swapped = np.repeat(order[::-1], each, axis=0)
        if relative_error(swapped, ordered) > 1e-3 and relative_error(states, swapped) < 1e-3:
            expected = ordered
    variants = [("the text is zero", np.zeros_like(expected))]
    return context.judge(network, "text", states, expected, variants=variants, segment=segment)


def _right_order(context: PipelineContext, texts: list[np.ndarray]) -> np.ndarray | None:
    """Return the states of the negative prompt and of the prompt; None if they are not known."""
    prompt = context.params.get("prompt")
    negative = context.params.get("negative_prompt") or ""
    entries = context.calls("text_encoder")
    if not isinstance(prompt, str) or not isinstance(negative, str) or prompt == negative:
        return None
    if len(context.model.config.text_encoders) != 1:
        return None
    wanted = expected_ids(context, 0, [negative, prompt])
    found = [context.read(entry, "input_ids", "input", "ids") for entry in entries]
    ids = [row for x in found if x is not None for row in np.asarray(x).reshape(-1, x.shape[-1])]
    if wanted is None or len(ids) != len(texts):
        return None
    states = [
        next((t for t, row in zip(texts, ids, strict=True) if np.array_equal(row, want)), None)
        for want in wanted
    ]
    return None if any(s is None for s in states) else np.stack(states)  # type: ignore[arg-type]


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
        for name, i in (("next", index + 1), ("previous", index - 1)):
            if 0 <= i < len(schedule.timesteps):
                other = np.full(np.shape(got), schedule.timesteps[i])
                variants.append((f"the timestep of the {name} step", other))
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
