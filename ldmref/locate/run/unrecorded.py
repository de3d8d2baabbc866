"""What a recording does not say of its run, read from its arrays.

Plain arrays name neither the guidance scale nor the sampler, and a program may have gone on other
levels than those that were asked for. Each is what explains the recorded arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ldmref.locate.normal import NormalDeviation
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName, FollowedCalls, Noises, ends_at
from ldmref.locate.run.levels import SAME_LEVELS, read_levels
from ldmref.locate.run.noises import read_noises
from ldmref.locate.run.repeated import RepeatedRun, is_compared
from ldmref.locate.run.request import ANY_SCALE, RecordedRequest
from ldmref.locate.run.rows import RunComparison
from ldmref.modes.registry import MODES
from ldmref.samplers import SAMPLERS
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.trace.model import Trace

ALIKE = 10.0  # ratio of errors up to which both may be roundings
# The first arrays of guidance that depend on its scale, in the order in which one is taken.
SCALED = (
    (STEP.call, INPUT, "prediction"),
    (COMBINE.call, OUTPUT, OUTPUT),
    (STEP.call, INPUT, "x0"),
    (STEP.call, OUTPUT, OUTPUT),
)
FOUND_SAMPLER = "the sampler was not recorded: the steps are compared with those of {}"


def with_fitted_scale(run: RepeatedRun, request: RecordedRequest) -> RepeatedRun:
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
            calls = FollowedCalls(port, until=ends_at(name), noises=noises)
            made.append(trial.compute(calls).get(name))
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
        calls = FollowedCalls(port, until=ends_at(name), noises=noises)
        run.compute(calls)
        return calls

    implied = read_noises(follow({}), follow)
    return {noise.name: noise.z for key, noise in implied.items() if key != name}


def with_recorded_levels(
    made: RunComparison, run: RepeatedRun, request: RecordedRequest, epsilon: float
) -> RunComparison:
    """Return what is compared of a run that continues with recorded levels.

    They are the ones with which the fewest arrays are wrong, if those are fewer than before, and
    if no array is left out: a run of another length compares less.

    Args:
        made: What is compared with the levels that it was asked for.
        run: The run with these levels.
        request: The recorded request.
        epsilon: The unit of rounding of the port's number format.
    """
    if "sigmas" not in MODES[run.mode].parameters:
        return made
    steps = made.causes.parts.steps
    schedule = steps[0].schedule if steps else None
    found = read_levels(request.port, made.computed, run.model, schedule)
    asked = {name: x for name, x in run.values.items() if name not in ("steps", "schedule")}
    best, wrong = made, _count_wrong(made) if found else 0
    for levels in found:
        continued = replace(run, values={**asked, "sigmas": levels.sigmas})
        taken = continued.compare(epsilon, request.assumed)
        taken = with_found_sampler(taken, continued, request, epsilon)
        if isinstance(taken, str) or made.computed.keys() - taken.computed.keys():
            continue
        if _count_wrong(taken) < wrong:
            wrong = _count_wrong(taken)
            best = replace(taken, levels=made, of_levels=levels)
    return best


def with_found_sampler(
    made: RunComparison | str, run: RepeatedRun, request: RecordedRequest, epsilon: float
) -> RunComparison | str:
    """Return what is compared of a run, with a note of its sampler if that was not recorded.

    It is the one that is nearest to the recorded steps, if that is right: of several, the first. If
    only samplers are right that draw noise, it is the one of the most likely noise. Otherwise it is
    the one that was tried before: Heun's for steps with two predictions, or the model's own.

    Args:
        made: What is compared with the sampler that was tried before.
        run: The run with that sampler.
        request: The recorded request.
        epsilon: The unit of rounding of the port's number format.
    """
    if request.names_sampler or "sampler" not in MODES[run.mode].parameters:
        return made
    tried = run.values.get("sampler", run.model.config.scheduler.sampler)
    found = {tried: made}
    of_step = run.of_scale is not None and run.of_scale.call.kind == STEP.call
    for name in SAMPLERS:
        if name != tried:
            other = replace(run, values={**run.values, "sampler": name})
            other = with_fitted_scale(other, request) if of_step else other
            found[name] = other.compare(epsilon, request.assumed, SAME_LEVELS)
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
    for name, x in found.computed.items():
        got = name.tensor_in(found.port)
        if got is not None and name not in read and is_compared(name, got, x):
            yield relative_error(got, x)
