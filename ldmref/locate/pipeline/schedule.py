"""Judge sigmas, timesteps and alphas_cumprod."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import DIFFERS, EQUAL, Row
from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.precision import round_to
from ldmref.math.sigmas import beta_sigmas, exponential_sigmas, karras_sigmas
from ldmref.samplers import Schedule, SchedulerConfig
from ldmref.samplers.flow_spacings import shift_factor
from ldmref.samplers.path import FLOW, VE
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace.model import TraceEntry

TABLE = 1e-5  # relative error of a float32 table of alphas_cumprod
SIGMA_SPACINGS = {"karras": karras_sigmas, "exponential": exponential_sigmas, "beta": beta_sigmas}
SPACINGS = ("leading", "linspace", "trailing", "karras", "exponential", "beta_sigma")


def _other_levels(
    config: SchedulerConfig, schedule: Schedule, tokens: int
) -> Iterator[tuple[str, Schedule]]:
    """Yield the levels of a flow that are shifted again after they were made, and not at all.

    Also those of other spacings, with the shift before them, after them, and without it.
    """
    if config.path is not FLOW:
        return
    total = config.num_train_timesteps
    whole = np.rint(schedule.timesteps)
    yield "the levels are made of whole timesteps", _from_timesteps(schedule, whole, total)
    yield from _spaced_by_sigma(
        config, schedule, shift_factor(config, tokens, len(schedule.timesteps))
    )
    if config.dynamic_shift:
        yield from _other_counts(config, schedule, tokens)
        return
    even = _shifted(np.linspace(1.0, 0.0, len(schedule.timesteps)), config.shift)
    yield "the last evaluation is at level 0", _from_timesteps(schedule, total * even, total)
    if config.shift == 1.0:
        return
    once = _shifted(np.linspace(1.0, 1.0 / total, len(schedule.timesteps)), config.shift)
    text = "the end of the levels is shifted once instead of twice"
    yield text, _from_timesteps(schedule, total * once, total)
    for text, shift in (
        ("the levels are shifted twice", config.shift),
        (f"shift 1 instead of shift {config.shift:g}", 1.0 / config.shift),
    ):
        sigmas = _shifted(schedule.sigmas, shift)
        timesteps = config.num_train_timesteps * sigmas[: len(schedule.timesteps)]
        yield text, schedule._replace(sigmas=sigmas, timesteps=timesteps)


def _other_counts(
    config: SchedulerConfig, schedule: Schedule, tokens: int
) -> Iterator[tuple[str, Schedule]]:
    """Yield the levels with the shift of four times as many tokens, and of a quarter of them."""
    total, steps = config.num_train_timesteps, len(schedule.timesteps)
    own = shift_factor(config, tokens, steps)
    for other in (4 * tokens, tokens // 4):
        if other == 0:
            continue
        sigmas = _shifted(schedule.sigmas, shift_factor(config, other, steps) / own)
        text = f"the shift of {other} image tokens instead of {tokens}"
        yield text, schedule._replace(sigmas=sigmas, timesteps=total * sigmas[:steps])


def _spaced_by_sigma(
    config: SchedulerConfig, schedule: Schedule, factor: float
) -> Iterator[tuple[str, Schedule]]:
    """Yield the levels of spacings that diffusion models have, between the ends of a flow's."""
    total = config.num_train_timesteps
    steps = len(schedule.timesteps)
    first, least = float(schedule.sigmas[0]), 1.0 / total
    for name, space in SIGMA_SPACINGS.items():
        words = f"spacing {name} instead of {config.spacing}"
        unshifted = space(steps, least, first)
        placed = {
            f"{words}, without the shift": unshifted,
            f"{words}, shifted afterwards": _shifted(unshifted, factor),
            f"{words}, between the ends of the shifted levels": space(
                steps, float(schedule.sigmas[steps - 1]), first
            ),
        }
        for text, levels in placed.items():
            yield text, _from_timesteps(schedule, total * levels, total)


def _from_timesteps(schedule: Schedule, timesteps: np.ndarray, total: int) -> Schedule:
    sigmas = np.append(timesteps / total, schedule.sigmas[len(timesteps) :])
    return schedule._replace(sigmas=sigmas, timesteps=timesteps)


def other_schedules(context: PipelineContext) -> Iterator[tuple[str, Schedule]]:
    """Yield the schedules of other forward processes: words and schedule."""
    for text, changed in config_faults(context.config):
        kept = len(context.notes)
        other = context.make_schedule(changed)
        del context.notes[kept:]
        if other is not None:
            yield text, other


def judge_schedule(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for alphas_cumprod, timesteps and sigmas, as far as they were recorded."""
    entry = context.schedule_entry
    if entry is None:
        return
    for other in context.calls("schedule"):
        if context.unknown_scheduler:
            why = context.unknown_scheduler
            context.compared_output(other, "timesteps", "sigmas", "alphas_cumprod")
            yield context.not_judged(other, "schedule", why)
        elif other is not entry:
            yield from _judge_again(context, entry, other)
        context.compared(other, "timesteps", "sigmas")  # of the request
    if context.unknown_scheduler:
        return
    alphas = context.read_output(entry, "alphas_cumprod")
    config = context.config
    if alphas is not None and config.path is VE:
        context.compared_output(entry, "alphas_cumprod")
        expected = training_alphas_cumprod(config)
        if config.rescale_betas_zero_snr and alphas.shape == expected.shape:
            alphas = np.where(alphas == 0.0, expected, alphas)  # DDIM keeps 0, Euler nearly 0
        row = context.judge(
            entry, "alphas_cumprod", alphas, expected, least=TABLE, variants=_alphas(config)
        )
        yield row if row.verdict == DIFFERS else _judge_small(context, alphas, expected, row)
    schedule = context.make_schedule()
    if schedule is None:
        return
    others = [*other_schedules(context), *_other_levels(config, schedule, context.tokens)]
    for spacing in () if config.path is FLOW else SPACINGS:
        other = _other_spacing(context, spacing)
        if other is not None:
            others.append((f"spacing {spacing}", other))
    timesteps = context.read_output(entry, "timesteps")
    if timesteps is not None and timesteps.size:
        got = np.array(context.recorded_timesteps)
        variants = [(text, other.timesteps) for text, other in others]
        variants += [
            ("the timesteps are in increasing order", schedule.timesteps[::-1]),
            ("the timesteps are truncated to whole numbers", np.floor(schedule.timesteps)),
        ]
        context.compared_output(entry, "timesteps")
        yield context.judge(
            entry, "timesteps", got, schedule.timesteps, least=1e-4, variants=variants
        )
    yield from _judge_sigmas(context, entry, schedule, [(text, x.sigmas) for text, x in others])


def judge_given_levels(context: PipelineContext) -> Iterator[Row]:
    """Yield the rows of a schedule that was made of levels or timesteps that it was given."""
    if context.schedule_entry is not None and context.schedule_entry.inputs:
        yield from judge_schedule(context)


def _judge_sigmas(
    context: PipelineContext,
    entry: TraceEntry,
    schedule: Schedule,
    variants: list[tuple[str, np.ndarray]],
) -> Iterator[Row]:
    """Yield rows for the recorded noise levels."""
    config = context.config
    sigmas = context.read_output(entry, "sigmas")
    if sigmas is None or sigmas.ndim != 1:
        return
    recorded = sigmas
    if context.choose_sampler(config)[0].nfe == 2:
        sigmas = _without_repeats(recorded, len(schedule.sigmas))
    if len(sigmas) > len(schedule.sigmas):
        return
    context.compared_output(entry, "sigmas")
    shift = _fit_shift(sigmas, schedule.sigmas)
    words = f"sigma shift {shift:.5g}"
    if config.path is FLOW:
        factor = shift_factor(config, context.tokens, len(schedule.timesteps))
        words = f"shift {factor * shift:.5g} instead of {factor:.5g}"
    variants = [*variants, (words, _shifted(schedule.sigmas, shift))]
    variants += [("the last sigma is missing", schedule.sigmas[:-1])]
    if sigmas.shape == schedule.sigmas.shape:
        ended = np.append(schedule.sigmas[:-1], sigmas[-1])
        words = f"the last sigma is {sigmas[-1]:.4g} instead of {schedule.sigmas[-1]:.4g}"
        variants += [(words, ended)]
    row = context.judge(entry, "sigmas", sigmas, schedule.sigmas, least=1e-4, variants=variants)
    yield row
    if row.verdict == EQUAL and sigmas is not recorded:
        yield from _judge_repeats(context, entry, recorded, sigmas)


def _judge_repeats(
    context: PipelineContext, entry: TraceEntry, sigmas: np.ndarray, ends: np.ndarray
) -> Iterator[Row]:
    """Yield a row for recorded levels of second evaluations that are not those of the steps' ends.

    A list has each level between steps twice, and may have its last one again. Heun's second
    evaluation is at the end of its step; other samplers may list levels between.
    """
    right = np.concatenate([ends[:1], np.repeat(ends[1:-1], 2), ends[-1:]])
    right = np.pad(right, (0, len(sigmas) - len(right)), mode="edge")
    if np.array_equal(sigmas, right):
        return
    if context.choose_sampler(context.config)[0].name == "heun":
        yield context.judge(entry, "sigmas of second evaluations", sigmas, right, least=1e-4)
    else:
        why = "the levels of second evaluations are not those at the ends of steps"
        yield context.not_judged(entry, "sigmas", why)


def _without_repeats(sigmas: np.ndarray, n: int) -> np.ndarray:
    """Return the n levels at the ends of steps, of a list that has those between steps twice."""
    ends = np.r_[0:1, 1 : len(sigmas) : 2]
    doubled = len(sigmas) == 2 * n and not np.diff(sigmas[1:-1].reshape(-1, 2)).any()
    return sigmas[ends][:n] if doubled or len(sigmas) == 2 * n - 2 else sigmas


def _judge_again(context: PipelineContext, first: TraceEntry, again: TraceEntry) -> Iterator[Row]:
    """Yield rows for a schedule that was made again: of a branch, or for another run."""
    if context.port.manifest.get("branch") is not None:  # judged with the steps that follow it
        context.compared_output(again, *again.outputs)
        return
    for role in again.outputs:
        got, expected = context.read_output(again, role), context.read_output(first, role)
        if got is None or expected is None or got.shape != expected.shape:
            context.ledger.explain(again, "another schedule than the first", role, side="output")
            continue
        context.compared_output(again, role)
        yield context.judge(again, role, got, expected)


def _alphas(config: SchedulerConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield other tables of alphas_cumprod."""
    exact = training_alphas_cumprod(config)
    for dtype in ("float16", "bfloat16"):
        yield f"alphas_cumprod in {dtype}", round_to(exact, dtype)
    for text, changed in config_faults(config):
        yield text, training_alphas_cumprod(changed)
    yield "alphas_cumprod shifted: that of the next timestep", np.append(exact[1:], exact[-1])
    yield "alphas_cumprod shifted: that of the previous timestep", np.append(1.0, exact[:-1])
    yield "1 - alphas_cumprod instead of alphas_cumprod", 1.0 - exact
    yield "the square root of alphas_cumprod", np.sqrt(exact)


def _judge_small(context: PipelineContext, got: np.ndarray, expected: np.ndarray, row: Row) -> Row:
    """Judge the smallest values, which an error relative to the largest does not show."""
    entry = context.schedule_entry
    assert entry is not None
    ratio = got / expected
    variants = [(text, table / expected) for text, table in _alphas(context.config)]
    return context.judge(
        entry,
        "alphas_cumprod",
        ratio,
        np.ones_like(ratio),
        least=10 * TABLE,
        variants=variants,
    )


def _other_spacing(context: PipelineContext, spacing: str):
    kept = len(context.notes)
    schedule = context.make_schedule(spacing=spacing)
    del context.notes[kept:]
    return schedule


def _shifted(sigmas: np.ndarray, shift: float) -> np.ndarray:
    return shift * sigmas / (1.0 + (shift - 1.0) * sigmas)


def _fit_shift(got: np.ndarray, sigmas: np.ndarray) -> float:
    """Return s of s sigma / (1 + (s - 1) sigma) at the first sigma but 1; 1 if there is none."""
    inner = np.flatnonzero((sigmas > 0.0) & (sigmas != 1.0)) if got.shape == sigmas.shape else []
    if not len(inner):
        return 1.0
    a, b = float(got[inner[0]]), float(sigmas[inner[0]])
    below = b * (1.0 - a)
    return a * (1.0 - b) / below if below else 1.0
