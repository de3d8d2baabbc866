"""The levels and the step of a picture: the sampler as a checkpoint's scheduler configures it.

Where the grid is made as diffusers makes it (`walk.follows_diffusers`), the steps are its, too: the
orders at the end, what is averaged, which noise is added. What its schedulers get wrong is done
only where it is asked for (`exact`): with `rng="torch"`, the same seed gives diffusers' picture.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ldmref.math.arrays import Array
from ldmref.math.schedules import sigma_from_alpha_bar
from ldmref.samplers import get_sampler
from ldmref.samplers.as_diffusers import (
    PlmsPlan,
    clipped_beside_the_noise,
    large_variance,
    lms_in_place,
    misplaced,
    plms,
)
from ldmref.samplers.clipping import clipped, dynamically_thresholded
from ldmref.samplers.grids import sampling_alphas_cumprod
from ldmref.samplers.loop import Denoise, StepFunction
from ldmref.samplers.walk import Walk, follows_diffusers

Constrain = Callable[[Array, float], Array] | None
FEW = 15  # steps below which diffusers' DPM-Solver lowers the order at the end


class Course(NamedTuple):
    """`levels`, decreasing floats; `step`, to be made with the constraint that holds after each of
    its evaluations, or None."""

    levels: list[float]
    step: Callable[[Constrain], StepFunction]


def course(
    config: Any,
    sampler: str,
    schedule: str,
    way: Walk,
    first: int = 0,
    eta: float | None = None,
    exact: bool = False,
) -> Course:
    """What is walked.

    Args:
        config: a `SchedulerConfig`.
        sampler, schedule: names, as for `walk`.
        way: their whole grid.
        first: steps of it that are skipped, as img2img does.
        eta: of samplers that have it; None for their own.
        exact: also what diffusers gets wrong.
    """
    levels, entry = way.sigmas.tolist(), get_sampler(sampler)
    told = {} if eta is None else {"eta": eta}
    clip = _clip(config)
    if not follows_diffusers(config, schedule):
        step = _at_denoiser(entry.make(**told), clip)
        return Course(levels[first:], lambda constrain: step)
    if sampler == "pndm":
        plan = _plms_plan(config, way, first, exact)
        kind = config.prediction_type
        return Course(
            list(plan.levels),
            lambda constrain: _at_denoiser(plms(plan, kind, constrain if exact else None), clip),
        )
    if sampler == "ddpm" and config.variance_type == "fixed_large":
        step = large_variance(way.timestep)
    elif sampler == "lms_euler" and exact:
        step = lms_in_place(levels)
    else:
        options = options_of(config, sampler, levels, exact)
        told |= {name: options[name] for name in entry.options if name in options}
        step = entry.make(**told)
    if sampler == "ddim":
        step = step if clip is None else clipped_beside_the_noise(step, clip)
        step = misplaced(step, _targets(config, way)) if exact else step
    else:
        step = _at_denoiser(step, clip)
    start = levels[first]
    looks = exact and entry.nfe > 1
    return Course(
        levels[first:], lambda constrain: _constrained(step, constrain, start) if looks else step
    )


def options_of(
    config: Any, sampler: str, levels: list[float], exact: bool = False
) -> dict[str, Any]:
    """The arguments of `Sampler.make` that a configuration decides, by name (`Sampler.options`)."""
    n = len(levels) - 1
    index = {sigma: i for i, sigma in reversed(list(enumerate(levels[:-1])))}
    solver, unipc = config.solver_type, sampler.startswith("unipc")

    def order_at(sigma: float) -> int:
        left = n - index.get(sigma, 0)  # this step and those behind it
        if unipc:
            return left if config.lower_order_final else 3
        lowers = config.lower_order_final and n < FEW
        if left == 1:
            return 1 if lowers or config.euler_at_final else 3
        return 2 if left == 2 and lowers else 3

    options: dict[str, Any] = {"order_at": order_at, "flipped": exact}
    if solver in ("bh1", "bh2"):
        options["variant"] = solver
    options["solver"] = solver if solver in ("midpoint", "heun") else "midpoint"
    skipped = {levels[i + 1] for i in config.disable_corrector if 0 <= i < n}
    options |= {"noise_prediction": config.noise_prediction, "uncorrected": skipped.__contains__}
    return options


def _clip(config: Any) -> Callable[[Array], Array] | None:
    if config.thresholding_ratio:
        return dynamically_thresholded(config.thresholding_ratio, config.sample_max_value)
    return clipped(config.clip_sample_range) if config.clip_sample_range else None


def _at_denoiser(step: StepFunction, clip: Callable[[Array], Array] | None) -> StepFunction:
    """`step` with a denoiser whose predictions are clipped."""
    if clip is None:
        return step

    def clipped_step(denoise: Denoise, *rest):
        return step(lambda x, sigma: clip(denoise(x, sigma)), *rest)

    return clipped_step


def _constrained(step: StepFunction, constrain: Constrain, start: float) -> StepFunction:
    """`step` that puts the known part back before each evaluation but the very first."""
    if constrain is None:
        return step

    def constrained_step(denoise: Denoise, *rest):
        def see(x: Array, sigma: float) -> Array:
            return denoise(x if sigma == start else constrain(x, sigma), sigma)

        return step(see, *rest)

    return constrained_step


def _targets(config: Any, way: Walk) -> dict[float, float]:
    """Level -> the level of t - T // n, the last one below timestep 0."""
    table = sigma_from_alpha_bar(sampling_alphas_cumprod(config))
    levels, stride = way.sigmas.tolist(), len(table) // (len(way.sigmas) - 1)
    before = {sigma: round(way.timestep(sigma)) - stride for sigma in levels[:-1]}
    return {s: float(table[t]) if t >= 0 else levels[-1] for s, t in before.items()}


def _plms_plan(config: Any, way: Walk, first: int, exact: bool) -> PlmsPlan:
    """PNDM's calls. Exact: diffusers lists the second timestep twice and img2img cuts the list."""
    levels = way.sigmas.tolist()
    if not exact:
        levels = levels[first:]
        second = {a: (b, a, b) for a, b in pairwise(levels[:-1])}
        return PlmsPlan(levels, dict(pairwise(levels)), second)
    table = sigma_from_alpha_bar(sampling_alphas_cumprod(config))
    targets, stride = _targets(config, way), len(table) // (len(levels) - 1)

    def above(sigma: float) -> float:
        return float(np.interp(round(way.timestep(sigma)) + stride, np.arange(len(table)), table))

    calls = [levels[0], *levels[1:2], *levels[1:-1]] if len(levels) > 2 else levels[:-1]
    calls = calls[first:]
    read = [calls[0], *calls[2:], levels[-1]]
    second = {a: (b, above(b), b) for a, b in pairwise(read[:-1])}
    if len(calls) > 1:
        second[calls[0]] = (calls[1], above(calls[1]), calls[1])
    return PlmsPlan(read, targets, second)
