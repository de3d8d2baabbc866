"""The rest of a trajectory with other parameters, from one of its states on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldmref.errors import UsageError
from ldmref.explore.format import CODE
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.job import Job
from ldmref.modes.run import Run
from ldmref.modes.start import choose_step
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers import History, Schedule

CLOSE = 1e-6  # relative: noise levels closer than this are the same


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
