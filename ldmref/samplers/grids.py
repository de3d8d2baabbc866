"""Grids: the noise levels that a sampler walks, from the training schedule.

A grid is an array of steps + 1 decreasing sigmas. Its name says its spacing; its last value is
named separately, because implementations that agree on the spacing differ there:

| spacing       | timesteps of n steps out of T                             |
|---------------|-----------------------------------------------------------|
| `leading`     | (n-1) (T//n) + offset, ..., T//n + offset, offset          |
| `linspace`    | n points from T-1 to 0                                    |
| `trailing`    | T-1, T-1 - T/n, ... (rounded)                             |
| `karras`      | evenly spaced in sigma^(1/7) over the schedule's range    |
| `exponential` | evenly spaced in log sigma over the schedule's range      |

`final_sigma`: `zero`, or `sigma_min` (the level of timestep 0, where CompVis' DDIM ends).
"""

from __future__ import annotations

import numpy as np

from ldmref.errors import UsageError, did_you_mean
from ldmref.math.schedules import (
    alphas_cumprod,
    cosine_betas,
    exponential_sigmas,
    karras_sigmas,
    linear_betas,
    scaled_linear_betas,
    sigma_from_alpha_bar,
)

SPACINGS = ("leading", "linspace", "trailing", "karras", "exponential")
FINAL_SIGMAS = ("zero", "sigma_min")


def training_alphas_cumprod(config) -> np.ndarray:
    """alpha-bar of every training timestep, (T,) float64; `config` is a `SchedulerConfig`."""
    n, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    betas = {
        "linear": lambda: linear_betas(n, start, end),
        "scaled_linear": lambda: scaled_linear_betas(n, start, end),
        "cosine": lambda: cosine_betas(n),
    }[config.beta_schedule]()
    return alphas_cumprod(betas)


def sampling_alphas_cumprod(config) -> np.ndarray:
    """The part of the training table that samplers use: levels with sigma <= `config.sigma_max`.

    A cosine schedule ends near sigma = 20,000, far beyond the point where anything is left of the
    data; second-order methods take such a step badly.
    """
    alpha_bar = training_alphas_cumprod(config)
    return alpha_bar[sigma_from_alpha_bar(alpha_bar) <= config.sigma_max]


def sigma_grid(
    alpha_bar: np.ndarray, spacing: str, steps: int, final_sigma: str = "zero", offset: int = 0
) -> np.ndarray:
    """The sigmas of `steps` steps, (steps + 1,) float64, strictly decreasing.

    Args:
        alpha_bar: of every training timestep, (T,), decreasing.
        spacing: a name of the table above.
        steps: from 1 to T (1 to 1000 for karras and exponential).
        final_sigma: `zero` or `sigma_min`.
        offset: added to every timestep of `leading` (1 for Stable Diffusion).

    Raises:
        UsageError: an unknown name, or a number of steps for which the grid does not exist.
    """
    if spacing not in SPACINGS:
        raise UsageError(
            f"unknown schedule {spacing!r}", code="E-SCHEDULE", hint=did_you_mean(spacing, SPACINGS)
        )
    if final_sigma not in FINAL_SIGMAS:
        raise UsageError(
            f"unknown final sigma {final_sigma!r}",
            code="E-SCHEDULE",
            hint=did_you_mean(final_sigma, FINAL_SIGMAS),
        )
    total = len(alpha_bar)
    if not 1 <= steps <= total:
        raise UsageError(f"steps must be from 1 to {total}, not {steps}", code="E-STEPS")
    table = sigma_from_alpha_bar(alpha_bar)
    if spacing == "karras":
        sigmas = karras_sigmas(steps, table[0], table[-1])
    elif spacing == "exponential":
        sigmas = exponential_sigmas(steps, table[0], table[-1])
    else:
        sigmas = table[timesteps(spacing, total, steps, offset)]
    final = 0.0 if final_sigma == "zero" or sigmas[-1] <= table[0] else table[0]
    return np.append(sigmas, final)


def timesteps(spacing: str, total: int, steps: int, offset: int = 0) -> np.ndarray:
    """The training timesteps of a grid, (steps,) int64, decreasing."""
    if spacing == "leading":
        stride = total // steps
        offset = min(offset, total - 1 - (steps - 1) * stride)  # never past the table's end
        return np.arange(steps)[::-1] * stride + offset
    if spacing == "linspace":
        return np.rint(np.linspace(total - 1, 0, steps)).astype(np.int64)
    return np.rint(total - np.arange(steps) * (total / steps)).astype(np.int64) - 1
