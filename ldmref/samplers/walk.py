"""The way of one picture through the noise levels: its grid, its timesteps, its start."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ldmref.math.schedules import sigma_from_alpha_bar
from ldmref.samplers import get_sampler
from ldmref.samplers.conventions import diffusers_grid
from ldmref.samplers.denoiser import Timesteps
from ldmref.samplers.grids import sampling_alphas_cumprod, sigma_grid
from ldmref.samplers.single import single_sigmas

CONTINUOUS = ("karras", "exponential", "beta_sigma")


class Walk(NamedTuple):
    """`sigmas`, (n + 1,) float64, decreasing; `timestep(sigma)`, what the network is told there;
    `start`: the standard deviation of the first state, where nothing else is known."""

    sigmas: np.ndarray
    timestep: Callable[[float], float]
    start: float


def follows_diffusers(config: Any, schedule: str) -> bool:
    """Whether the walk of that schedule is made as diffusers makes it."""
    theirs = ("leading", "linspace", "trailing", *CONTINUOUS)
    return config.convention == "diffusers" and schedule in theirs


def walk(config: Any, sampler: str, schedule: str, steps: int) -> Walk:
    """The way that a checkpoint's scheduler prescribes, or one of ours by another name.

    Args:
        config: a `SchedulerConfig`. With its convention "diffusers", the spacings that diffusers
            has are made as diffusers makes them for this sampler.
        sampler, schedule: names in `SAMPLERS` and `grids.SPACINGS`.
        steps: from 1 to the number of training timesteps.
    """
    alpha_bar = sampling_alphas_cumprod(config)
    between = Timesteps(alpha_bar)
    if not follows_diffusers(config, schedule):
        sigmas = sigma_grid(alpha_bar, schedule, steps, config.final_sigma, config.steps_offset)
        return Walk(sigmas, between, math.hypot(1.0, sigmas[0]))
    table, family = sigma_from_alpha_bar(alpha_bar), get_sampler(sampler).family
    continuous = schedule if schedule in CONTINUOUS and family != "ddim" else ""
    spacing = config.timestep_spacing if schedule in CONTINUOUS else schedule
    # the classes of DDIM and PNDM have an option of their own for the end, DDPM always ends at 0
    final = config.final_alpha if family == "ddim" else config.final_sigma
    lowest = table[0] if final == "sigma_min" and sampler != "ddpm" else 0.0
    grid = diffusers_grid(
        table,
        steps,
        family,
        spacing,
        config.steps_offset,
        lowest,
        continuous,
        config.timestep_rounding,
        single_sigmas(config) if continuous and family == "multistep" else None,
    )
    told = dict(zip(grid.sigmas[:-1].tolist(), grid.timesteps.tolist(), strict=True))
    first = float(grid.sigmas[0])
    scaled = family == "euler" and spacing in ("linspace", "trailing")
    return Walk(
        grid.sigmas,
        lambda sigma: told[sigma] if sigma in told else between(sigma),
        first if scaled else math.hypot(1.0, first),
    )
