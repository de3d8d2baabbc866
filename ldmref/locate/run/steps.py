"""The steps of a run that was followed, each taken again with one of their settings changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ldmref.locate.parts.size_faults import ImageSize
from ldmref.locate.parts.step_faults import StepSettings, fitted_noise, step_faults
from ldmref.locate.parts.visit import FAILS, Visit
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.math.arrays import Array
from ldmref.modes.job import Job
from ldmref.samplers import Interval, Schedule, SchedulerConfig, configured_step
from ldmref.samplers.denoiser import TO_X0, Evaluation, in_own_scale
from ldmref.samplers.interfaces import Guided, GuidedDenoiser, History, Step
from ldmref.samplers.noise import follows_diffusers
from ldmref.samplers.parts import STEP
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace
from ldmref.trace.observer import numbered_role

StepArrays = dict[ArrayName, np.ndarray]


class NoMore(Exception):
    """A step reads more evaluations, or noise, than were recorded of it."""


@dataclass(frozen=True)
class SteppedVisit:
    """A step as the run took it, on recorded arrays.

    Attributes:
        call: Its call.
        step: What took it.
        x: The state before it.
        interval: Its levels.
        evaluations: Those of the denoiser, with recorded predictions.
        noises: The fresh noise that it drew.
    """

    call: str
    step: Step
    x: Array
    interval: Interval
    evaluations: Sequence[Evaluation]
    noises: Sequence[Array]

    def take(
        self, step: Step, settings: StepSettings, history: History, scale: float = 1.0
    ) -> tuple[StepArrays, History]:
        """Return what a step computes with other settings, and what it remembers.

        Args:
            step: The step.
            settings: The settings.
            history: What the method remembers.
            scale: The factor of the noise.

        Raises:
            NoMore: It reads what was not recorded.
        """
        seen: StepArrays = {}
        left, draws = iter(self.evaluations), iter(self.noises)

        def predict(
            x: Array,
            sigma: float,
            memory: History,
            unconditional: bool,
            interval: Interval | None,
            scale: float | None,
        ) -> Guided:
            number = sum(name.role.startswith("x_at") for name in seen)
            seen[self._name(numbered_role("x_at", number))] = np.asarray(x)
            seen[self._name(numbered_role("sigma_at", number))] = np.asarray(sigma)
            evaluation = next(left, None)
            if evaluation is None or (unconditional and "uncond" not in evaluation.outputs):
                raise NoMore
            x0 = self._read(evaluation.guided, settings, x, sigma)
            seen[self._name(numbered_role("x0", number))] = np.asarray(x0)
            x0 = 2.0 * x - x0 if settings.backwards else x0
            if not unconditional:
                return Guided(x0, None, (), evaluation.scale)
            uncond = self._read(evaluation.outputs["uncond"], settings, x, sigma)
            return Guided(x0, uncond, (), evaluation.scale)

        def draw() -> Array:
            noise = next(draws, None)
            if noise is None:
                raise NoMore
            return scale * noise

        within = settings.changed(self.interval)
        x_next, x0, history = STEP.compute(
            step, GuidedDenoiser(predict), self.x, within, history, draw
        )
        found = {OUTPUT: x_next, "x0": x0}
        outputs = {self._name(role, OUTPUT): np.asarray(x) for role, x in found.items()}
        return {**seen, **outputs}, history

    def _read(self, predicted: Array, settings: StepSettings, x: Array, sigma: float) -> Array:
        """Return x0 of a prediction at the point of an evaluation, read as the settings say."""
        kind = settings.prediction_type or settings.config.prediction_type
        xt, level = in_own_scale(kind, x, sigma, self.interval.path)
        return TO_X0[kind](xt, settings.sign * predicted, level)

    def _name(self, role: str, side: str = INPUT) -> ArrayName:
        return ArrayName(f"{self.call}/", side, role)


class TakenSteps:
    """The steps of a batch, which are taken again with other settings.

    Args:
        job: The resolved request.
        config: The configuration of the scheduler.
        schedule: The levels.
    """

    def __init__(self, job: Job, config: SchedulerConfig, schedule: Schedule):
        self.job = job
        self.config = config
        self.schedule = schedule
        self.visits: list[SteppedVisit] = []
        self._known: dict[str, StepArrays] | None = None

    def has(self, call: str) -> bool:
        """Return whether a call is one of the steps."""
        return any(visit.call == call for visit in self.visits)

    @property
    def alternatives(self) -> Mapping[str, StepArrays]:
        """What the steps compute with each known fault, by its words."""
        if self._known is None:
            self._known = dict(self._list())
        return self._known

    def noises(self, name: ArrayName, got: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the state after a step with noise of another size, which is fitted."""
        right = self._settings()
        if any(visit.noises for visit in self.visits) and name.role == OUTPUT:
            taken = self._take_all(right, self._same)
            without = self._take_all(right, self._same, 0.0)
            if name in taken and name in without:
                yield from fitted_noise(got, taken[name], without[name])

    def _settings(self) -> StepSettings:
        """Return the settings of the run."""
        job = self.job
        compatible = follows_diffusers(job.rng) and job.resample is None
        kind = job.guidance.combines(self.config.prediction_type)
        return StepSettings(self.config, job.sampler, compatible, eta=job.eta, prediction_type=kind)

    def _list(self) -> Iterator[tuple[str, StepArrays]]:
        right = self._settings()
        for words, settings in step_faults(right):
            make = self._same if _is_same_step(settings, right) else self._made
            yield words, self._take_all(settings, make)
        still = {v.call: v.x for v in self.visits}
        outputs = ((ArrayName(f"{call}/", OUTPUT, OUTPUT), x) for call, x in still.items())
        yield "the step is not taken", {name: np.asarray(x) for name, x in outputs}

    def _same(self, settings: StepSettings, visit: SteppedVisit) -> Step:
        return visit.step

    def _made(self, settings: StepSettings, visit: SteppedVisit) -> Step:
        """Return the step of other settings."""
        return configured_step(
            settings.config,
            settings.sampler,
            self.schedule,
            eta=settings.eta,
            first_step=self.job.first_step,
            bug_compatible=settings.compatible,
        )[0]

    def _take_all(
        self,
        settings: StepSettings,
        make: Callable[[StepSettings, SteppedVisit], Step],
        scale: float = 1.0,
    ) -> StepArrays:
        """Return what all steps compute, each from its recorded state."""
        found: StepArrays = {}
        if not self.visits or (make == self._made and self.job.mode == "invert"):
            return found
        history: History = ()
        try:
            with np.errstate(all="ignore"):
                step, at = make(settings, self.visits[0]), -1
                for visit in self.visits:
                    step = visit.step if make == self._same else step
                    history = history if visit.interval.i == at else ()  # a jump begins anew
                    at = visit.interval.i_next
                    arrays, history = visit.take(step, settings, history, scale)
                    history = () if settings.forgets else history
                    found |= arrays
        except (NoMore, *FAILS):
            return found
        return found


def _is_same_step(settings: StepSettings, right: StepSettings) -> bool:
    """Return whether settings change only what a step is given, not what makes it."""
    made = ("config", "sampler", "compatible", "eta")
    return all(getattr(settings, name) == getattr(right, name) for name in made)


@dataclass
class SeenParts:
    """The visits of a run that was followed.

    Attributes:
        guidances: The visits of guidance, by call.
        steps: Those of steps, by batch.
        timesteps: The number of timesteps of training.
        tokens: The number of tokens of an image.
        size: Width and height of an image.
    """

    guidances: dict[str, Visit] = field(default_factory=dict)
    steps: list[TakenSteps] = field(default_factory=list)
    timesteps: int = 1000
    tokens: int = 0
    size: ImageSize | None = None

    def visit_of(self, call: TraceCall, port: Trace) -> Visit | None:
        """Return the guidance that follows a call of the denoiser; None: it is not known."""
        of_kind = [name for name in port.calls if TraceCall(name).kind == call.kind]
        visits = [*self.guidances.values()]
        known = call.network and len(of_kind) == len(visits)
        return visits[call.number] if known and 0 <= call.number < len(visits) else None

    @property
    def is_guided(self) -> bool:
        """Whether networks read the negative prompt in the first half of a batch."""
        return any({"uncond", "cond"} <= {*visit.arrays} for visit in self.guidances.values())
