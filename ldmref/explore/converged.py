"""The converged image of a request: what every deterministic sampler approximates."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import UsageError
from ldmref.explore.distance import vp_distance
from ldmref.explore.flow import Accuracy, FlowProgress, FlowWatch, converge
from ldmref.explore.format import CODE
from ldmref.explore.record import collect_inputs, prepare_one
from ldmref.explore.truth import TOLERANCE, begin, check_accuracy, finish, flow_of
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import CancelFlag, check_callbacks
from ldmref.modes.run import Run
from ldmref.modes.trajectory import Trajectory

INTERVALS = 16  # from the first noise level to the last, evenly spaced in arsinh sigma
MOST_SUBSTEPS = 8
STEPPING = ("sampler", "eta", "steps", "schedule", "sigmas", "strength", "batch_size", "index")


@dataclass(frozen=True, eq=False)
class ConvergedImage:
    """The image at the end of the converged trajectory.

    Args:
        image: The decoded image, finished as the mode does.
        latents: (1, c, h, w) float32, in variance-preserving scale, as `Result.latents`.
        params: The parameters of the request.
        change: The largest change of the end of an interval by its last refinement.
        converged: Whether it is within the tolerance.
        evaluations: Evaluations of the denoiser.

    >>> import ldmref
    >>> from ldmref.explore import converged_image
    >>> model = ldmref.random_model("tiny")
    >>> params = {"prompt": "a cat", "seed": 1, "steps": 4}
    >>> goal = converged_image(model, "txt2img", params)
    >>> goal.latents.shape, goal.distance(goal.latents)
    ((1, 4, 8, 8), 0.0)
    """

    image: Image.Image = field(repr=False)
    latents: np.ndarray = field(repr=False)
    params: dict[str, Any] = field(repr=False)
    change: float
    converged: bool
    evaluations: int

    def distance(self, latents: np.ndarray) -> float:
        """Return the root-mean-square distance of other final latents.

        Args:
            latents: (1, c, h, w), in variance-preserving scale, as `Result.latents`.
        """
        return vp_distance(latents, self.latents, 0.0)


def converged_image(
    model: LatentDiffusion,
    mode: str,
    params: Mapping[str, Any],
    /,
    *,
    tolerance: float = TOLERANCE,
    refine: int = MOST_SUBSTEPS,
    cache: MutableMapping[str, ConvergedImage] | None = None,
    callback: Callable[[FlowProgress], Any] | None = None,
    cancel: CancelFlag | None = None,
) -> ConvergedImage:
    """Return the image that a request converges to with more and more steps.

    It is the end of the probability flow of the guided model from the request's own initial state,
    which the seed gives, to the last noise level of its schedule. Sampler, eta and number of steps
    do not count, except that some schedules begin or end at another level for another number of
    steps; so two samplers, or 10 and 50 steps, of one seed share it. `ldmref.explore.truth`
    describes the flow.

    Args:
        model: The model.
        mode: A mode that samples.
        params: Its parameters, by name; one image.
        tolerance: The largest change of the end of one of 16 intervals by the last doubling of
            its substeps, rms in variance-preserving scale, > 0.
        refine: The largest number of substeps of an interval, from 2 on.
        cache: Images that were computed before, by what they depend on; it gets this one. One
            for each model. None: nothing is kept.
        callback: Called with `step` and `steps`, the evaluations done and planned. None:
            nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised. None: the run cannot
            be cancelled.

    Returns:
        The image, its latents, and whether it has converged.

    Raises:
        UsageError: A parameter is wrong, there are several images, or the run jumps (`resample`).
        Cancelled, NumericError, ResourceError: See `ldmref.errors`.

    >>> import ldmref
    >>> from ldmref.explore import converged_image
    >>> model = ldmref.random_model("tiny")
    >>> converged_image(model, "txt2img", {"prompt": "a cat", "seed": 1}).image.size
    (16, 16)
    """
    check_callbacks(callback, cancel)  # type: ignore[arg-type]
    accuracy = check_accuracy(tolerance, refine)
    run = prepare_one(model, mode, params)
    trajectory = run.trajectory(slice(0, 1))
    if any(j < i for i, j in pairwise(trajectory.visits)):
        raise UsageError("a run that jumps back up (resample) does not converge", code=CODE)
    key = describe_problem(run, trajectory, accuracy) if cache is not None else ""
    if cache is not None and key in cache:
        return cache[key]
    watch = FlowWatch(callback, cancel)
    with run.explaining_memory():
        latents, change = solve_to_the_end(trajectory, accuracy, watch)
    [image] = run.decode(latents)
    found = ConvergedImage(
        image, latents, run.params_of(0), change, change <= accuracy.tolerance, watch.done
    )
    if cache is not None:
        cache[key] = found
    return found


def solve_to_the_end(
    trajectory: Trajectory, accuracy: Accuracy, watch: FlowWatch
) -> tuple[np.ndarray, float]:
    """Return the converged final latents, (1, c, h, w), and the largest change of an interval."""
    ops = trajectory.model.backend
    levels = trajectory.schedule.sigmas
    path = trajectory.schedule.path
    first, last = float(levels[trajectory.visits[0]]), float(levels[trajectory.visits[-1]])
    ends = (math.asinh(path.ratio(first)), math.asinh(path.ratio(last)))
    inner = np.sinh(np.linspace(*ends, INTERVALS + 1))[1:-1]
    sigmas = [first, *map(path.level, inner.tolist()), last]

    def distance(a: Array, b: Array, sigma: float) -> float:
        return vp_distance(ops.to_numpy(a), ops.to_numpy(b), sigma, path)

    with ops.inference():
        x = begin(trajectory, trajectory.x, first)
        flow = flow_of(trajectory, watch)
        solution = converge(flow, x, sigmas, accuracy, distance, watch, path)
        end = finish(trajectory, solution.states[-1], last)
        end = ops.to_numpy(end / path.spread(last))
    return np.array(end, np.float32), max(solution.changes)


def describe_problem(run: Run, trajectory: Trajectory, accuracy: Accuracy) -> str:
    """Return a digest of everything that a converged image depends on, except for the model.

    Two requests share it if they differ only in how they step from the same first level to the same
    last one. A ControlNet that acts in some steps only makes the schedule count.
    """
    params = {name: v for name, v in run.params_of(0).items() if name not in STEPPING}
    levels = trajectory.schedule.sigmas[list(trajectory.visits)].tolist()
    described = [params, levels if run.controls else [levels[0], levels[-1]], *accuracy]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(run.model.backend.to_numpy(trajectory.x)).tobytes())
    for name, value in sorted(collect_inputs(run.plan).items()):
        digest.update(name.encode())
        digest.update(value.tobytes() if hasattr(value, "tobytes") else b"")
    return digest.hexdigest()
