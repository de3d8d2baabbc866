"""One step of a sampler as it was recorded: what the network predicted, and the fresh noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldmref.locate.host.context import HostContext
from ldmref.locate.host.step_faults import StepSettings
from ldmref.locate.precision import round_to
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.samplers.denoiser import TO_X0
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
        prediction: eps, v or x0, guided.
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
            raise NotRecorded("the last evaluations were not recorded")
        evaluation = self._evaluations[number]
        x0 = _to_x0(evaluation, sigma, self._settings, self._exploding)
        if number and self._settings.sampler.name in BY_DERIVATIVE:
            # The derivative (x - x0)/sigma is the recorded one. That of the recorded x0 and the
            # computed x would multiply the rounding of x by 1/sigma.
            x0 = x0 + x - to_exploding(evaluation.state, sigma, self._exploding)
        return x0

    def draw_noise(self) -> np.ndarray:
        """Return the next recorded noise."""
        found = next(self._drawn, None)
        if found is None:
            raise NotRecorded("the noise of the steps was not recorded")
        return found


def _own_evaluation(
    context: HostContext, evaluation: RecordedEvaluation, number: int
) -> np.ndarray:
    """Return x0 of a later evaluation in a step of ldmref."""
    x0 = context.read(evaluation.entry, f"x0.{number}")
    if x0 is None:
        raise NotRecorded("the later evaluations of a step were not recorded")
    return x0


def _to_x0(
    evaluation: RecordedEvaluation, sigma: float, settings: StepSettings, exploding: bool
) -> np.ndarray:
    alpha_bar = float(alpha_bar_from_sigma(np.float64(sigma)))
    xt = evaluation.state * alpha_bar**0.5 if exploding else evaluation.state
    kind = settings.prediction_type or settings.config.prediction_type
    x0 = TO_X0[kind](xt, settings.sign * evaluation.prediction, np.float64(alpha_bar))
    return round_to(x0, settings.rounding)


def to_exploding(x: np.ndarray, sigma: float, exploding: bool) -> np.ndarray:
    """Return x0 + sigma eps from a state in the port's coordinates."""
    return x if exploding else x * math.hypot(1.0, sigma)


def from_exploding(x: np.ndarray, sigma: float, exploding: bool) -> np.ndarray:
    """Return a state in the port's coordinates from x0 + sigma eps."""
    return x if exploding else x / math.hypot(1.0, sigma)
