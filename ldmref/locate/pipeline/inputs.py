"""Judge what each evaluation of the U-Net is given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, takewhile

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import RunEvaluation, sigma_of, state_of
from ldmref.locate.pipeline.images import judge_channels
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.pipeline.schedule import other_schedules
from ldmref.locate.pipeline.text_inputs import judge_text
from ldmref.locate.pipeline.together import judge_together
from ldmref.locate.precision import round_to
from ldmref.samplers import Schedule
from ldmref.samplers.denoiser import in_own_scale
from ldmref.samplers.path import FLOW
from ldmref.trace.model import TraceEntry

TO_NEXT = ("euler", "ddim")  # samplers whose steps lead to the next level; others add noise
SIZES = ("original_size", "crops_coords_top_left", "target_size")
OWN_SIZES = ("original_width", "sizes")  # requests of other programs


def judge_inputs(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the text, the sizes, the timestep and the latents of the U-Net's calls."""
    networks = context.calls(context.denoiser)
    yield from judge_text(context)
    yield from judge_together(context)
    yield from judge_sizes(context)
    yield from _judge_scales(context, networks)
    yield from judge_positions(context)
    for evaluation in context.evaluations:
        for network in evaluation.networks:
            yield from _judge_timestep(context, network, evaluation)
            yield from _judge_end(context, network, evaluation)
            yield from _judge_latents(context, network, evaluation)
            yield from _judge_scaling(context, network, evaluation)
    if not context.calls("sampler"):  # networks alone: what they read is given
        for network in networks:
            context.compared(network, *network.inputs)


# -- guidance that the network reads --------------------------------------------------------------


def _judge_scales(context: PipelineContext, networks: list[TraceEntry]) -> Iterator[Row]:
    """Yield a row for the guidance scale that the network reads, once for each that it reads."""
    asked = context.asked_scale
    names = roles_of(context, "guidance")
    seen: list[np.ndarray] = []
    for network in networks:
        got = context.read(network, *names)
        if got is None:
            continue
        if asked is None:
            why = "the scale that was asked for was not recorded"
            context.ledger.explain(network, why, *names)
            continue
        context.compared(network, *names)
        if any(np.array_equal(got, x) for x in seen):
            continue
        seen.append(got)
        right = np.full(got.shape, asked)
        variants = [
            ("the guidance scale is multiplied by 1000", 1000.0 * right),
            ("the guidance scale is divided by 1000", right / 1000.0),
            (f"guidance scale {float(np.ravel(got)[0]):.5g} instead of {asked:g}", got),
        ]
        yield context.judge(
            network,
            "guidance scale",
            np.asarray(got, np.float64),
            right,
            least=1e-6,
            variants=variants,
            segment="from the request to the denoiser's guidance",
        )


# -- positions ------------------------------------------------------------------------------------


def judge_positions(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the positions that are passed with the tokens of Flux.1, once for all."""
    seen: list[tuple[str, np.ndarray]] = []
    for network in context.calls(context.denoiser):
        sample = context.read(network, *roles_of(context, "x"))
        for role in ("img_ids", "txt_ids"):
            got = context.read(network, role)
            if got is None or got.ndim != 2 or got.shape[1] != 3 or sample is None:
                continue
            if sample.ndim != 4:
                continue
            context.compared(network, role)
            if any(role == other and np.array_equal(got, x) for other, x in seen):
                continue
            seen.append((role, got))
            rows, columns = (size // 2 for size in sample.shape[2:])
            right = np.zeros_like(got)
            variants: list[tuple[str, np.ndarray]] = []
            if role == "img_ids" and rows * columns == len(got):
                place = np.indices((rows, columns)).reshape(2, -1).T
                right[:, 1:] = place
                down = np.indices((columns, rows)).reshape(2, -1).T
                variants = [
                    ("rows and columns are exchanged", right[:, [0, 2, 1]]),
                    ("rows and columns are exchanged", np.insert(down, 0, 0, axis=1)),
                    ("rows and columns count from 1", right + np.array([0, 1, 1])),
                    ("the positions are twice as large", 2 * right),
                    ("all positions are zero", np.zeros_like(right)),
                ]
            yield context.judge(
                network,
                "positions",
                got,
                right,
                variants=variants,
                segment=f"from the latents to the denoiser's {role}",
            )


# -- micro-conditioning ---------------------------------------------------------------------------


def judge_sizes(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the sizes, once for all calls that were given the same."""
    names = roles_of(context, "sizes")
    seen: list[np.ndarray] = []
    for network in context.calls(context.denoiser):
        sizes = context.read(network, *names)
        sample = context.read(network, *roles_of(context, "x"))
        if sizes is None or sample is None or sizes.ndim != 2 or sizes.shape[1] != 6:
            continue
        if any(context.params.get(name) is not None for name in OWN_SIZES):
            why = "the sizes of another program's request are not computed"
            context.ledger.explain(network, why, *names)
            continue
        context.compared(network, *names)
        if any(np.array_equal(sizes, x) for x in seen):
            continue
        seen.append(sizes)
        factor = context.model.config.vae.factor
        h, w = (float(size * factor) for size in sample.shape[2:])
        usual = np.array([h, w, 0.0, 0.0, h, w])
        expected = np.broadcast_to(_asked_sizes(context, usual), sizes.shape).copy()
        if any(context.params.get(f"negative_{name}") is not None for name in SIZES):
            negative = _asked_sizes(context, expected[-1], "negative_")
            expected[: len(expected) // 2] = negative
        variants = [
            ("the micro-conditioning is forgotten: all sizes are zero", np.zeros_like(expected)),
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
    context: PipelineContext, network: TraceEntry, evaluation: RunEvaluation
) -> Iterator[Row]:
    names = roles_of(context, "t")
    got = context.read(network, *names)
    if got is None:
        return
    step = evaluation.step
    t = None if evaluation.number else context.number(step, "timestep")
    schedule = None if context.unknown_scheduler else context.make_schedule()
    if t is None:
        sigma = sigma_of(context, evaluation)
        if sigma is None or schedule is None:
            why = "the time of its step was not recorded, or its schedule is not known"
            context.ledger.explain(network, why, *names)
            return
        t = schedule.timestep(sigma)
    context.compared(network, *names)
    expected = np.full(np.shape(got), t)
    got = np.asarray(got, np.float64)
    variants = [
        ("the timestep is scaled by 1000", 1000.0 * expected),
        ("the timestep is scaled by 1/1000", expected / 1000.0),
        ("the timestep is smaller by 1", expected - 1.0),
        ("the timestep is larger by 1", expected + 1.0),
        ("the timestep t is 1000 - t", 1000.0 - expected),
        ("the timestep is truncated to a whole number", np.floor(expected)),
        ("the timestep is rounded to bfloat16", round_to(expected, "bfloat16")),
        ("the timestep is rounded to float16", round_to(expected, "float16")),
    ]
    if schedule is not None:
        index = int(np.argmin(np.abs(schedule.timesteps - t)))
        near = {index + 1: "the next step", index - 1: "the previous step"}
        for i, other in enumerate(schedule.timesteps):
            if i != index:
                words = f"the timestep of {near.get(i, f'step {i}')}"
                variants.append((words, np.full(np.shape(got), other)))
        variants.append(("the number of the step", np.full(np.shape(got), float(index))))
    least = 1e-5
    segment = "from the sampler to the U-Net's timestep"
    yield context.judge(
        network, "timestep", got, expected, least=least, variants=variants, segment=segment
    )


def _judge_end(
    context: PipelineContext, network: TraceEntry, evaluation: RunEvaluation
) -> Iterator[Row]:
    """Yield a row for the time to which the step of a flow map leads."""
    declared = [x for x in context.model.denoiser.inputs if x.content == "ends"]
    if not declared:
        return
    names = roles_of(context, declared[0].argument)
    got = context.read(network, *names)
    schedule = None if context.unknown_scheduler else context.make_schedule()
    t = context.number(evaluation.step, "timestep")
    sigma = sigma_of(context, evaluation)
    if t is None and sigma is not None and schedule is not None:
        t = schedule.timestep(sigma)
    straight = context.choose_sampler(context.config)[0].name in TO_NEXT
    if got is None or t is None or schedule is None or not straight:
        why = "the time of its step was not recorded, or its schedule or sampler is another one"
        context.ledger.explain(network, why, *names)
        return
    context.compared(network, *names)
    times = [*schedule.timesteps.tolist(), 0.0]
    index = int(np.argmin(np.abs(np.asarray(times[:-1]) - t)))
    right = np.full(np.shape(got), times[index + 1])
    variants = [
        ("the time to which the step leads is its own", np.full(right.shape, times[index])),
        ("the time to which the step leads is the last one, 0", np.zeros_like(right)),
        ("the time to which the step leads is scaled by 1000", 1000.0 * right),
        ("the time to which the step leads is scaled by 1/1000", right / 1000.0),
    ]
    variants += [
        (f"the time to which the step leads is that of step {i}", np.full(right.shape, time))
        for i, time in enumerate(times)
        if i not in (index, index + 1)
    ]
    yield context.judge(
        network,
        "end of the step",
        np.asarray(got, np.float64),
        right,
        least=1e-5,
        variants=variants,
        segment="from the sampler to the second time of the denoiser",
    )


def _judge_latents(
    context: PipelineContext, network: TraceEntry, evaluation: RunEvaluation
) -> Iterator[Row]:
    names = roles_of(context, "x")
    got = context.read(network, *names)
    state = state_of(context, evaluation)
    if got is None or state is None:
        return
    fits = got.ndim == 4 and state.ndim == 4 and got.shape[2:] == state.shape[2:]
    if not fits or got.shape[1] < state.shape[1] or got.shape[0] % state.shape[0]:
        note = f"shape {got.shape} does not follow from that of the state, {state.shape}"
        context.ledger.explain(network, note, *names)
        return
    further = got[:, state.shape[1] :]  # of masks, known images, control images
    got = got[:, : state.shape[1]]
    scale, others = _scales_of(context, evaluation)
    if scale is None:
        why = context.unknown_scheduler or "the noise level of its step is not known"
        context.ledger.explain(network, why, *names)
        return
    repeated = np.concatenate([state] * (got.shape[0] // state.shape[0]))
    sigma = _level_of(context, evaluation) or sigma_of(context, evaluation) or 0.0
    variants = [
        ("the scaling of the input is missing (scale_model_input)", repeated),
        ("the input is scaled twice", repeated * scale**2),
        ("the input is divided by sigma", repeated / max(sigma, 1e-9)),
        ("the input is scaled by 1/sqrt(1 + sigma^2)", repeated / math.hypot(1.0, sigma)),
    ]
    yield context.judge(
        network,
        "latents",
        got,
        repeated * scale,
        least=1e-4,
        variants=chain(variants, ((text, repeated * x) for text, x in others)),
        segment="from the sampler's state to the U-Net's sample",
    )
    if not further.shape[1]:
        context.compared(network, *names)
        return
    try:
        yield from judge_channels(context, network, further, len(state))
        context.compared(network, *names)
    except ValueError as error:
        context.ledger.explain(network, f"further channels: {error}", *names)


def _judge_scaling(
    context: PipelineContext, network: TraceEntry, evaluation: RunEvaluation
) -> Iterator[Row]:
    """Yield rows for a recorded scaling of the input: what it was given, and what it returned."""
    calls = context.port.calls
    before = calls[: calls.index(network.call)][::-1]
    between = takewhile(lambda call: not call.startswith(("sampler.", context.denoiser)), before)
    named = {entry.call: entry for entry in context.calls("scale_input")}
    state = state_of(context, evaluation)
    sample = context.read(network, *roles_of(context, "x"))
    if state is None or sample is None:
        return
    for entry in [named[call] for call in between if call in named]:
        yield from _judge_one_scaling(context, network, evaluation, entry, state, sample)


def _judge_one_scaling(
    context: PipelineContext,
    network: TraceEntry,
    evaluation: RunEvaluation,
    entry: TraceEntry,
    state: np.ndarray,
    sample: np.ndarray,
) -> Iterator[Row]:
    got, output = context.read(entry, "sample"), context.read_output(entry)
    if got is None or output is None or got.shape[1:] != state.shape[1:] or len(got) % len(state):
        return
    right = np.concatenate([state] * (len(got) // len(state)))
    context.compared(entry, "sample")
    words = f"from the state to {entry.call}"
    yield context.judge(entry, "state", got, right, segment=words)
    fits = sample.shape[1] >= output.shape[1] and sample.shape[2:] == output.shape[2:]
    if fits and len(sample) % len(output) == 0:
        context.compared_output(entry)
        repeated = np.concatenate([output] * (len(sample) // len(output)))
        part = sample[:, : output.shape[1]]
        segment = f"from {entry.call} to {network.call}"
        yield context.judge(entry, "latents", part, repeated, segment=segment)
    t, expected = context.number(entry, "timestep"), context.number(evaluation.step, "timestep")
    if t is not None and expected is not None:
        context.compared(entry, "timestep")
        variants = [("the timestep of another step", np.array([t]))]
        yield context.judge(
            entry, "timestep", np.array([t]), np.array([expected]), least=1e-5, variants=variants
        )


def _scales_of(
    context: PipelineContext, evaluation: RunEvaluation
) -> tuple[float | None, Iterable[tuple[str, float]]]:
    """Return the factor of the state in the network's input; None: it is not known."""
    if context.path is FLOW and context.config.path is FLOW:
        return 1.0, []
    if context.unknown_scheduler:
        return None, []
    kind = context.config.prediction_type

    def factor(sigma: float) -> float:
        return float(in_own_scale(kind, np.float64(1.0), sigma, context.path)[0])

    sigma = _level_of(context, evaluation)
    if sigma is None:
        return None, []
    if not context.states_on_path:
        return 1.0, []

    def others() -> Iterator[tuple[str, float]]:
        for text, schedule in other_schedules(context):
            other = _sigma_of(context, evaluation.step, schedule)
            if other is not None:
                yield text, factor(other)

    return factor(sigma), others()


def _level_of(context: PipelineContext, evaluation: RunEvaluation) -> float | None:
    """Return the noise level at which a step evaluates its denoiser; None: it is not known.

    It may be another one than that of the step, as the first one of an inversion is.
    """
    sigma = context.number(evaluation.step, f"sigma_at{evaluation.suffix}")
    if sigma is None and (context.is_diffusers or not evaluation.number):
        return _sigma_of(context, evaluation.step)
    return sigma


def _sigma_of(
    context: PipelineContext, step: TraceEntry, schedule: Schedule | None = None
) -> float | None:
    """Return the noise level of a step in a schedule, by default that of the run."""
    t = context.number(step, "timestep")
    used = schedule or context.make_schedule()
    if t is None or used is None:
        return context.number(step, "sigma")
    found = context.sigma_at(t, schedule)
    return _between(used, t) if found is None and schedule is None else found


def _between(schedule: Schedule, t: float) -> float | None:
    """Return the noise level whose timestep is t; None if no level between the ends has it.

    Methods of two evaluations look at levels between those of the schedule.
    """
    least, most = (float(f(schedule.sigmas[schedule.sigmas > 0])) for f in (np.min, np.max))
    for _ in range(60):
        middle = math.sqrt(least * most)
        least, most = (middle, most) if schedule.timestep(middle) < t else (least, middle)
    near = abs(schedule.timestep(least) - t) < 1e-3 * max(abs(t), 1.0)
    return least if near else None
