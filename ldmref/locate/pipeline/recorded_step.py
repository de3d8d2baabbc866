"""One step of a sampler as it was recorded: what the network predicted, and the fresh noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldmref.locate.parts.step_faults import StepSettings
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.precision import round_to
from ldmref.samplers.denoiser import TO_X0, in_own_scale
from ldmref.samplers.interfaces import Guided, GuidedDenoiser, History, Interval
from ldmref.samplers.path import VE, NoisePath
from ldmref.trace.model import TraceEntry

# Methods whose later stages use the network's output as the derivative dx/dsigma.
BY_DERIVATIVE = ("heun", "dpm_solver_2", "dpm_solver_2_a", "pndm")


class NotRecorded(Exception):
    """Something that a step needs was not recorded."""


@dataclass(frozen=True)
class RecordedEvaluation:
    """One evaluation of the network: the state that it saw, and what it predicted.

    Attributes:
        state: The recorded state, in the port's coordinates.
        prediction: eps, v, x0 or a velocity, guided.
        noise: The fresh noise of the step.
        kind: What the prediction is of. "": as the settings say.
    """

    entry: TraceEntry
    state: np.ndarray
    prediction: np.ndarray
    noise: Sequence[np.ndarray]
    kind: str = ""


class ReplayedStep:
    """The visits within one step, as they were recorded: of the denoiser, and of the noise.

    Args:
        evaluations: Those from the first of the step on.
        own: Whether one recorded call holds a whole step, as in ldmref.
        path: The path of the run.
    """

    def __init__(
        self,
        context: PipelineContext,
        evaluations: Sequence[RecordedEvaluation],
        settings: StepSettings,
        on_path: bool,
        own: bool,
        path: NoisePath = VE,
    ):
        self.seen: list[tuple[np.ndarray, float]] = []
        self.predicted: list[np.ndarray] = []
        self._context = context
        self._evaluations = evaluations
        self._settings = settings
        self._on_path = on_path
        self._own = own
        self._path = path
        calls = 1 if own else settings.sampler.nfe  # which a step has
        self._drawn = iter([x for evaluation in evaluations[:calls] for x in evaluation.noise])

    @property
    def denoise(self) -> GuidedDenoiser:
        """The denoiser of the step: each visit returns what the next recorded evaluation did."""
        return GuidedDenoiser(self._visit)

    def _visit(
        self,
        x: np.ndarray,
        sigma: float,
        memory: History,
        unconditional: bool,
        interval: Interval | None,
        scale: float | None,
    ) -> Guided:
        number = len(self.seen)
        self.seen.append((x, sigma))
        evaluation, level = self._evaluation(number, x, sigma, number > 0 and not unconditional)
        x0 = self._to_x0(evaluation, level)
        self.predicted.append(x0)
        if number and not self._own and self._settings.sampler.name in BY_DERIVATIVE:
            # The derivative (x - x0)/sigma is the recorded one. That of the recorded x0 and the
            # computed x would multiply the rounding of x by 1/sigma.
            x0 = x0 + x - to_path(evaluation.state, sigma, self._on_path)
        if self._settings.backwards:
            x0 = 2.0 * x - x0
        if not unconditional:
            return Guided(x0, None, ())
        uncond = self._unconditional(evaluation, number, level)
        return Guided(x0, uncond, (), self._context.asked_scale or 1.0)

    def _to_x0(self, evaluation: RecordedEvaluation, sigma: float) -> np.ndarray:
        return to_x0(evaluation, sigma, self._settings, self._on_path, self._path)

    def _evaluation(
        self, number: int, x: np.ndarray, sigma: float, as_x0: bool
    ) -> tuple[RecordedEvaluation, float]:
        """Return a recorded evaluation, with its x0 if that is asked for, and its level."""
        if not self._own:
            if number >= len(self._evaluations):
                raise NotRecorded("the last evaluations were not recorded")
            return self._evaluations[number], sigma
        first, suffix = self._evaluations[0], f".{number}" if number else ""
        read = self._context.read
        prediction = read(first.entry, f"prediction{suffix}") if number else first.prediction
        x0 = read(first.entry, f"x0{suffix}")
        state = read(first.entry, f"x_at{suffix}")
        level = self._context.number(first.entry, f"sigma_at{suffix}")
        if prediction is None and x0 is None:
            raise NotRecorded("the later evaluations of a step were not recorded")
        at = x if number else first.state  # where it was not recorded, the one that was computed
        at = at if state is None else state
        level = sigma if level is None else level
        if x0 is not None and (prediction is None or (as_x0 and self._is_read_right(first))):
            return replace(first, state=at, prediction=x0, kind="x0"), level
        assert prediction is not None
        return replace(first, state=at, prediction=prediction), level

    def _is_read_right(self, first: RecordedEvaluation) -> bool:
        """Return whether the recorded x0 are those of the settings: no other sign or kind."""
        settings = self._settings
        kind = first.entry.attributes.get("prediction_type", settings.prediction_type)
        return settings.sign == 1.0 and settings.prediction_type in ("", kind)

    def _unconditional(
        self, evaluation: RecordedEvaluation, number: int, sigma: float
    ) -> np.ndarray | None:
        """Return x0 without the prompt; None if the guidance of the evaluation did not need it."""
        names = evaluation.entry.attributes.get("evaluations")
        call = names[number] if isinstance(names, list) and number < len(names) else ""
        guidance = self._context.port.find(str(call))
        prediction = self._context.read(guidance, "uncond")
        if prediction is None:
            raise NotRecorded("the prediction without the prompt was not recorded")
        return self._to_x0(replace(evaluation, prediction=prediction, kind=""), sigma)

    def draw_noise(self) -> np.ndarray:
        """Return the next recorded noise."""
        found = next(self._drawn, None)
        if found is None:
            raise NotRecorded("the noise of the steps was not recorded")
        return found


def to_x0(
    evaluation: RecordedEvaluation,
    sigma: float,
    settings: StepSettings,
    on_path: bool,
    path: NoisePath,
) -> np.ndarray:
    """Return x0 of an evaluation at a noise level, rounded as the settings say."""
    kind = evaluation.kind or settings.prediction_type or settings.config.prediction_type
    xt, level = in_own_scale(kind, evaluation.state, sigma, path)
    xt = xt if on_path else evaluation.state
    x0 = TO_X0[kind](xt, settings.sign * evaluation.prediction, np.float64(level))
    return round_to(x0, settings.rounding)


def to_path(x: np.ndarray, sigma: float, on_path: bool) -> np.ndarray:
    """Return the state on the path from one in the port's coordinates, x_t unless `on_path`."""
    return x if on_path else x * math.hypot(1.0, sigma)


def from_path(x: np.ndarray, sigma: float, on_path: bool) -> np.ndarray:
    """Return a state in the port's coordinates from one on the path."""
    return x if on_path else x / math.hypot(1.0, sigma)
