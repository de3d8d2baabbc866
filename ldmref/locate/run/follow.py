"""A recorded run of ldmref is run again, with recorded arrays instead of computed ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ldmref.locate.normal import NormalDeviation
from ldmref.locate.parts.visit import FAILS, Visit
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.run.calls import (
    INPUT,
    OUTPUT,
    SCHEDULE,
    ArrayName,
    ArrayReached,
    FollowedCalls,
    Noises,
    NotFollowed,
)
from ldmref.locate.run.causes import RunCauses
from ldmref.locate.run.changes import UNCHANGED, RunChange, list_changes, list_numbers
from ldmref.locate.run.levels import SAME_LEVELS, RecordedLevels, read_levels
from ldmref.locate.run.networks import RecordedNetworks, exact_backend
from ldmref.locate.run.noises import ImpliedNoise, read_noises
from ldmref.locate.run.request import ANY_SCALE, NO_SCALE, RecordedRequest
from ldmref.locate.run.rows import ROUNDINGS, RunComparison
from ldmref.locate.run.steps import SeenParts, SteppedVisit, TakenSteps
from ldmref.locate.run.views import RunView
from ldmref.math.arrays import Array
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.plan import plan
from ldmref.modes.registry import MODES
from ldmref.modes.request_inputs import CONTROL
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers import SAMPLERS, Interval
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
from ldmref.trace.calls import CONSTRAIN, REQUESTED
from ldmref.trace.model import Trace
from ldmref.trace.observer import TraceObserver, numbered_role

JUMP = "jump"
SHOWN = ("words", "image", REQUESTED, "truth", "low_resolution")  # what was given, or is shown
ALIKE = 10.0  # ratio of errors up to which both may be roundings
# The first arrays of guidance that depend on its scale, in the order in which one is taken.
SCALED = (
    (STEP.call, INPUT, "prediction"),
    (COMBINE.call, OUTPUT, OUTPUT),
    (STEP.call, INPUT, "x0"),
    (STEP.call, OUTPUT, OUTPUT),
)
FOUND_SAMPLER = "the sampler was not recorded: the steps are compared with those of {}"
SINGLE = 2.0**-23  # the unit of rounding of float32, in which states are at least


def follow_run(
    port: Trace,
    model: LatentDiffusion,
    nets: Sequence[ControlNet] = (),
    guide: LatentDiffusion | None = None,
    epsilon: float = SINGLE,
) -> RunComparison | str:
    """Follow a recorded run of ldmref.

    Args:
        port: The recorded run.
        model: The model that ran.
        nets: The ControlNets of the run, in their order.
        guide: The weaker model of autoguidance. None: there is none.
        epsilon: The unit of rounding of the port's number format.

    Returns:
        What was compared, or in words why the run cannot be followed.
    """
    found = _follow(port, model, nets, guide, epsilon)
    return found if isinstance(found, str) else _only_recorded(found)


def follow_view(
    view: RunView, model: LatentDiffusion, epsilon: float = SINGLE
) -> RunComparison | str:
    """Follow a recorded run of another program, under the names of a run of ldmref.

    Args:
        view: The recorded run.
        model: The model that ran, with the scheduler of the run.
        epsilon: The unit of rounding of the port's number format.

    Returns:
        What was compared of the recorded arrays, or in words why the run cannot be followed.
    """
    found = _follow(view.trace(), model, (), None, epsilon)
    return found if isinstance(found, str) else _as_recorded(found, view)


def _only_recorded(found: RunComparison) -> RunComparison:
    """Return what was compared of a run without arrays that were not recorded."""
    port, levels = found.port, found.levels
    recorded = {k: x for k, x in found.computed.items() if k.tensor_name_in(port) is not None}
    levels = None if levels is None else _only_recorded(levels)
    return replace(found, computed=recorded, levels=levels)


def _as_recorded(found: RunComparison, view: RunView) -> RunComparison:
    """Return what was compared of a run, by the names of the recorded arrays."""
    return replace(
        found,
        port=view.port,
        least=view.least,
        assumed=view.assumed | view.as_recorded_names(found.assumed),
        changeable=view.changeable,
        computed=view.as_recorded(found.computed),
        round_again=lambda: [view.as_recorded(run) for run in found.round_again()],
        implied=view.as_recorded_names(found.implied),
        causes=_as_recorded_causes(found.causes, view),
        without_noise=_as_recorded_causes(found.without_noise, view),
        levels=None if found.levels is None else _as_recorded(found.levels, view),
        of_levels=None if found.of_levels is None else _as_read(found.of_levels, view),
    )


def _as_recorded_causes(causes: RunCauses, view: RunView) -> RunCauses:
    """Return what finds causes of arrays by the names of the recorded ones."""
    return replace(causes, port=view.port, as_recorded=view.as_recorded, own_name=view.own_name)


def _as_read(levels: RecordedLevels, view: RunView) -> RecordedLevels:
    """Return levels with the names of the recorded arrays from which they were read."""
    names = view.as_recorded_names(dict.fromkeys(levels.names, ""))
    return levels._replace(names=frozenset(names))


def _follow(
    port: Trace,
    model: LatentDiffusion,
    nets: Sequence[ControlNet],
    guide: LatentDiffusion | None,
    epsilon: float,
) -> RunComparison | str:
    """Return what was compared of a run, or why it cannot be followed."""
    request = RecordedRequest(port, model, nets, guide)
    found = request.read()
    if isinstance(found, str):
        return found
    mode, values = found
    if "batch_size" in MODES[mode].parameters:
        values |= _batch_size(port)
    run = _with_fitted_scale(RepeatedRun(model, nets, mode, values), request)
    made = _compare(run, port, epsilon, request.assumed)
    if not request.names_sampler:
        made = _with_found_sampler(made, run, request, epsilon)
    if isinstance(made, str) or "sigmas" not in MODES[mode].parameters:
        return made
    schedule = made.causes.parts.steps[0].schedule if made.causes.parts.steps else None
    found = read_levels(port, made.computed, model, schedule)
    run = replace(run, values=_unscheduled(run.values))
    return _with_levels(made, run, found, request, epsilon)


def _with_fitted_scale(run: RepeatedRun, request: RecordedRequest) -> RepeatedRun:
    """Return a run with the guidance scale that explains the first recorded array of guidance.

    The guided prediction is linear in the scale, and the first step in the prediction.

    Args:
        run: The run, with any scale if none was recorded; otherwise it is returned as it is.
        request: The recorded request.
    """
    port = request.port
    for kind, side, role in SCALED if request.lacks_scale else ():
        name = ArrayName(f"{kind}.000/", side, role)
        got = name.tensor_in(port)
        if got is None:
            continue
        made = []
        for scale in (ANY_SCALE, ANY_SCALE + 1.0):
            trial = replace(run, values={**run.values, "cfg_scale": scale})
            noises = _noises_before(trial, port, name)
            made.append(trial.compute(FollowedCalls(port, until=name, noises=noises)).get(name))
        first, second = made
        if first is None or second is None or first.shape != got.shape:
            continue
        slope = np.asarray(second - first, np.float64)
        power = float(np.vdot(slope, slope))
        if power and np.isfinite(power):
            fitted = ANY_SCALE + float(np.vdot(slope, got - first)) / power
            return replace(run, values={**run.values, "cfg_scale": fitted}, of_scale=name)
    return run


def _noises_before(run: RepeatedRun, port: Trace, name: ArrayName) -> dict[ArrayName, np.ndarray]:
    """Return the noises that were not recorded, as the arrays before one imply them."""

    def follow(noises: Noises) -> FollowedCalls:
        calls = FollowedCalls(port, until=name, noises=noises)
        run.compute(calls)
        return calls

    implied = read_noises(follow({}), follow)
    return {noise.name: noise.z for key, noise in implied.items() if key != name}


def _unscheduled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request without those that give its levels."""
    return {name: x for name, x in values.items() if name not in ("steps", "schedule")}


def _with_levels(
    made: RunComparison,
    run: RepeatedRun,
    found: Sequence[RecordedLevels],
    request: RecordedRequest,
    epsilon: float,
) -> RunComparison:
    """Return what is compared of a run that continues with recorded levels.

    They are the ones with which the fewest arrays are wrong, if those are fewer than before, and
    if no array is left out: a run of another length compares less.
    """
    best, wrong = made, _count_wrong(made) if found else 0
    for levels in found:
        continued = replace(run, values={**run.values, "sigmas": levels.sigmas})
        taken = _compare(continued, request.port, epsilon, request.assumed)
        if not request.names_sampler:
            taken = _with_found_sampler(taken, continued, request, epsilon)
        if isinstance(taken, str) or made.computed.keys() - taken.computed.keys():
            continue
        if _count_wrong(taken) < wrong:
            wrong = _count_wrong(taken)
            best = replace(taken, levels=made, of_levels=levels)
    return best


def _with_found_sampler(
    made: RunComparison | str, run: RepeatedRun, request: RecordedRequest, epsilon: float
) -> RunComparison | str:
    """Return what is compared of a run with a sampler that was not recorded, and a note of it.

    It is the one that is nearest to the recorded steps, if that is right: of several, the first. If
    only samplers are right that draw noise, it is the one of the most likely noise. Otherwise it is
    the one that was tried before: Heun's for steps with two predictions, or the model's own.

    Args:
        made: What is compared with the sampler that was tried before.
        run: The run with that sampler.
        request: The recorded request.
        epsilon: The unit of rounding of the port's number format.
    """
    if "sampler" not in MODES[run.mode].parameters:
        return made
    tried = run.values.get("sampler", run.model.config.scheduler.sampler)
    found = {tried: made}
    for name in SAMPLERS:
        if name != tried:
            other = replace(run, values={**run.values, "sampler": name})
            other = _with_fitted_scale(other, request)
            found[name] = _compare(other, request.port, epsilon, request.assumed)
    known = {name: x for name, x in found.items() if not isinstance(x, str)}
    fits = {name: _fit(x) for name, x in known.items()}
    least = fits[tried].arrays if tried in fits else 0
    right = {name: fit for name, fit in fits.items() if fit.is_right and fit.arrays >= least}
    most = max((fit.arrays for fit in right.values()), default=0)
    right = {name: fit for name, fit in right.items() if fit.arrays == most}
    exact = {name: fit.error for name, fit in right.items() if not fit.noise}
    near = ALIKE * min(exact.values(), default=0.0)
    fallback = max(right, key=lambda name: right[name].likelihood, default=tried)
    name = next((name for name, error in exact.items() if error <= near), fallback)
    best = found[name]
    return best if isinstance(best, str) else replace(best, notes=[FOUND_SAMPLER.format(name)])


class _Fit(NamedTuple):
    """How well a run with some sampler explains what was recorded.

    Attributes:
        arrays: How many arrays were compared, or say what noise a step drew.
        error: The largest relative error of those that were compared.
        noise: How far the noise of each step is from normal numbers.
        likelihood: The mean log-density of the noise, up to a constant.
    """

    arrays: int
    error: float
    noise: Sequence[NormalDeviation]
    likelihood: float

    @property
    def is_right(self) -> bool:
        """Whether nothing differs."""
        return self.error <= SAME_LEVELS and not any(one.cause for one in self.noise)


def _fit(found: RunComparison) -> _Fit:
    """Return how well a run explains what was recorded."""
    errors = [*_errors(found)]
    noise = [implied.describe() for implied in found.implied.values()]
    densities = [implied.log_density() for implied in found.implied.values()]
    likelihood = float(np.mean(densities)) if densities else 0.0
    return _Fit(len(errors) + len(noise), max(errors, default=0.0), noise, likelihood)


def _count_wrong(found: RunComparison) -> int:
    """Return how many arrays but the levels are clearly others than those of a run."""
    return sum(error > SAME_LEVELS for error in _errors(found))


def _errors(found: RunComparison) -> Iterator[float]:
    """Yield the relative errors of all real arrays that are known.

    Levels, and arrays from which the request or a noise was read, are left out.
    """
    read = found.assumed.keys() | found.implied.keys()
    known = (pair for pair in found.computed.items() if pair[0] not in read)
    others = {name: x for name, x in known if name.call.kind != SCHEDULE and np.isfinite(x).all()}
    pairs = ((name.tensor_in(found.port), x) for name, x in others.items())
    real = ((got, x) for got, x in pairs if got is not None and got.dtype.kind != "c")
    yield from (relative_error(got, x) for got, x in real)


def _compare(
    run: RepeatedRun, port: Trace, epsilon: float, assumed: Mapping[ArrayName, str]
) -> RunComparison | str:
    """Return what is compared of a run that is made again, or why it cannot be."""
    single = "float32" if epsilon > SINGLE / 2.0 else "float64"
    calls = FollowedCalls(port)
    implied: dict[ArrayName, ImpliedNoise] = {}

    def follow(noises: Noises) -> FollowedCalls:
        calls = FollowedCalls(port, noises=noises)
        run.follow(calls)
        return calls

    try:
        parts = unknowing = run.follow(calls).parts
        if calls.lacking:
            implied = read_noises(calls, follow)
            calls = FollowedCalls(port, noises={x.name: x.z for x in implied.values()})
            parts = run.follow(calls).parts
    except NotFollowed as error:
        return str(error)
    except FAILS as error:
        return f"the recorded request cannot be run again: {error}"
    noises = calls.noises

    def round_again() -> list[Mapping[ArrayName, np.ndarray]]:
        roundings = [
            FollowedCalls(port, single, epsilon, seed, noises=noises) for seed in range(ROUNDINGS)
        ]
        for calls in roundings:
            run.follow(calls)
        return [calls.computed for calls in roundings]

    def change_run(change: RunChange, until: ArrayName | None) -> Mapping[ArrayName, np.ndarray]:
        calls = FollowedCalls(port, change=change.changed, until=until, noises=noises)
        with warnings.catch_warnings(action="ignore"):
            return run.compute(calls, change)

    config = run.model.config
    changes = [*list_changes(run.mode, run.values, config, _names(port))]
    numbers = [*list_numbers(run.values, config)]
    causes = RunCauses(port, run.model, parts, changes, numbers, change_run)
    return RunComparison(
        port,
        calls.computed,
        round_again,
        epsilon,
        causes,
        replace(causes, parts=unknowing),
        calls.unknown,
        assumed=assumed if run.of_scale is None else {**assumed, run.of_scale: NO_SCALE},
        implied=implied,
    )


@dataclass(frozen=True)
class RepeatedRun:
    """The run of a recorded request, which can be made again.

    Attributes:
        model: The model that ran.
        nets: The ControlNets of the run, in their order.
        mode: Its mode.
        values: The parameters of its request.
        of_scale: The array from which its guidance scale was read, which then says nothing. None:
            it was read from none.
    """

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


def _names(port: Trace) -> Iterator[ArrayName]:
    """Yield the arrays of whole calls that were recorded."""
    for entry in port.entries:
        if not entry.layer:
            yield from (ArrayName(entry.name, INPUT, role) for role in entry.inputs)
            yield from (ArrayName(entry.name, OUTPUT, role) for role in entry.outputs)


def _batch_size(port: Trace) -> dict[str, int]:
    """Return the parameter of the images that were made together, which no image records."""
    entry = port.find(f"{STEP.call}.000")
    name = None if entry is None else entry.inputs.get("x")
    shape = () if name is None else np.shape(port.tensors[name])
    return {"batch_size": shape[0]} if shape and shape[0] else {}


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
