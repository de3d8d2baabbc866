"""The step function of a sampler as a checkpoint's scheduler configures it."""

from __future__ import annotations

from collections.abc import Sequence

from ldmref.samplers.clipping import clip_of, clip_predictions
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.diffusers.configure import diffusers_step
from ldmref.samplers.loop import Constraint, Step
from ldmref.samplers.lower_order import lower_at_the_end
from ldmref.samplers.registry import Sampler
from ldmref.samplers.schedule import Schedule


def configured_step(
    config: SchedulerConfig,
    sampler: Sampler,
    schedule: Schedule,
    *,
    eta: float | None = None,
    first_step: int = 0,
    constrain: Constraint | None = None,
    bug_compatible: bool = False,
) -> tuple[Step, Sequence[int]]:
    """The step, and the indices into `schedule.sigmas` that it visits from `first_step` on.

    Args:
        config: of the checkpoint's scheduler.
        sampler, schedule: from `get_sampler` and `make_schedule`.
        eta: for samplers that have it; None for their own.
        first_step: steps that are skipped, as in img2img.
        constrain: what `sample` applies after every step.
        bug_compatible: where the schedule is diffusers', also what its schedulers get wrong, so
            that the same seed gives diffusers' image.
    """
    visits = range(first_step, len(schedule.sigmas))
    options = {} if eta is None else {"eta": eta}
    if schedule.convention == "diffusers":
        return diffusers_step(config, sampler, schedule, options, visits, constrain, bug_compatible)
    if config.lower_order_final:
        step = lower_at_the_end(sampler, options, schedule.sigmas.tolist())
    else:
        step = sampler.make(**options)
    if config.thresholding_ratio or config.clip_sample_range:
        step = clip_predictions(step, clip_of(config))
    return step, visits
