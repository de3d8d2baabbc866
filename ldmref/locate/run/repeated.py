"""A recorded run of ldmref is made again, with recorded arrays instead of computed ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.locate.parts.visit import FAILS, Visit
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.run.calls import (
    INPUT,
    JUMP,
    OUTPUT,
    SCHEDULE,
    ArrayName,
    ArrayReached,
    FollowedCalls,
    Noises,
    NotFollowed,
    ends_at,
)
from ldmref.locate.run.causes import RunCauses
from ldmref.locate.run.changes import UNCHANGED, RunChange, list_changes, list_numbers
from ldmref.locate.run.networks import RecordedNetworks, exact_backend
from ldmref.locate.run.noises import ImpliedNoise, read_noises
from ldmref.locate.run.request import NO_SCALE
from ldmref.locate.run.rows import ROUNDINGS, RunComparison
from ldmref.locate.run.steps import SeenParts, SteppedVisit, TakenSteps
from ldmref.math.arrays import Array
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.plan import plan
from ldmref.modes.request_inputs import CONTROL
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers import Interval
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.interfaces import (
    Denoiser,
    Guided,
    GuidedDenoiser,
    History,
    Noise,
    Stepped,
)
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.trace.calls import CONSTRAIN
from ldmref.trace.model import Trace
from ldmref.trace.observer import TraceObserver, numbered_role

SINGLE = 2.0**-23  # the unit of rounding of float32, in which states are at least
ANOTHER = "another run: it does not compute what was recorded"


@dataclass(frozen=True)
class RepeatedRun:
    """The run of a recorded request, which can be made again.

    Attributes:
        port: The recorded run.
        model: The model that ran.
        nets: The ControlNets of the run, in their order.
        mode: Its mode.
        values: The parameters of its request.
        of_scale: The array from which its guidance scale was read, which then says nothing. None:
            it was read from none.
    """

    port: Trace
    model: LatentDiffusion
    nets: Sequence[ControlNet]
    mode: str
    values: Mapping[str, Any]
    of_scale: ArrayName | None = None

    def follow(self, calls: FollowedCalls, change: RunChange = UNCHANGED) -> RunFollower:
        """Make the run, which is compared with recorded calls.

        Args:
            calls: The recorded calls.
            change: What is changed of its request, or of the scheduler.
        """
        ops = exact_backend(calls.dtype)
        values = {**self.values, **(change.values or {})}
        model = self.model
        if change.config is not None:
            model = model.with_params({}, model.backend)
            model.config = change.config
        controls = zip(values.get(CONTROL, ()), self.nets, strict=True)
        moved = [replace(control, net=net.with_backend(ops)) for control, net in controls]
        with np.errstate(all="ignore"):
            planned = plan(self.mode, model, **{**values, **({CONTROL: moved} if moved else {})})
            follower = RunFollower(calls)
            planned.run(model, observer=follower)
        return follower

    def compute(
        self, calls: FollowedCalls, change: RunChange = UNCHANGED
    ) -> Mapping[ArrayName, np.ndarray]:
        """Return what the run computes until it ends, reaches an array or cannot go on.

        Args:
            calls: The recorded calls.
            change: What is changed of its request, or of the scheduler.
        """
        try:
            self.follow(calls, change)
        except (NotFollowed, ArrayReached, *FAILS):
            pass  # what was computed up to there is known
        return calls.computed

    def compare(
        self, epsilon: float, assumed: Mapping[ArrayName, str], bound: float = math.inf
    ) -> RunComparison | str:
        """Return what is compared of the run, or why it cannot be.

        Args:
            epsilon: The unit of rounding of the port's number format.
            assumed: Arrays from which the request was read, and why.
            bound: A relative error. The first array whose error is larger ends the run, of which
                nothing is compared then.
        """
        if self.of_scale is not None:
            assumed = {**assumed, self.of_scale: NO_SCALE}

        def until(name: ArrayName, recorded: np.ndarray, computed: np.ndarray) -> bool:
            if bound == math.inf or name in assumed or not is_compared(name, recorded, computed):
                return False
            return relative_error(recorded, computed) > bound

        implied: dict[ArrayName, ImpliedNoise] = {}
        calls = FollowedCalls(self.port, until=until)
        try:
            parts = unknowing = self.follow(calls).parts
            if calls.lacking:
                implied = read_noises(calls, self._with_noises)
                noises = {x.name: x.z for x in implied.values()}
                calls = FollowedCalls(self.port, until=until, noises=noises)
                parts = self.follow(calls).parts
        except ArrayReached:
            return ANOTHER
        except NotFollowed as error:
            return str(error)
        except FAILS as error:
            return f"the recorded request cannot be run again: {error}"
        config = self.model.config
        again = RunAgain(self, epsilon, calls.noises)
        changes = [*list_changes(self.mode, self.values, config, _names(self.port))]
        numbers = [*list_numbers(self.values, config)]
        causes = RunCauses(self.port, self.model, parts, changes, numbers, again.change)
        return RunComparison(
            self.port,
            calls.computed,
            again.round,
            epsilon,
            causes,
            replace(causes, parts=unknowing),
            calls.unknown,
            assumed=assumed,
            implied=implied,
        )

    def _with_noises(self, noises: Noises) -> FollowedCalls:
        calls = FollowedCalls(self.port, noises=noises)
        self.follow(calls)
        return calls


@dataclass(frozen=True)
class RunAgain:
    """A run that was compared, and is made again in other ways.

    Attributes:
        run: The run.
        epsilon: The unit of rounding of the port's number format.
        noises: Noises that were not recorded, by name.
    """

    run: RepeatedRun
    epsilon: float
    noises: Noises

    def round(self) -> list[Mapping[ArrayName, np.ndarray]]:
        """Return what the run computes in the port's format, of arrays rounded another way."""
        dtype = "float32" if self.epsilon > SINGLE / 2.0 else "float64"
        found = []
        for seed in range(ROUNDINGS):
            calls = FollowedCalls(self.run.port, dtype, self.epsilon, seed, noises=self.noises)
            self.run.follow(calls)
            found.append(calls.computed)
        return found

    def change(self, change: RunChange, until: ArrayName | None) -> Mapping[ArrayName, np.ndarray]:
        """Return what the run computes with a change, up to an array or to its end."""
        calls = FollowedCalls(
            self.run.port, change=change.changed, until=ends_at(until), noises=self.noises
        )
        with warnings.catch_warnings(action="ignore"):
            return self.run.compute(calls, change)


def _names(port: Trace) -> Iterator[ArrayName]:
    """Yield the arrays of whole calls that were recorded."""
    for entry in port.entries:
        if not entry.layer:
            yield from (ArrayName(entry.name, INPUT, role) for role in entry.inputs)
            yield from (ArrayName(entry.name, OUTPUT, role) for role in entry.outputs)


def is_compared(name: ArrayName, recorded: np.ndarray, computed: np.ndarray) -> bool:
    """Return whether an array says how far a run is from the recorded one.

    Levels do not, nor do complex numbers, nor what is computed of unknown arrays.
    """
    real = recorded.dtype.kind != "c" and name.call.kind != SCHEDULE
    return real and bool(np.isfinite(computed).all())


class RunFollower(TraceObserver):
    """Compares a run with a recorded one at every point, and continues with what was recorded.

    Args:
        calls: The recorded calls.

    Attributes:
        parts: The visits of guidance and of steps.
    """

    recording = RecordedNetworks
    recorder: FollowedCalls

    def __init__(self, calls: FollowedCalls):
        super().__init__(calls, whole=True)
        self.parts = SeenParts()
        self._stepping = False
        self._memory: History = ()  # of the guidance, in this step
        self._left: History = ()  # what its first evaluation leaves

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Return the sampling with steps that continue with what was recorded of them."""
        trajectory = super().started(trajectory)
        take, constrain = trajectory.step, trajectory.constrain
        config = self.model.config
        steps = TakenSteps(self.job, config.scheduler, trajectory.schedule)
        self.parts.steps.append(steps)
        self.parts.timesteps = config.scheduler.num_train_timesteps
        self.parts.tokens = config.count_tokens(*self.job.size)
        self.parts.size = self.job.size
        self._memory = self._left = ()

        def step(
            denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
        ) -> Stepped:
            x = self._exchange(STEP.call, "x", x)
            self._stepping = True
            x_next, x0, after = take(self._seen(denoise), x, interval, history, noise)
            self._stepping = False
            call = self.recorder.next_name(STEP.call)
            seen = [evaluation for evaluation, _ in self.evaluations]
            visit = SteppedVisit(call, take, x, interval, seen, [*self.draws])
            steps.visits.append(visit)
            x0 = self._exchange(STEP.call, "x0", x0, OUTPUT)  # some programs return it as well
            return self._exchange(STEP.call, OUTPUT, x_next, OUTPUT), x0, after

        def kept(x: Array, interval: Interval) -> Array:
            assert constrain is not None
            return self._exchange(STEP.call, OUTPUT, constrain(x, interval), OUTPUT, CONSTRAIN)

        return replace(trajectory, step=step, constrain=None if constrain is None else kept)

    def _seen(self, denoise: Denoiser) -> Denoiser:
        """Return the denoiser of a step, which reads and returns what was recorded."""
        if not isinstance(denoise, GuidedDenoiser):
            return denoise

        def predict(x: Array, *arguments: Any) -> Guided:
            number = len(self.evaluations)
            if number:
                x = self._exchange(STEP.call, numbered_role("x_at", number), x)
            found = denoise.predict(x, *arguments)
            role = numbered_role("x0", number)
            return found._replace(x0=self._exchange(STEP.call, role, found.x0))

        return GuidedDenoiser(predict, denoise.remembers)

    def stepping(self, x: Array, interval: Interval) -> None:
        """Compare a jump, and begin a step, which forgets guidance before a jump."""
        self._memory = () if self.draws else self._left
        super().stepping(x, interval)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Compare a guidance, and keep its visit."""
        inputs = {
            "predictions": {k: np.asarray(x) for k, x in evaluation.outputs.items()},
            "scale": evaluation.scale,
            "sigma": evaluation.sigma,
            "path": self.trajectory.schedule.path,
        }
        if self.job.guidance.remembers:
            inputs["memory"] = self._memory
        visit = Visit(COMBINE, self.job.guidance, inputs)
        if self.job.guidance.remembers and not self.evaluations:
            self._left = visit.memory() or ()
        self.parts.guidances[self.recorder.next_name(COMBINE.call)] = visit
        super().evaluated(evaluation)

    def noise_sampled(self, noise: Array) -> Array:
        """Return the recorded noise of the step, or of the jump before it."""
        kind, role = JUMP, "noise"
        if self._stepping:
            kind, role = STEP.call, numbered_role("noise", len(self.draws))
        name = ArrayName(f"{self.recorder.next_name(kind)}/", INPUT, role)
        if name.tensor_name_in(self.recorder.port) is None and not self._draws_again:
            noise = self.recorder.noise_of(name, np.asarray(noise))
        return super().noise_sampled(self.recorder.exchange(name, noise))

    @property
    def _draws_again(self) -> bool:
        """Whether the run is one of ldmref, whose request says what noise it drew."""
        manifest = self.recorder.port.manifest
        program = manifest.get("program")
        ours = isinstance(program, Mapping) and program.get("name") == "ldmref"
        return ours and "mode" in (manifest.get("params") or {})

    def predicted(self, predictions: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return what was recorded of the predictions."""
        return {name: self._exchange(COMBINE.call, name, x) for name, x in predictions.items()}

    def combined(self, guided: Array) -> Array:
        """Return what was recorded of the guidance, and of what the step was given of it."""
        guided = self._exchange(COMBINE.call, OUTPUT, guided, OUTPUT)
        role = numbered_role("prediction", len(self.evaluations))
        return self._exchange(STEP.call, role, guided) if self._stepping else guided

    def _exchange(
        self, kind: str, role: str, x: Array, side: str = INPUT, layer: str = ""
    ) -> Array:
        """Return what was recorded instead of an array of the next call of a kind."""
        entry = f"{self.recorder.next_name(kind)}/{layer}"
        return self.recorder.exchange(ArrayName(entry, side, role), x)
