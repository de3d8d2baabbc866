"""Judge the steps of a sampler, each recomputed from its recorded state.

The history of a multistep method is rebuilt from the recorded earlier steps. Coordinates are
x = x0 + sigma eps; states of diffusers' schedulers are converted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.findings import Row
from ldmref.locate.host.context import HostContext
from ldmref.locate.host.schedule import in_format
from ldmref.locate.host.step_faults import StepSettings, step_faults
from ldmref.locate.layouts import relative_error
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.samplers import configured_step
from ldmref.samplers.denoiser import TO_X0
from ldmref.samplers.diffusers.steps import plms_calls
from ldmref.samplers.loop import run_intervals
from ldmref.samplers.schedule import NEARLY_ZERO
from ldmref.trace.model import TraceEntry

LEAST = 2e-6  # relative error of a step that is rounding in any float32 program


class _NotRecorded(Exception):
    """Something that a step needs was not recorded."""


@dataclass(frozen=True)
class RecordedEvaluation:
    """One evaluation of the network: the state that it saw, and what it predicted.

    Attributes:
        state: The recorded state, in the port's coordinates.
        prediction: eps, v or x0, guided.
        noise: The fresh noise of the step.
    """

    entry: TraceEntry
    state: np.ndarray
    prediction: np.ndarray
    noise: Sequence[np.ndarray]


def judge_steps(context: HostContext) -> Iterator[Row]:
    """Yield a row for every recorded step."""
    entries = context.calls("sampler")
    if not entries:
        return
    evaluations = [_read(context, entry) for entry in entries]
    known = [e for e in evaluations if e is not None]
    if len(known) < len(entries):
        missing = [e for e, found in zip(entries, evaluations, strict=True) if found is None]
        yield from (context.not_judged(e, "step", "its state was not recorded") for e in missing)
    if not known or len(known) < len(entries):
        return
    right = _settings(context)
    try:
        expected = dict(_follow(context, known, right))
    except (_NotRecorded, LdmrefError, ValueError) as error:
        yield context.not_judged(entries[0], "step", str(error))
        return
    low = dict(_follow(context, known, replace(right, config=in_format(right.config, "float32"))))
    others: dict[str, dict[int, np.ndarray]] | None = None
    for i, evaluation in enumerate(known):
        output = context.read_output(evaluation.entry)
        if output is None or i not in expected:
            continue
        floor = relative_error(low[i], expected[i]) if i in low else 0.0
        if i == 0 and right.config.rescale_betas_zero_snr:
            floor = max(floor, NEARLY_ZERO**0.5 / 4.0)  # diffusers' DDIM has exactly 0 there
        if others is None and relative_error(output, expected[i]) > max(16 * floor, LEAST):
            others = _all_faults(context, known, right)
        variants = [(text, arrays.get(i)) for text, arrays in (others or {}).items()]
        yield context.judge(
            evaluation.entry,
            "step",
            output,
            expected[i],
            floor=floor,
            variants=[(text, x) for text, x in variants if x is not None],
        )


def _read(context: HostContext, entry: TraceEntry) -> RecordedEvaluation | None:
    state = context.read(entry, "sample", "x")
    prediction = context.read(entry, "model_output", "prediction", "x0")
    if state is None or prediction is None:
        return None
    noises = [context.read(entry, f"noise.{i}" if i else "noise") for i in range(4)]
    return RecordedEvaluation(entry, state, prediction, [x for x in noises if x is not None])


def _settings(context: HostContext) -> StepSettings:
    """Return how the steps should have been taken."""
    config = context.config
    sampler = context.choose_sampler(config)[0]
    first = context.calls("sampler")[0]
    eta = first.attributes.get("eta", context.params.get("eta"))
    kind = first.attributes.get("prediction_type", "")
    if "prediction" not in first.inputs and "model_output" not in first.inputs:
        kind = "x0"
    compatible = context.is_diffusers or context.params.get("rng") == "torch"
    takes_eta = sampler.eta is not None and isinstance(eta, int | float)
    value = float(eta) if takes_eta else None
    return StepSettings(config, sampler, compatible, eta=value, prediction_type=kind)


def _follow(
    context: HostContext, evaluations: Sequence[RecordedEvaluation], settings: StepSettings
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the state that each evaluation's call should have returned, by its index.

    Raises:
        _NotRecorded: The steps need noise that was not recorded, or the schedule is not known.
    """
    schedule = context.make_schedule(settings.config)
    if schedule is None:
        raise _NotRecorded("the number of steps was not recorded")
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
    exploding = own or settings.sampler.family == "euler"
    sigmas = schedule.sigmas.tolist()
    history: tuple = ()
    k = 0
    for interval in run_intervals(sigmas, visits):
        if k >= len(evaluations):
            return
        start = k
        replayed = _Replayed(context, evaluations[start:], settings, exploding, own)
        x = _to_exploding(evaluations[k].state, interval.sigma, exploding)
        try:
            x_next, _, history = step(replayed.denoise, x, interval, history, replayed.draw_noise)
        except _NotRecorded:
            if start:
                return
            raise
        history = () if settings.forgets else history
        k = start + (1 if own else len(replayed.seen))
        for j, (state, sigma) in enumerate(() if own else replayed.seen[1:]):
            yield start + j, _from_exploding(state, sigma, exploding)
        yield k - 1, _from_exploding(x_next, interval.sigma_next, exploding)


class _Replayed:
    """The network and the noise of one step, as they were recorded.

    Args:
        evaluations: Those from the first of the step on.
        own: Whether one recorded call holds a whole step, as in ldmref.
    """

    def __init__(
        self,
        context: HostContext,
        evaluations: Sequence[RecordedEvaluation],
        settings: StepSettings,
        exploding: bool,
        own: bool,
    ):
        self.seen: list[tuple[np.ndarray, float]] = []
        self._context = context
        self._evaluations = evaluations
        self._settings = settings
        self._exploding = exploding
        self._own = own
        self._drawn = iter([x for evaluation in evaluations[:2] for x in evaluation.noise])

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Return x0 of the next recorded evaluation."""
        number = len(self.seen)
        self.seen.append((x, sigma))
        if self._own and number:
            return _own_evaluation(self._context, self._evaluations[0], number)
        if number >= len(self._evaluations):
            raise _NotRecorded("the last evaluations were not recorded")
        return _to_x0(self._evaluations[number], sigma, self._settings, self._exploding)

    def draw_noise(self) -> np.ndarray:
        """Return the next recorded noise."""
        found = next(self._drawn, None)
        if found is None:
            raise _NotRecorded("the noise of the steps was not recorded")
        return found


def _first_step(
    context: HostContext, entry: TraceEntry, timesteps: np.ndarray, sigmas: np.ndarray
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
    context: HostContext, evaluations: Sequence[RecordedEvaluation], timesteps: np.ndarray
) -> int:
    """Return where img2img cut diffusers' list of timesteps, which has the second one twice."""
    found = [context.number(evaluation.entry, "timestep") for evaluation in evaluations]
    indices = [int(np.argmin(np.abs(timesteps - t))) for t in found if t is not None]
    n = len(timesteps)

    def mismatches(first: int) -> int:
        return sum(a != b for a, b in zip_longest(plms_calls(n, first), indices))

    return min(range(n + 1), key=mismatches)


def _own_evaluation(
    context: HostContext, evaluation: RecordedEvaluation, number: int
) -> np.ndarray:
    """Return x0 of a later evaluation in a step of ldmref."""
    x0 = context.read(evaluation.entry, f"x0.{number}")
    if x0 is None:
        raise _NotRecorded("the later evaluations of a step were not recorded")
    return x0


def _to_x0(
    evaluation: RecordedEvaluation, sigma: float, settings: StepSettings, exploding: bool
) -> np.ndarray:
    alpha_bar = float(alpha_bar_from_sigma(np.float64(sigma)))
    xt = evaluation.state * alpha_bar**0.5 if exploding else evaluation.state
    kind = settings.prediction_type or settings.config.prediction_type
    return TO_X0[kind](xt, settings.sign * evaluation.prediction, np.float64(alpha_bar))


def _to_exploding(x: np.ndarray, sigma: float, exploding: bool) -> np.ndarray:
    return x if exploding else x * math.hypot(1.0, sigma)


def _from_exploding(x: np.ndarray, sigma: float, exploding: bool) -> np.ndarray:
    return x if exploding else x / math.hypot(1.0, sigma)


def _all_faults(
    context: HostContext, evaluations: Sequence[RecordedEvaluation], right: StepSettings
) -> dict[str, dict[int, np.ndarray]]:
    """Return the states that each known fault would give, by its words."""
    found = {}
    kept = len(context.notes)
    for text, settings in step_faults(right):
        try:
            with np.errstate(all="ignore"):
                found[text] = dict(_follow(context, evaluations, settings))
        except (_NotRecorded, LdmrefError, ValueError, IndexError, ZeroDivisionError):
            continue
    del context.notes[kept:]
    found["the step is not taken"] = {i: e.state for i, e in enumerate(evaluations)}
    return found
