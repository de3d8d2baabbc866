r"""The truth line: how far a run is from the converged trajectory, and the error of each step.

The *converged trajectory* starts at the run's initial state and follows the probability flow of the
same guided model through the same noise levels, solved until it no longer changes
(`ldmref.explore.flow`). With x_i the states of the run, x*_i those of the converged trajectory, and
Phi the exact flow,

.. math:: d_i = \mathrm{rms}_i(x_i - x^*_i), \qquad
          e_i = \mathrm{rms}_{i+1}\left(x_{i+1} - \Phi_{\sigma_i \to \sigma_{i+1}}(x_i)\right)

.. math:: \mathrm{rms}_i(y) = \sqrt{\frac{\lVert y \rVert^2}{N (1 + \sigma_i^2)}}

d is the distance so far, and e the local error: of one step alone, solved again finely from the
state in which the step began. A sampler that adds noise goes to another sample on purpose: d then
says how far away that is, and e is mostly the fresh noise, and neither is an error.

The flow sees the model at every noise level with the timestep that is linear in log sigma, without
the memory of a guidance with momentum. With known parts (inpainting), these follow the noise of the
run, known + sigma eps, and the rest flows. A branch has the flow of its trunk up to its step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.explore.branching import open_record
from ldmref.explore.distance import Truth, vp_distance
from ldmref.explore.flow import (
    Accuracy,
    Denoise,
    FlowProgress,
    FlowWatch,
    converge,
    solve_interval,
)
from ldmref.explore.format import CODE, RunRecord
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import CancelFlag, check_callbacks, on_backend
from ldmref.modes.trajectory import RunObserver, Trajectory
from ldmref.modes.validation import check_integer, check_number
from ldmref.samplers import Interval

TOLERANCE = 0.001  # rms in variance-preserving scale; latents have a variance of about 1
MOST_SUBSTEPS = 8


def truth_line(
    model: LatentDiffusion,
    record: RunRecord,
    *,
    tolerance: float = TOLERANCE,
    refine: int = MOST_SUBSTEPS,
    callback: Callable[[FlowProgress], Any] | None = None,
    cancel: CancelFlag | None = None,
) -> Truth:
    """Return the distance of a run from the converged trajectory, and the error of each step.

    Every interval of the run is solved with 1, 2, 4, ... substeps of three evaluations until the
    last doubling changes its end by at most `tolerance`; then each step is solved again from its
    own state. It takes about 20 times as long as a run with one evaluation per step.

    Args:
        model: The model of the run.
        record: The run, or a branch.
        tolerance: The largest change of the end of an interval by the last doubling, rms in
            variance-preserving scale, > 0.
        refine: The largest number of substeps of an interval, from 2 on; `Truth.converged` says
            whether it was enough.
        callback: Called with `step` and `steps`, the evaluations done and planned. None:
            nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised. None: the run cannot
            be cancelled.

    Returns:
        The converged states, the distances and the errors of the steps.

    Raises:
        UsageError: An argument is wrong, the run jumps (`resample`), or the record lacks what the
            run was given.
        Cancelled: `cancel` was set.

    >>> import ldmref
    >>> from ldmref import explore
    >>> model = ldmref.random_model("tiny")
    >>> record = explore.record_run(model, prompt="a red cat", seed=1, steps=3)
    >>> truth = explore.truth_line(model, record, tolerance=0.5)
    >>> truth.distance.shape, truth.local_error.shape, float(truth.distance[0])
    ((4,), (3,), 0.0)
    """
    check_callbacks(callback, cancel)  # type: ignore[arg-type]
    accuracy = check_accuracy(tolerance, refine)
    segments = open_record(model, record, cancel)
    if (np.diff(record.sigmas) > 0.0).any():
        message = "the noise levels of the record rise, unlike those of its run"
        raise UsageError(message, code=CODE, hint="record the run again")
    watch = FlowWatch(callback, cancel)
    solver = TruthSolver(model, record, accuracy, watch)
    ends = [*(segment.done for segment in segments[1:]), record.steps]
    for segment, end in zip(segments, ends, strict=True):
        solver.solve(segment.trajectory, segment.done, end)
    jobs = [segment.run.job for segment in segments]
    return solver.finish({"stochastic": any(job.sampler.draws_noise(job.eta) for job in jobs)})


def check_accuracy(tolerance: float, refine: int) -> Accuracy:
    """Return the tolerance and the largest number of substeps, if they are in their ranges."""
    return Accuracy(
        check_number("tolerance", tolerance, 1e-9, 1e3), check_integer("refine", refine, 2, 1024)
    )


class TruthSolver:
    """Solves a run piece by piece; each piece has one flow.

    Args:
        model: The model of the run.
        record: The run.
        accuracy: When an interval is solved.
        watch: The observer of the evaluations.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        record: RunRecord,
        accuracy: Accuracy,
        watch: FlowWatch,
    ):
        self.ops = model.backend
        self.record = record
        self.path = record.path
        self.accuracy = accuracy
        self.watch = watch
        self.states = [record.x[0]]
        self.local_error: list[float] = []
        self.changes: list[float] = []
        self.substeps: list[int] = []

    def solve(self, trajectory: Trajectory, first: int, end: int) -> None:
        """Solve the steps from `first` to before `end`, which are those of the trajectory."""
        sigmas = self.record.sigmas[first : end + 1].tolist()
        denoise = flow_of(trajectory, self.watch)
        x = begin(trajectory, on_backend(self.ops, self.states[-1][None]), sigmas[0])
        with self.ops.inference():
            solution = converge(
                denoise,
                x,
                sigmas,
                self.accuracy,
                self._distance,
                self.watch,
                self.path,
            )
            *inner, last = solution.states[1:]
            if end == self.record.steps:
                last = finish(trajectory, last, sigmas[-1])
            self.states += [self._to_host(state) for state in (*inner, last)]
            self.changes += solution.changes
            self.substeps += solution.substeps
            self._solve_steps(trajectory, denoise, first, solution.substeps)

    def _solve_steps(
        self, trajectory: Trajectory, denoise: Denoise, first: int, substeps: Sequence[int]
    ) -> None:
        """Solve each step again from the state in which it began."""
        self.watch.plan(sum(substeps))
        for i, count in enumerate(substeps, first):
            sigma, sigma_next = self.record.sigmas[i : i + 2].tolist()
            x = begin(trajectory, on_backend(self.ops, self.record.x[i][None]), sigma)
            exact = solve_interval(denoise, x, sigma, sigma_next, count, self.path)
            if i + 1 == self.record.steps:
                exact = finish(trajectory, exact, sigma_next)
            error = vp_distance(self.record.x[i + 1], self._to_host(exact), sigma_next, self.path)
            self.local_error.append(error)

    def finish(self, more: Mapping[str, Any]) -> Truth:
        """Return the result, with more entries of its description."""
        distance = [
            vp_distance(x, true, sigma, self.path)
            for x, true, sigma in zip(self.record.x, self.states, self.record.sigmas, strict=True)
        ]
        change = max(self.changes)
        description = {
            "change": change,
            "total_change": sum(self.changes),
            "tolerance": self.accuracy.tolerance,
            "converged": change <= self.accuracy.tolerance,
            "substeps": self.substeps,
            "evaluations": self.watch.done,
        }
        errors = np.asarray(self.local_error, np.float64)
        return Truth(np.stack(self.states), np.asarray(distance), errors, description | dict(more))

    def _to_host(self, x: Array) -> np.ndarray:
        return np.array(self.ops.to_numpy(x), np.float32)[0]

    def _distance(self, a: Array, b: Array, sigma: float) -> float:
        return vp_distance(self._to_host(a), self._to_host(b), sigma, self.path)


def flow_of(trajectory: Trajectory, observer: RunObserver) -> Denoise:
    """Return the denoiser whose probability flow a trajectory approximates.

    Args:
        trajectory: The trajectory.
        observer: Sees every evaluation.
    """
    guided = trajectory.denoiser(observer)
    sigmas = trajectory.schedule.sigmas
    visits = [*trajectory.visits]
    constrain = trajectory.constrain
    path = trajectory.schedule.path

    def denoise(x: Array, sigma: float) -> Array:
        level = max((i for i in visits[:-1] if sigmas[i] >= sigma), default=visits[0])
        # the level counts for ControlNets that act in some steps only; sigma is at neither end,
        # where the sampler may have rounded timesteps
        interval = Interval(level, level + 1, len(sigmas) - 1, math.inf, -1.0, path=path)
        x0 = guided.guided(x, sigma, interval=interval).x0
        if constrain is None:
            return x0
        return constrain(x0, Interval(0, 1, 1, sigma, 0.0, path=path))

    return denoise


def begin(trajectory: Trajectory, x: Array, sigma: float) -> Array:
    """Return a state with its known part, if there is one, at its noise level."""
    return (
        x
        if trajectory.constrain is None
        else trajectory.constrain(x, Interval(0, 0, 1, sigma, sigma, path=trajectory.schedule.path))
    )


def finish(trajectory: Trajectory, x: Array, sigma: float) -> Array:
    """Return the last state with its known part, if there is one, without noise, as samplers do."""
    return (
        x
        if trajectory.constrain is None
        else trajectory.constrain(x, Interval(0, 1, 1, sigma, sigma, path=trajectory.schedule.path))
    )
