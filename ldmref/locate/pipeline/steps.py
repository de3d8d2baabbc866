"""Judge the steps of a sampler, each recomputed from its recorded state.

The history of a multistep method is rebuilt from the recorded earlier steps. Coordinates are those
of the run's path, such as x = x0 + sigma eps; states of diffusers' schedulers are converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, zip_longest
from typing import NamedTuple

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.findings import DIFFERS, EQUAL, Row
from ldmref.locate.law import NOISE, allowed_error
from ldmref.locate.layouts import relative_error, shrinkage
from ldmref.locate.parts.scheduler_faults import in_format
from ldmref.locate.parts.step_faults import StepSettings, fitted_noise, step_faults
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.pipeline.recorded_step import (
    NotRecorded,
    RecordedEvaluation,
    ReplayedStep,
    from_path,
    to_path,
    to_x0,
)
from ldmref.samplers import configured_step
from ldmref.samplers.diffusers.steps import plms_calls
from ldmref.samplers.loop import run_intervals
from ldmref.samplers.parts import STEP
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import NEARLY_ZERO, Schedule
from ldmref.trace.model import TraceEntry

OF_STATE, OF_X0 = 4.0, 5.0  # units of rounding per state and per prediction; see _least
AMPLIFIED = 4.0  # times the effect of rounding each x0 once
LEAST = 2e-6  # relative error of a step that is rounding in any float32 program
# Schedulers of diffusers whose alpha-bar is exactly 0 at zero terminal SNR; the others have
# NEARLY_ZERO there, as ldmref.
EXACTLY_ZERO = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler")
PREDICTIONS = ("model_output", "prediction")
X0 = ("x0",)
POINTS = ("x_at", "sigma_at")  # where a step evaluates first
MOST_STEPS = 5  # on which a multistep method depends, its own and those before
NO_SIGNAL = 2.0**40  # sigma where nothing is left of x0 in float64's steps


def judge_steps(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for every recorded step."""
    entries = context.calls("sampler")
    if not entries or is_inversion(entries[0]):
        return
    yield from judge_times(context)
    yield from judge_noises(context)
    for entry in entries:
        context.compared_output(entry)  # a row says whether it was compared
    if context.unknown_scheduler:
        for entry in entries:
            yield context.not_judged(entry, "step", context.unknown_scheduler)
        return
    evaluations = [_read(context, entry) for entry in entries]
    known = [e for e in evaluations if e is not None]
    if len(known) < len(entries):
        for entry, found in zip(entries, evaluations, strict=True):
            whose = "its" if found is None else "another step's"
            why = f"{whose} state or prediction was not recorded"
            yield context.not_judged(entry, "step", why)
        return
    right = _settings(context)
    yield from _judge_states(context, known, right)


def is_inversion(step: TraceEntry) -> bool:
    """Return whether a step leads to more noise, as an inversion of ldmref: only the run judges it.

    It is one of those that say their iterations.
    """
    return "iterations" in step.attributes


def _judge_states(
    context: PipelineContext, known: Sequence[RecordedEvaluation], right: StepSettings
) -> Iterator[Row]:
    """Yield rows for the states to which the steps of a run lead, and for what lies within them."""
    entries = [evaluation.entry for evaluation in known]
    try:
        expected = _follow_all(context, known, right)
    except (NotRecorded, LdmrefError, ValueError) as error:
        unknown = context.not_judged(entries[0], "step", str(error))
        yield from _without_noise(context, known, right) or [unknown]
        return
    low = _follow_all(context, known, replace(right, config=in_format(right.config, "float32")))
    with np.errstate(all="ignore"):
        rounded = _follow_all(context, known, replace(right, rounding=context.dtype))
    others: dict[str, dict[int, Followed]] | None = None
    without: dict[int, np.ndarray] = {}
    for i, evaluation in enumerate(known):
        output = context.read_output(evaluation.entry)
        if output is None:
            continue
        if i not in expected:
            yield context.not_judged(
                evaluation.entry, "step", "it is not one of the steps that follow from the schedule"
            )
            continue
        right_state = expected[i].state
        floor = relative_error(low[i].state, right_state)
        if others is None and relative_error(output, right_state) > max(
            allowed_error(floor), LEAST
        ):
            others = _all_faults(context, known, right)
            without = _scaled_noise(context, known, right)
        changed = {text: run[i] for text, run in (others or {}).items() if i in run}
        variants = [(text, found.state) for text, found in changed.items()]
        if others is not None:
            variants += fitted_noise(output, right_state, without.get(i))
        row = context.judge(
            evaluation.entry,
            "step",
            output,
            right_state,
            floor=floor,
            least=_least(context.epsilon, evaluation.state, right_state, rounded[i].state),
            variants=variants,
        )
        yield row
        within = _judge_within(context, evaluation, expected[i], low[i], changed)
        if row.verdict == DIFFERS:  # those of later evaluations follow from the same fault
            within = iter([x for x in within if x.kind in POINTS and x.verdict == DIFFERS])
        yield from within


def judge_noises(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the noises of all steps, of which only the distribution is known."""
    for entry in context.calls("sampler"):
        yield from _judge_noise(context, entry)


def _judge_noise(context: PipelineContext, entry: TraceEntry) -> Iterator[Row]:
    """Yield rows for the noises of a step, of which only the distribution is known."""
    for role in entry.inputs:
        if role == "noise" or role.startswith("noise."):
            noise = context.read(entry, role)
            if noise is not None:
                context.compared(entry, role)
                yield judge_normal(context, entry, "noise", noise)


def _judge_within(
    context: PipelineContext,
    evaluation: RecordedEvaluation,
    expected: Followed,
    low: Followed | None,
    changed: Mapping[str, Followed] | None = None,
) -> Iterator[Row]:
    """Yield rows for what a step also recorded: predictions of x0, and later evaluations."""
    entry = evaluation.entry
    for side, role, right, rough in expected.within(low):
        read = context.read_output if side == "output" else context.read
        got = read(entry, role)
        if got is None or np.shape(got) != np.shape(right):
            continue
        if (side, role) == ("input", "x0"):
            right = _predicted_x0(context, evaluation, right)
        floor = 0.0 if rough is None else relative_error(rough, right)
        shrinks = shrinkage(expected.start, right)
        least = context.epsilon * (NOISE + 2.0 * OF_STATE * shrinks)
        context.ledger.mark(entry, role, side=side)
        causes = [*_other_points(context, evaluation, role)]
        runs = (changed or {}).items()
        causes += [(text, x) for text, run in runs for x in run.at(side, role)]
        yield context.judge(
            entry, role, got, right, floor=floor, least=max(least, LEAST), variants=causes
        )
    yield from _judge_later(context, evaluation)


def _other_points(
    context: PipelineContext, evaluation: RecordedEvaluation, role: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the ends of a step, at which it may have evaluated in place of the right point."""
    entry = evaluation.entry
    if role.startswith("sigma_at"):
        ends = [context.number(entry, name) for name in ("sigma", "sigma_next")]
        known = [np.asarray(x) for x in ends if x is not None]
        words = ["the level at which the step begins", "the level to which the step leads"]
        yield from zip(words, known, strict=False)
        if len(known) == 2:
            yield "the level in the middle of the step", (known[0] + known[1]) / 2.0
    elif role.startswith("x_at"):
        yield "the state at which the step begins", evaluation.state
        output = context.read_output(entry)
        if output is not None:
            yield "the state to which the step leads", output


def _predicted_x0(
    context: PipelineContext, evaluation: RecordedEvaluation, clipped: np.ndarray
) -> np.ndarray:
    """Return x0 as the network predicted it, which ldmref records; a step may clip it."""
    entry = evaluation.entry
    state = context.read(entry, "x_at", "x")
    sigma = context.number(entry, "sigma_at", "sigma")
    if state is None or sigma is None or context.is_diffusers:
        return clipped
    there = replace(evaluation, state=state)
    return to_x0(there, sigma, _settings(context), True, context.path)


def _judge_later(context: PipelineContext, evaluation: RecordedEvaluation) -> Iterator[Row]:
    """Yield rows for x0 of later evaluations within a step, from what the network predicted."""
    entry = evaluation.entry
    settings = _settings(context)
    for role in [role for role in entry.inputs if role.startswith("x0.")]:
        number = role.removeprefix("x0.")
        got, prediction = context.read(entry, role), context.read(entry, f"prediction.{number}")
        state = context.read(entry, f"x_at.{number}")
        sigma = context.number(entry, f"sigma_at.{number}")
        if got is None or prediction is None or state is None or sigma is None:
            continue
        later = replace(evaluation, state=state, prediction=prediction)
        right = to_x0(later, sigma, settings, True, context.path)
        shrinks = shrinkage(state, right)
        least = max(context.epsilon * (NOISE + 2.0 * OF_STATE * shrinks), LEAST)
        context.compared(entry, role)
        yield context.judge(entry, role, got, right, least=least)


def judge_times(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the times and levels of steps, from the recorded schedule."""
    entries = context.calls("sampler")
    schedule = context.schedule_entry
    timesteps, sigmas = (context.read_output(schedule, x) for x in ("timesteps", "sigmas"))
    own = None if context.unknown_scheduler else context.make_schedule()
    if sigmas is None and own is not None and not context.is_diffusers:
        sigmas = own.sigmas
    listed = np.zeros(0) if timesteps is None else np.ravel(timesteps)
    partial = bool((context.port.manifest.get("selection") or {}).get("steps"))
    indices: set[int] = set()  # where in the list the last step may be; some are in it twice
    for entry in entries:
        t = context.number(entry, "timestep")
        if t is not None and listed.size:
            context.compared(entry, "timestep")
            found = set(np.flatnonzero(np.abs(listed - t) <= 1e-5 * max(abs(t), 1.0)).tolist())
            last = max(indices, default=-1)
            later = {i for i in found if i - 1 in indices or (partial and i > last)}
            begins = last < 0 or listed[last] < t  # another image, or a jump back
            if later or (found and begins):
                indices = later or found
            else:
                right = listed[min(last + 1, listed.size - 1)]
                note = f"timestep {t:g} instead of {right:g}"
                values = {"error": float("inf"), "verdict": DIFFERS, "note": note}
                yield Row(entry.call, "", "step time", **values)
        elif t is not None:
            context.ledger.explain(entry, "no schedule was recorded", "timestep")
        yield from _judge_levels(context, entry, sigmas)


def _judge_levels(
    context: PipelineContext, entry: TraceEntry, sigmas: np.ndarray | None
) -> Iterator[Row]:
    """Yield a row for the noise levels of a step that are not those of the schedule."""
    got = [context.number(entry, role) for role in ("sigma", "sigma_next")]
    if got[0] is None:
        return
    if sigmas is None:
        context.ledger.explain(entry, "no schedule was recorded", "sigma", "sigma_next")
        return
    context.compared(entry, "sigma", "sigma_next")
    levels = np.ravel(sigmas)
    pairs = [(float(a), float(b)) for a, b in pairwise(levels)]
    if "i" in entry.attributes and "i_next" in entry.attributes:
        ends = (int(entry.attributes["i"]), int(entry.attributes["i_next"]))
        if max(ends) < len(levels):
            pairs = [(float(levels[ends[0]]), float(levels[ends[1]]))]
    known = [x for x in got if x is not None]
    tolerance = max(1e-5, 2.0 * context.epsilon)
    if not any(
        np.allclose(known, pair[: len(known)], rtol=tolerance, atol=tolerance) for pair in pairs
    ):
        note = f"from {known[0]:.5g} to {known[-1]:.5g}, which is no step of the schedule"
        values = {"error": float("inf"), "verdict": DIFFERS, "note": note}
        yield Row(entry.call, "", "step level", **values)


def _least(
    epsilon: float, state: np.ndarray, expected: np.ndarray, rounded: np.ndarray | None = None
) -> float:
    """Return the relative error of a step that rounding in the port's number format explains.

    A program computes x0 = x - sigma e from the network's prediction e, d = (x - x0)/sigma, and
    x' = x + (sigma' - sigma) d. With unit roundoff u = epsilon/2 and to first order,

        |error of x0| <= u (|x0| + 2 sigma |e|)                       (product, sigma, difference)
        |error of (sigma' - sigma) d| <= |error of x0| + 6 u sigma |e|    (difference, quotient,
                                                            product, sigma, sigma' and sigma again)
        |error of x'| <= u (8 sigma |e| + |x0| + |x'|) <= u (8 |x| + 9 |x0| + |x'|),

    for sigma' <= sigma, since sigma |e| = |x - x0|. That is at most epsilon (4 s + 5) max |x'| with
    s = max |x| / max |x'|, where max |x0| is not above max |x'|: a step from sigma = 4096 to 3
    leaves little of x, and the roundings are those of x. 16 epsilon, as for layers, are more unless
    s > 2.75. They also cover states of variance 1, whose x0 is divided by sqrt(alpha-bar).

    A multistep method extrapolates from differences of predictions, and may multiply their
    roundings by more than that, if the last interval is many times the one before (LMS on Karras'
    levels). Therefore the step is computed again with each x0 rounded once to the format.

    Args:
        epsilon: The port's unit of rounding, 2 u.
        state: x.
        expected: x'.
        rounded: x' with every x0 rounded. None: it is not known.
    """
    least = epsilon * max(NOISE, OF_STATE * shrinkage(state, expected) + OF_X0)
    seen = 0.0 if rounded is None else AMPLIFIED * relative_error(rounded, expected)
    return max(least, seen) if np.isfinite(seen) else least


def _predictions(context: PipelineContext) -> tuple[str, ...]:
    """Return the names of what the network predicted: x0 if no step has another prediction."""
    recorded = {role for step in context.calls("sampler") for role in step.inputs}
    return PREDICTIONS if recorded.intersection(PREDICTIONS) else X0


def _read(context: PipelineContext, entry: TraceEntry) -> RecordedEvaluation | None:
    state = context.read(entry, "sample", "x")
    prediction = context.read(entry, *_predictions(context))
    if state is None or prediction is None:
        return None
    noises = [context.read(entry, f"noise.{i}" if i else "noise") for i in range(4)]
    return RecordedEvaluation(entry, state, prediction, [x for x in noises if x is not None])


def _settings(context: PipelineContext) -> StepSettings:
    """Return how the steps should have been taken."""
    config = context.config
    sampler = context.choose_sampler(config)[0]
    first = context.calls("sampler")[0]
    eta = first.attributes.get("eta", context.params.get("eta"))
    kind = first.attributes.get("prediction_type", "")
    if _predictions(context) == X0:
        kind = "x0"
    compatible = context.is_diffusers or context.params.get("rng") == "torch"
    takes_eta = sampler.eta is not None and isinstance(eta, int | float)
    value = float(eta) if takes_eta else None
    return StepSettings(config, sampler, compatible, eta=value, prediction_type=kind)


class Followed(NamedTuple):
    """What a call of a step should have returned, and what belongs to it.

    Attributes:
        state: The state after it, in the port's coordinates.
        start: The state before it, in those of x0.
        x0: The prediction of x0. None: the call is not the last of its step.
        seen: In a step of several evaluations that is one call: states and levels of all.
    """

    state: np.ndarray
    start: np.ndarray
    x0: np.ndarray | None = None
    seen: Sequence[tuple[np.ndarray, float]] = ()

    def at(self, side: str, role: str) -> list[np.ndarray]:
        """Return the array of a role, [] if the step has none."""
        return [x for where, name, x, _ in self.within(None) if (where, name) == (side, role)]

    def within(
        self, low: Followed | None
    ) -> Iterator[tuple[str, str, np.ndarray, np.ndarray | None]]:
        """Yield side, role, the right array and one from float32's schedule."""
        if self.x0 is not None:
            rough = None if low is None else low.x0
            yield "output", "x0", self.x0, rough
            yield "input", "x0", self.x0, rough
        for i, (x, sigma) in enumerate(self.seen):
            rough = low.seen[i][0] if low is not None and i < len(low.seen) else None
            suffix = f".{i}" if i else ""
            yield "input", f"x_at{suffix}", x, rough
            yield "input", f"sigma_at{suffix}", np.asarray(sigma), None


def _states(followed: dict[int, Followed]) -> dict[int, np.ndarray]:
    return {i: found.state for i, found in followed.items()}


def _follow_all(
    context: PipelineContext, evaluations: Sequence[RecordedEvaluation], settings: StepSettings
) -> dict[int, Followed]:
    return dict(_follow(context, evaluations, settings))


def _follow(
    context: PipelineContext, evaluations: Sequence[RecordedEvaluation], settings: StepSettings
) -> Iterator[tuple[int, Followed]]:
    """Yield what each evaluation's call should have returned, by its index.

    Raises:
        NotRecorded: The steps need noise that was not recorded, or the schedule is not known.
    """
    schedule = context.make_schedule(settings.config)
    if schedule is None:
        raise NotRecorded("the number of steps was not recorded")
    schedule = _without_signal(context, schedule, settings)
    if settings.config == context.config:
        schedule = _as_recorded(context, schedule)
    first = _first_step(context, evaluations[0].entry, schedule.timesteps, schedule.sigmas)
    if context.is_diffusers and settings.sampler.name == "pndm":
        first = _first_of_pndm(context, evaluations, schedule.timesteps)
    step, visits = configured_step(
        settings.config,
        settings.sampler,
        schedule,
        eta=settings.eta,
        first_step=first,
        bug_compatible=settings.compatible,
    )
    own = not context.is_diffusers
    visits = _recorded_visits(context, visits) if own else visits
    on_path = own or schedule.path is FLOW or settings.sampler.family == "euler"
    sigmas = schedule.sigmas.tolist()
    history: tuple = ()
    begins = own and first != _begin(context, first)  # the steps before it were not recorded
    lost = MOST_STEPS if begins else 0  # steps that a multistep method may depend on
    k = 0
    for interval in run_intervals(sigmas, visits, schedule.path):
        if k >= len(evaluations):
            return
        if interval.i_next < interval.i:  # a jump back, judged by itself
            history, lost = (), 0
            continue
        if own and evaluations[k].entry.attributes.get("i", interval.i) != interval.i:
            history, lost = (), MOST_STEPS  # of which another one was recorded
            continue
        start = k
        if interval.sigma == 0.0:  # evaluated without noise, which changes nothing
            yield k, Followed(evaluations[k].state, evaluations[k].state)
            k += 1
            continue
        replayed = ReplayedStep(context, evaluations[start:], settings, on_path, own, schedule.path)
        x = to_path(evaluations[k].state, interval.sigma, on_path)
        within = settings.changed(interval)
        try:
            x_next, x0, history = STEP.compute(
                step, replayed.denoise, x, within, history, replayed.draw_noise
            )
        except NotRecorded:
            if start:
                return
            raise
        history = () if settings.forgets else history
        k = start + (1 if own else len(replayed.seen))
        lost = max(lost - 1, 0)
        if lost and history:
            continue
        for j, (state, sigma) in enumerate(() if own else replayed.seen[1:]):
            yield start + j, Followed(from_path(state, sigma, on_path), x, replayed.predicted[j])
        seen = replayed.seen if own else ()
        last = x0 if len(replayed.seen) == 1 else replayed.predicted[-1]
        last = x0 if own else last
        state = from_path(x_next, interval.sigma_next, on_path)
        yield k - 1, Followed(state, x, last, seen)


def _begin(context: PipelineContext, otherwise: int) -> int:
    """Return the index of the level at which the run of a port begins."""
    entry = context.schedule_entry
    visits = None if entry is None else entry.attributes.get("visits")
    return int(visits[0]) if isinstance(visits, list) and visits else otherwise


def _recorded_visits(context: PipelineContext, visits: Sequence[int]) -> Sequence[int]:
    """Return the levels that a run of ldmref visits, if it jumps back between them (RePaint)."""
    entry = context.schedule_entry
    recorded = None if entry is None else entry.attributes.get("visits")
    if not context.calls("jump") or not isinstance(recorded, list):
        return visits
    return [int(i) for i in recorded]


def _without_noise(
    context: PipelineContext, evaluations: Sequence[RecordedEvaluation], right: StepSettings
) -> list[Row]:
    """Return a row for every step of a port that takes eta = 0 instead of another one.

    Such a port draws no noise, so only the means of the right states are known. [] if eta = 0 does
    not explain every recorded state.
    """
    if not right.eta or any(len(evaluation.noise) for evaluation in evaluations):
        return []
    cause = f"eta 0 instead of {right.eta:g}"
    noiseless = [replace(e, noise=[np.zeros_like(e.state)] * 2) for e in evaluations]
    try:
        means = _states(_follow_all(context, noiseless, right))
        taken = _states(_follow_all(context, evaluations, replace(right, eta=0.0)))
    except (NotRecorded, LdmrefError, ValueError):
        return []
    rows = []
    for i, evaluation in enumerate(evaluations):
        output = context.read_output(evaluation.entry)
        if output is None or i not in taken or i not in means:
            return []
        variants = [(cause, taken[i])]
        least = _least(context.epsilon, evaluation.state, taken[i])
        entry = evaluation.entry
        row = context.judge(entry, "step", output, means[i], least=least, variants=variants)
        rows.append(row)
    explained = all(row.verdict == EQUAL or row.cause == cause for row in rows)
    return rows if explained and any(row.cause for row in rows) else []


def _without_signal(
    context: PipelineContext, schedule: Schedule, settings: StepSettings
) -> Schedule:
    """Return the schedule with no signal at its start, if the port's scheduler has none there."""
    name = (context.port.manifest.get("scheduler") or {}).get("class")
    rescaled = settings.config.rescale_betas_zero_snr
    if not (context.is_diffusers and rescaled and name in EXACTLY_ZERO):
        return schedule
    ends = schedule.sigmas >= 0.999 * NEARLY_ZERO**-0.5
    return schedule._replace(sigmas=np.where(ends, NO_SIGNAL, schedule.sigmas))


def _as_recorded(context: PipelineContext, schedule: Schedule) -> Schedule:
    """Return the schedule of a flow with the levels that the port recorded, which are judged alone.

    They are the only other argument of a step, so that another shift is not a fault of each step.
    """
    sigmas = context.read_output(context.schedule_entry, "sigmas")
    if schedule.path is not FLOW or sigmas is None or sigmas.shape != schedule.sigmas.shape:
        return schedule
    timesteps = np.array(context.recorded_timesteps)
    kept = timesteps if timesteps.shape == schedule.timesteps.shape else schedule.timesteps
    return schedule._replace(sigmas=sigmas, timesteps=kept)


def _first_step(
    context: PipelineContext, entry: TraceEntry, timesteps: np.ndarray, sigmas: np.ndarray
) -> int:
    """Return the index in the schedule of the first recorded step."""
    sigma = context.number(entry, "sigma")
    if "i" in entry.attributes:
        return int(entry.attributes["i"])
    if context.is_diffusers:
        t = context.number(entry, "timestep")
        return 0 if t is None else int(np.argmin(np.abs(timesteps - t)))
    return 0 if sigma is None else int(np.argmin(np.abs(sigmas[:-1] - sigma)))


def _first_of_pndm(
    context: PipelineContext, evaluations: Sequence[RecordedEvaluation], timesteps: np.ndarray
) -> int:
    """Return where img2img cut diffusers' list of timesteps, which has the second one twice."""
    found = [context.number(evaluation.entry, "timestep") for evaluation in evaluations]
    indices = [int(np.argmin(np.abs(timesteps - t))) for t in found if t is not None]
    n = len(timesteps)

    def mismatches(first: int) -> int:
        return sum(a != b for a, b in zip_longest(plms_calls(n, first), indices))

    return min(range(n + 1), key=mismatches)


def _all_faults(
    context: PipelineContext, evaluations: Sequence[RecordedEvaluation], right: StepSettings
) -> dict[str, dict[int, Followed]]:
    """Return, for each known fault (keyed by its description), what it would produce."""
    found: dict[str, dict[int, Followed]] = {}
    kept = len(context.notes)
    for text, settings in step_faults(right):
        try:
            with np.errstate(all="ignore"):
                found[text] = _follow_all(context, evaluations, settings)
        except (NotRecorded, LdmrefError, ValueError, IndexError, ZeroDivisionError):
            continue
    del context.notes[kept:]
    still = {i: Followed(e.state, e.state) for i, e in enumerate(evaluations)}
    found["the step is not taken"] = still
    return found


def _scaled_noise(
    context: PipelineContext, evaluations: Sequence[RecordedEvaluation], right: StepSettings
) -> dict[int, np.ndarray]:
    """Return the states without the noise of the steps, {} if there is none."""
    if not any(len(evaluation.noise) for evaluation in evaluations):
        return {}
    noiseless = [replace(e, noise=[0.0 * x for x in e.noise]) for e in evaluations]
    try:
        return _states(_follow_all(context, noiseless, right))
    except (NotRecorded, LdmrefError, ValueError):
        return {}
