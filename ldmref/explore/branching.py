"""Branch a run: continue it from one of its steps with another prompt, guidance or sampler.

Steps are pure, so a branch is exact: the trunk is sampled again up to the step, and the branch
continues from its state, its memory and its streams of noise. Without changes it ends in the
trunk's image, bit for bit. A branch is described by its trunk, step and changes, all JSON.
The trunk may be a branch itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.explore.format import CODE, RunRecord
from ldmref.explore.record import Recording, RunWatch, prepare_one, record_prepared, words_of
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import Callback, CancelFlag, Progress, check_callbacks, notify
from ldmref.modes.job import Job
from ldmref.modes.record import (
    CONTROL_IMAGE,
    REFERENCES,
    REPLACED,
    SOURCES,
    compare_models,
    find_missing,
    replay,
    upgrade_record,
)
from ldmref.modes.registry import MODES
from ldmref.modes.run import Plan, Run
from ldmref.modes.start import choose_step
from ldmref.modes.trajectory import SILENT, RunObserver, Trajectory
from ldmref.modes.validation import is_whole
from ldmref.samplers import History, Schedule, get_guidance

CHANGEABLE = """
    prompt negative_prompt cfg_scale guidance sampler eta schedule steps sigmas clip_skip
    prompt_weights long_prompts
""".split()

CLOSE = 1e-6  # relative: noise levels closer than this are the same

MAX_BRANCHES = 100  # one from another


def branch_run(
    model: LatentDiffusion,
    trunk: RunRecord | Mapping[str, Any],
    step: int,
    /,
    *,
    attention: bool = True,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    observer: RunObserver | None = None,
    **changes: object,
) -> RunRecord:
    """Continue a run from its state before a step, with other parameters.

    - The noise levels below that of the state are those of the branch's own schedule; if sampler,
      schedule and number of steps give the trunk's levels, the branch has the same ones.
    - The state and the positions in the streams of noise are the trunk's. A multistep sampler
      keeps its memory of earlier steps, and so does a guidance with momentum, as long as sampler,
      eta and levels (or the guidance) do not change; otherwise it starts anew. A changed prompt
      keeps the memory, as prompts that change during a run do in other programs.

    Args:
        model: The trunk's model.
        trunk: A record; or parameters with `mode`, those of a mode or as an image records them; or
            the description of a branch (`meta["branch"]`).
        step: The number of steps that the branch keeps, from 0 to n - 1.
        attention: Whether to record attention.
        callback: Called after every step, those of the trunk included. None: nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
            None: the run cannot be cancelled.
        observer: Also sees the steps, those of the trunk included, and the image. None: nobody
            does.
        changes: The parameters to change: prompt, negative_prompt, cfg_scale, guidance, sampler,
            eta, schedule, steps, sigmas, clip_skip, prompt_weights, long_prompts.

    Returns:
        The record. Its first `step` + 1 states are the trunk's. Before the branch, the maps of
        words that the trunk's prompt lacks are 0. `meta["branch"]` holds `trunk`, `step` and
        `changes`, from which `branch_run(model, trunk, step, **changes)` repeats it.

    Raises:
        UsageError: A parameter cannot be changed or is wrong, there is no such step, the new
            schedule has no level below the state's, or the trunk jumps (`resample`).
        Cancelled, NumericError, ResourceError: See `ldmref.errors`.

    >>> import ldmref
    >>> from ldmref import explore
    >>> model = ldmref.random_model("tiny")
    >>> trunk = explore.record_run(model, prompt="a red cat", seed=1, steps=4)
    >>> branch = explore.branch_run(model, trunk, 2, prompt="a blue heart")
    >>> bool((branch.x[:3] == trunk.x[:3]).all() and (branch.x[3] != trunk.x[3]).any())
    True
    """
    check_callbacks(callback, cancel)
    watch = RunWatch(attention, callback, cancel, observer or SILENT)
    brancher = Brancher(model, watch)
    recipe: Any = trunk
    inputs: Mapping[str, Any] = {}
    if isinstance(trunk, RunRecord):
        recipe = trunk.meta["branch"] or trunk.params
        inputs = trunk.inputs
    recipe, all_changes = find_trunk(recipe, step, changes)
    branch = brancher.branch(brancher.open(recipe, inputs), step, all_changes)
    warnings = []
    if isinstance(trunk, RunRecord):
        recorded = trunk.params.get("model") or {}
        warnings += compare_models(recorded, model) if recorded.get("sha256") else ()
        warnings += compare_states(trunk, branch.before)
    return record_prepared(
        branch.run,
        branch.before,
        watch,
        branch.recipe,
        warnings,
    )


@dataclass(frozen=True)
class Segment:
    """A run from a step on: the trunk from its start, or a branch from its first own step.

    Args:
        run: The run from the step on, with the parameters of the segment.
        recipe: Its description, JSON-able.
        before: What was recorded of earlier steps; None for a run from its start.
        parent: The segment that it branches from.
    """

    run: Run
    recipe: dict[str, Any]
    before: Recording | None = None
    parent: Segment | None = None

    @property
    def trajectory(self) -> Trajectory:
        """The trajectory from the step on."""
        return self.run.trajectory(slice(0, 1))

    @property
    def done(self) -> int:
        """The number of steps before the segment."""
        return 0 if self.before is None else self.before.done


class Brancher:
    """Samples trunks up to the steps at which their branches begin."""

    def __init__(
        self,
        model: LatentDiffusion,
        watch: RunWatch,
    ):
        self.model = model
        self.watch = watch

    def open(self, recipe: object, inputs: Mapping[str, Any]) -> Segment:
        """Return the segment of a description: parameters, or a trunk, a step and changes.

        Raises:
            UsageError: It is none, or a branch of too many branches.
        """
        require_depth(recipe)
        if not isinstance(recipe, Mapping):
            raise UsageError(
                f"the trunk of a branch must be a record or parameters, not {short_repr(recipe)}",
                code=CODE,
                hint='explore.record_run(model, ...), or {"mode": "txt2img", "prompt": ...}',
            )
        if "trunk" in recipe:
            trunk = self.open(recipe["trunk"], inputs)
            return self.branch(trunk, recipe.get("step"), changes_of(recipe))
        parameters = read_trunk(recipe, inputs)
        run = prepare_one(self.model, parameters.pop("mode", "txt2img"), parameters)
        trajectory = run.trajectory(slice(0, 1))
        if any(j < i for i, j in pairwise(trajectory.visits)):
            message = "a run that jumps back up (resample) cannot be branched"
            raise UsageError(message, code=CODE, hint="record it without resample")
        return Segment(replace(run, rest=trajectory), run.params_of(0))

    def branch(self, trunk: Segment, step: Any, changes: Mapping[str, Any]) -> Segment:
        """Sample a segment up to a step and return the branch from there."""
        steps = trunk.done + trunk.trajectory.steps
        if not is_whole(step) or not 0 <= step < steps:
            raise UsageError(
                f"the step of a branch must be from 0 to {steps - 1}, not {short_repr(step)}",
                code=CODE,
                hint=f"the trunk has {steps} steps; a branch keeps at most all but the last",
            )
        for name in changes:
            if name not in CHANGEABLE:
                hint = did_you_mean(name, CHANGEABLE)
                raise UsageError(f"a branch cannot change {name!r}", code=CODE, hint=hint)
        k = int(step) - trunk.done
        run = prepare_one(self.model, trunk.run.job.mode, parameters_of(trunk.run.plan, changes))
        schedule = remaining_schedule(trunk.trajectory, k, run.job, self.model)
        before, x, history = self._sample(trunk, k)
        trajectory = continue_trajectory(
            trunk.trajectory, trunk.run.job, k, run, schedule, x, history
        )
        params = run.params_of(0)
        resolved = {name: params.get(name) for name in changes}
        if "guidance" in changes:
            resolved["guidance"] = run.job.guidance.record
        recipe = {"trunk": trunk.recipe, "step": int(step), "changes": resolved}
        return Segment(replace(run, rest=trajectory), recipe, before, trunk)

    def _sample(self, trunk: Segment, k: int) -> tuple[Recording, Array, History]:
        """Take the first k steps of a segment; return what was recorded, the state and memory."""
        watch = self.watch
        words = words_of(trunk.run) if watch.attention else []
        recording = Recording(trunk.run, words, trunk.before)
        if k == 0:  # no step is taken, and the schedule is recorded
            trajectory = recording.started(watch.observer.started(trunk.trajectory))
            return recording, trajectory.x, trajectory.history
        state = None
        # The generator does not end, but has the levels ahead, which some steps read.
        for event in islice(recording.generate(watch.cancel, watch.observer), k):
            assert isinstance(event, Progress)
            state = event.state
            if watch.callback is not None:
                notify(watch.callback, event)
        assert state is not None
        return recording, state.x, state.history


def open_record(
    model: LatentDiffusion, record: RunRecord, cancel: CancelFlag | None = None
) -> list[Segment]:
    """Return the segments of a recorded run: the trunk, then its branches.

    Raises:
        UsageError: The record is something else.
    """
    if not isinstance(record, RunRecord):
        message = f"the run must be a RunRecord, not {short_repr(record)}"
        raise UsageError(message, code=CODE, hint="explore.record_run(model, ...) makes one")
    recipe = record.meta["branch"] or record.params
    brancher = Brancher(model, RunWatch(False, None, cancel))
    segment: Segment | None = brancher.open(recipe, record.inputs)
    segments = []
    while segment is not None:
        segments.append(segment)
        segment = segment.parent
    return segments[::-1]


def parameters_of(planned: Plan, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a plan with changes, and everything that the plan was given."""
    names = (*SOURCES, "control", CONTROL_IMAGE, REFERENCES, "guide")
    inputs = {name: getattr(planned.request, name, None) for name in names}
    inputs |= {"latents": planned.job.latents} | dict(planned.job.embeddings or {})
    needed = {name: value for name, value in inputs.items() if value is not None and value != ()}
    if "guidance" in changes and not get_guidance(changes["guidance"] or "cfg").by_guide:
        needed.pop("guide", None)
    return replay(upgrade_record(planned.params), {**needed, **changes})


def compare_states(record: RunRecord, before: Recording | None) -> list[str]:
    """Return a warning if a trunk was recorded with other numbers than it has here."""
    if before is None:
        return []
    states = np.stack(before.states)
    recorded = record.x[: len(states)]
    if np.array_equal(states, recorded):
        return []
    if states.shape != recorded.shape:
        return ["the recorded trunk has latents of another size"]
    sigmas = record.sigmas[: len(states)]
    scale = np.hypot(record.path.alpha(sigmas), sigmas)[:, None, None, None]
    difference = np.abs((states - recorded) / scale).max()
    return [
        f"the trunk's states differ from the recorded ones by up to {difference:.1g}: it was "
        "recorded on another machine, backend or version"
    ]


def remaining_schedule(
    trunk: Trajectory, k: int, job: Job, model: LatentDiffusion
) -> Schedule | None:
    """Return the noise levels of a branch from the state before step k; None: the trunk's.

    They are the state's own level and those of the new schedule that are lower.

    Raises:
        UsageError: None is lower.
    """
    old = trunk.schedule
    new = job.make_schedule(model.config)
    if np.array_equal(new.sigmas, old.sigmas) and np.array_equal(new.timesteps, old.timesteps):
        return None
    i = trunk.visits[k]
    sigma = old.sigmas[i]
    below = new.sigmas < sigma * (1.0 - CLOSE)
    if not below.any():
        raise UsageError(
            f"the new schedule ends at sigma {new.sigmas[-1]:.4g}, and the state before the step "
            f"is at {sigma:.4g}",
            code=CODE,
            hint="branch at an earlier step, or keep the schedule",
        )
    return new._replace(
        sigmas=np.append(sigma, new.sigmas[below]),
        timesteps=np.append(old.timesteps[i], new.timesteps[below[:-1]]),
    )


def continue_trajectory(
    trunk: Trajectory,
    old: Job,
    k: int,
    run: Run,
    schedule: Schedule | None,
    x: Array,
    history: History,
) -> Trajectory:
    """Return the trajectory of a branch from step k of a trajectory.

    Args:
        trunk: The trajectory that the branch leaves.
        old: Its job.
        k: Number of its steps before the branch.
        run: The run of the branch.
        schedule: The noise levels of the branch; None: the trunk's.
        x, history: The state before step k, and the memory of the steps before.
    """
    job = run.job
    same_sampler = (job.sampler, job.eta) == (old.sampler, old.eta)
    visits: Sequence[int] = trunk.visits[k:]
    controls = trunk.controls
    if schedule is None:
        step, all_visits = choose_step(run.model, job, trunk.schedule, trunk.constrain)
        if not same_sampler:
            visits = [i for i in all_visits if i >= visits[0]]
    else:
        step, visits = choose_step(run.model, job, schedule, trunk.constrain, first_step=0)
        steps = range(-k, len(visits))  # a ControlNet acts in a part of all steps
        controls = [control.within(steps) for control in trunk.controls]
    memory: History = ()
    own = history
    if old.guidance.remembers and history:
        own, memory = history
    own = own if same_sampler and schedule is None else ()
    memory = memory if job.guidance == old.guidance else ()
    return replace(
        trunk,
        schedule=schedule or trunk.schedule,
        step=step,
        visits=visits,
        x=x,
        conditionings=run.conditionings(slice(0, 1)),
        cfg_scale=job.cfg_scale,
        guidance=job.guidance,
        controls=controls,
        history=(own, memory) if job.guidance.remembers else own,
        guide=None if run.guide is None else run.guide.model,
    )


def find_trunk(
    recipe: object, step: Any, changes: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """Return the trunk of a step, and the changes from there.

    The steps of a branch before its own belong to its trunk; a branch from one of them also has
    the changes of the first branch.

    Raises:
        UsageError: It branches from branches more than 100 times, or from itself.
    """
    require_depth(recipe)
    while isinstance(recipe, Mapping) and "trunk" in recipe:
        first = recipe.get("step")
        if not (is_whole(step) and is_whole(first) and step < first):
            break
        gone = {*changes}.union(*(REPLACED.get(name, ()) for name in changes))
        earlier = changes_of(recipe)
        changes = {name: v for name, v in earlier.items() if name not in gone} | dict(changes)
        recipe = recipe["trunk"]
    return recipe, changes


def require_depth(recipe: object) -> None:
    """Refuse a branch of too many branches, or of itself; each is sampled within the next.

    Raises:
        UsageError: There are more than 100.
    """
    for _ in range(MAX_BRANCHES + 1):
        if not isinstance(recipe, Mapping) or "trunk" not in recipe:
            return
        recipe = recipe["trunk"]
    message = f"a branch of more than {MAX_BRANCHES} branches cannot be sampled"
    raise UsageError(message, code=CODE, hint="branch from the trunk")


def changes_of(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the changes of a described branch.

    Raises:
        UsageError: They are not parameters by name.
    """
    changes = recipe.get("changes") or {}
    if not isinstance(changes, Mapping):
        message = f"the changes of a branch must be parameters, not {short_repr(changes)}"
        raise UsageError(message, code=CODE)
    return changes


def read_trunk(recipe: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a trunk with its mode, from what was asked for or recorded.

    Raises:
        UsageError: The record lacks what the run was given, such as an image.
    """
    if "ldmref" not in recipe:  # as asked for
        return {**recipe, **inputs}
    record = upgrade_record(recipe)
    if record.get("mode") not in list(MODES):
        message = f"the trunk of a branch has no mode {short_repr(record.get('mode'))}"
        raise UsageError(message, code=CODE, hint=did_you_mean("", MODES))
    images = {name: recipe[name] for name in SOURCES if recipe.get(name) is not None}
    supplied = {**images, **inputs}
    missing = find_missing(record, supplied)
    if missing:
        raise UsageError(
            f"the trunk was made with {missing[0]!r}, which its record does not hold",
            code=CODE,
            hint="give the parameters of the trunk with all that it needs instead of its record",
        )
    return replay(record, supplied) | {"mode": record["mode"]}
