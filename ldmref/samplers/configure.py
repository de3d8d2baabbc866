"""The step of a sampler as configured by a checkpoint's scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ldmref.samplers.clipping import clip_predictions, configured_clip
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.diffusers.configure import diffusers_step
from ldmref.samplers.interfaces import Constraint, Step
from ldmref.samplers.lower_order import lower_at_the_end
from ldmref.samplers.path import VE
from ldmref.samplers.ratio import on_ratio
from ldmref.samplers.sampler import Sampler
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
    """Return the step of a sampler and the indices into `schedule.sigmas` that it visits.

    Args:
        config: Configuration of the checkpoint's scheduler.
        sampler: Sampler from `get_sampler`.
        schedule: Schedule from `make_schedule`.
        eta: Strength of the fresh noise, for samplers with `eta`; None: the sampler's default.
        first_step: Number of steps that are skipped, as in img2img.
        constrain: The constraint that `sample` applies after every step. None: none.
        bug_compatible: Whether to reproduce errors of diffusers' schedulers for a schedule of
            diffusers; the same seed then gives diffusers' image.

    Returns:
        (step, visits), both for `sample`.

    >>> from ldmref.samplers import SAMPLERS, SchedulerConfig, configured_step, make_schedule
    >>> config, sampler = SchedulerConfig(), SAMPLERS["dpmpp_2m"]
    >>> schedule = make_schedule(config, sampler, "karras", 10)
    >>> step, visits = configured_step(config, sampler, schedule, first_step=4)
    >>> visits
    range(4, 11)
    """
    visits = range(first_step, len(schedule.sigmas))
    options: dict[str, Any] = {} if eta is None else {"eta": eta}
    if sampler.on_timesteps:
        options["training_sigmas"] = schedule.training_sigmas
    if schedule.convention == "diffusers":
        return diffusers_step(config, sampler, schedule, options, visits, constrain, bug_compatible)
    ends_lower = sampler.block or "lower_order_final" in sampler.configurable
    if config.lower_order_final and (ends_lower or sampler.lower_orders == "always"):
        step = lower_at_the_end(sampler, options, schedule.sigmas.tolist())
    else:
        step = sampler.make(**options)
    if config.thresholding_ratio or config.clip_sample_range:
        step = clip_predictions(step, configured_clip(config))
    if schedule.path is not VE and not sampler.straight:
        step = on_ratio(step)
    return step, visits
