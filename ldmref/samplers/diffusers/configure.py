"""The step of a sampler as diffusers' scheduler would be configured.

Errors of its schedulers are reproduced only on request (`bug_compatible`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref.samplers.clipping import clip_predictions, configured_clip
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.diffusers.steps import (
    clip_x0_only,
    constrain_evaluations,
    ddim_targets,
    large_variance,
    lms_by_index,
    plms,
    plms_calls,
    plms_visits,
    step_to,
    wrong_second_difference,
)
from ldmref.samplers.interfaces import Constraint, Interval, Step
from ldmref.samplers.lower_order import limit_order
from ldmref.samplers.sampler import Sampler
from ldmref.samplers.schedule import Schedule
from ldmref.samplers.singlestep import singlestep_orders

LOWER_ORDER_STEPS = 15  # below this number, diffusers' DPM-Solver lowers the order at the end


def diffusers_step(
    config: SchedulerConfig,
    sampler: Sampler,
    schedule: Schedule,
    options: dict[str, Any],
    visits: Sequence[int],
    constrain: Constraint | None,
    bug_compatible: bool,
) -> tuple[Step, Sequence[int]]:
    """Return the step and the indices that it visits.

    Args:
        config, sampler, schedule, constrain, bug_compatible: As in `configure.configured_step`.
        options: Arguments of `sampler.make`.
        visits: Indices that a run from `visits[0]` on would visit.
    """
    sigmas = schedule.sigmas.tolist()
    clips = bool(config.thresholding_ratio or config.clip_sample_range)
    if sampler.name == "pndm":
        step, visits = _pndm(
            config, schedule, visits, constrain if bug_compatible else None, bug_compatible
        )
        return clip_predictions(step, configured_clip(config)) if clips else step, visits
    if sampler.name == "ddpm" and config.variance_type == "fixed_large":
        step = large_variance(schedule.timesteps.tolist())
    elif sampler.name == "lms_euler" and bug_compatible:
        step = lms_by_index(sigmas)
    else:
        step = sampler.make(**options, **make_options(config, sampler, len(schedule.timesteps)))
    if sampler.name == "dpmpp_3m_sde" and bug_compatible:
        step = wrong_second_difference(step)
    if sampler.lower_orders:
        step = limit_order(step, order_limit(config))
    if sampler.name == "ddim":
        step = clip_x0_only(step, configured_clip(config)) if clips else step
        if bug_compatible:
            targets = ddim_targets(schedule.training_sigmas, sigmas, schedule.timesteps.tolist())
            step = step_to(step, targets)
    elif clips:
        step = clip_predictions(step, configured_clip(config))
    if constrain is not None and bug_compatible and sampler.nfe > 1:
        step = constrain_evaluations(step, constrain, visits[0])
    return step, visits


def make_options(config: SchedulerConfig, sampler: Sampler, steps: int) -> dict[str, Any]:
    """Return the arguments of `sampler.make` that a scheduler's configuration sets."""
    configured = {
        "solver": "heun" if config.solver_type == "heun" else "midpoint",
        "variant": config.solver_type if config.solver_type in ("bh1", "bh2") else "bh2",
        "noise_prediction": config.noise_prediction,
        "lower_order_final": config.lower_order_final,
        "disable_corrector": config.disable_corrector,
    }
    options = {name: configured[name] for name in sampler.configurable}
    if sampler.block:
        options["orders"] = singlestep_orders(steps, sampler.block, config.lower_order_final)
    return options


def order_limit(config: SchedulerConfig) -> Callable[[Interval], int]:
    """Return a function of the interval: the highest order of DPM-Solver's multistep methods."""

    def limit(interval: Interval) -> int:
        remaining = interval.n - interval.i  # this step included
        lowers = config.lower_order_final and interval.n < LOWER_ORDER_STEPS
        if remaining == 1 and (lowers or config.euler_at_final):
            return 1
        return 2 if remaining == 2 and lowers else 3

    return limit


def _pndm(
    config: SchedulerConfig,
    schedule: Schedule,
    visits: Sequence[int],
    constrain: Constraint | None,
    bug_compatible: bool,
) -> tuple[Step, Sequence[int]]:
    """Return PNDM; bug compatible, its list of timesteps holds the second one twice."""
    sigmas = schedule.sigmas.tolist()
    table = schedule.training_sigmas
    n = len(schedule.timesteps)
    if not bug_compatible:
        targets = [after for _, after in pairwise(sigmas)]

        def second(interval: Interval) -> tuple[Interval, float] | None:
            last = interval.i == n - 1
            return None if last else (interval, interval.sigma)

        return plms(targets, second, config.prediction_type, constrain), visits

    first = visits[0]
    calls = plms_calls(n, visits[0])
    targets = ddim_targets(table, sigmas, schedule.timesteps.tolist())

    def repeated(interval: Interval) -> tuple[Interval, float] | None:
        if len(calls) == 1:
            return None
        i = calls[1]
        t = round(schedule.timesteps[i]) + len(table) // n
        start = float(np.interp(t, np.arange(len(table)), table))
        return interval._replace(i_next=i, sigma_next=sigmas[i]), start

    return plms(targets, repeated, config.prediction_type, constrain), plms_visits(n, first)
