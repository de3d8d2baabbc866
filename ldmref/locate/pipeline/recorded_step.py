"""One step of a sampler as it was recorded: what the network predicted, and the fresh noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.step_faults import StepSettings
from ldmref.locate.precision import round_to
from ldmref.samplers.denoiser import TO_X0, in_own_scale
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
    """

    entry: TraceEntry
    state: np.ndarray
    prediction: np.ndarray
    noise: Sequence[np.ndarray]


class ReplayedStep:
    """The network and the noise of one step, as they were recorded.

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

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Return x0 of the next recorded evaluation."""
        number = len(self.seen)
        self.seen.append((x, sigma))
        if self._own and number:
            return _own_evaluation(self._context, self._evaluations[0], number)
        if number >= len(self._evaluations):
            raise NotRecorded("the last evaluations were not recorded")
        evaluation = self._evaluations[number]
        x0 = to_x0(evaluation, sigma, self._settings, self._on_path, self._path)
        self.predicted.append(x0)
        if number and self._settings.sampler.name in BY_DERIVATIVE:
            # The derivative (x - x0)/sigma is the recorded one. That of the recorded x0 and the
            # computed x would multiply the rounding of x by 1/sigma.
            x0 = x0 + x - to_path(evaluation.state, sigma, self._on_path)
        return x0

    def draw_noise(self) -> np.ndarray:
        """Return the next recorded noise."""
        found = next(self._drawn, None)
        if found is None:
            raise NotRecorded("the noise of the steps was not recorded")
        return found


def _own_evaluation(
    context: PipelineContext, evaluation: RecordedEvaluation, number: int
) -> np.ndarray:
    """Return x0 of a later evaluation in a step of ldmref."""
    x0 = context.read(evaluation.entry, f"x0.{number}")
    if x0 is None:
        raise NotRecorded("the later evaluations of a step were not recorded")
    return x0


def evaluated_x0(
    context: PipelineContext, evaluation: RecordedEvaluation, sigma: float, settings: StepSettings
) -> np.ndarray:
    """Return x0 of a recorded evaluation of ldmref, whose states are on the path of the run."""
    schedule = context.make_schedule(settings.config)
    path = VE if schedule is None else schedule.path
    return to_x0(evaluation, sigma, settings, True, path)


def to_x0(
    evaluation: RecordedEvaluation,
    sigma: float,
    settings: StepSettings,
    on_path: bool,
    path: NoisePath,
) -> np.ndarray:
    """Return x0 of an evaluation at a noise level, rounded as the settings say."""
    kind = settings.prediction_type or settings.config.prediction_type
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
