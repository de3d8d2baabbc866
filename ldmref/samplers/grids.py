"""Grids: the noise levels that a sampler walks, from the training schedule.

A grid is an array of steps + 1 decreasing sigmas. Its name says its spacing; its last value is
named separately, because implementations that agree on the spacing differ there:

| spacing       | timesteps, or levels, of n steps out of T                             |
|---------------|-----------------------------------------------------------------------|
| `leading`     | (n-1) (T//n) + offset, ..., T//n + offset, offset                     |
| `linspace`    | n points from T-1 to 0                                                |
| `trailing`    | T-1, T-1 - T/n, ... (rounded)                                         |
| `karras`      | evenly spaced in sigma^(1/7) over the schedule's range                |
| `exponential` | evenly spaced in log sigma over the schedule's range                  |
| `beta`        | quantiles of Beta(0.6, 0.6) over the timesteps: the paper, ComfyUI    |
| `beta_sigma`  | quantiles of Beta(0.6, 0.6) over the sigmas: diffusers' "beta"        |
| `ays`         | align-your-steps for Stable Diffusion 1.5, interpolated in log sigma  |
| `ays_sdxl`    | the same for SDXL                                                     |

`final_sigma`: `zero`, or `sigma_min` (the level of timestep 0, where CompVis' DDIM ends).

These are this package's grids, with exactly n steps. Where other programs part from them, and in
what, is in `ldmref.samplers.conventions`.
"""

from __future__ import annotations

import numpy as np

from ldmref.errors import UsageError, did_you_mean
from ldmref.math.schedules import (
    alphas_cumprod,
    cosine_betas,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigma_from_alpha_bar,
)
from ldmref.math.sigmas import (
    align_your_steps_timesteps,
    beta_sigmas,
    beta_timesteps,
    exponential_sigmas,
    karras_sigmas,
    log_linear_sigmas,
)

SPACINGS = (
    "leading",
    "linspace",
    "trailing",
    "karras",
    "exponential",
    "beta",
    "beta_sigma",
    "ays",
    "ays_sdxl",
)
FINAL_SIGMAS = ("zero", "sigma_min")
NEARLY_ZERO = 2.0**-24  # alpha-bar at the end of a schedule with zero terminal SNR


def training_alphas_cumprod(config) -> np.ndarray:
    """alpha-bar of every training timestep, (T,) float64; `config` is a `SchedulerConfig`."""
    n, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    made = {
        "linear": lambda: linear_betas(n, start, end),
        "scaled_linear": lambda: scaled_linear_betas(n, start, end),
        "cosine": lambda: cosine_betas(n),
    }
    betas = np.asarray(config.trained_betas or made[config.beta_schedule](), np.float64)
    if not config.rescale_betas_zero_snr:
        return alphas_cumprod(betas)
    alpha_bar = alphas_cumprod(rescale_zero_terminal_snr(betas))
    return np.append(alpha_bar[:-1], NEARLY_ZERO)  # as diffusers: sigma stays finite


def sampling_alphas_cumprod(config) -> np.ndarray:
    """The part of the training table that samplers use: levels with sigma <= `config.sigma_max`.

    A cosine schedule ends near sigma = 20,000, far beyond the point where anything is left of the
    data; second-order methods take such a step badly.
    """
    alpha_bar = training_alphas_cumprod(config)
    return alpha_bar[sigma_from_alpha_bar(alpha_bar) <= config.sigma_max]


def sigma_grid(
    alpha_bar: np.ndarray,
    spacing: str,
    steps: int,
    final_sigma: str = "zero",
    offset: int = 0,
    *,
    convention: str | None = None,
    family: str = "ddim",
) -> np.ndarray:
    """The sigmas of `steps` steps, (steps + 1,) float64, strictly decreasing.

    Args:
        alpha_bar: of every training timestep, (T,), decreasing.
        spacing: a name of the table above.
        steps: from 1 to T.
        final_sigma: `zero` or `sigma_min`.
        offset: added to every timestep of `leading` (1 for Stable Diffusion).
        convention: make the grid as another program does: a name of
            `ldmref.samplers.conventions.CONVENTIONS`. Then `final_sigma` and `offset` are that
            program's, and only spacings that it has are understood.
        family: of samplers, where `convention` has a grid for each: `ddim`, `euler`, `multistep`.

    Raises:
        UsageError: an unknown name, or a number of steps for which the grid does not exist.
    """
    if convention is not None:
        from ldmref.samplers.conventions import convention_grid

        return convention_grid(alpha_bar, steps, convention, spacing, family).sigmas
    check_name("schedule", spacing, SPACINGS)
    check_name("final sigma", final_sigma, FINAL_SIGMAS)
    total = len(alpha_bar)
    check_steps(steps, total)
    table = sigma_from_alpha_bar(alpha_bar)
    if spacing == "karras":
        sigmas = karras_sigmas(steps, table[0], table[-1])
    elif spacing == "exponential":
        sigmas = exponential_sigmas(steps, table[0], table[-1])
    elif spacing == "beta":
        sigmas = sigma_at(table, beta_timesteps(steps, total))
    elif spacing == "beta_sigma":
        sigmas = beta_sigmas(steps, table[0], table[-1])
    elif spacing in ("ays", "ays_sdxl"):
        sigmas = _align_your_steps(table, steps, "sd" if spacing == "ays" else "sdxl")
    else:
        sigmas = table[timesteps(spacing, total, steps, offset)]
    arrived = sigmas[-1] <= table[0] * (1.0 + 1e-9)  # and no step by a rounding error
    final = 0.0 if final_sigma == "zero" or arrived else table[0]
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


def sigma_at(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Sigmas at timesteps that need not be whole: linear interpolation in log sigma."""
    return np.exp(np.interp(t, np.arange(len(table)), np.log(table)))


def check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not among the known ones, with the nearest as a hint."""
    if name not in known:
        raise UsageError(
            f"unknown {what} {name!r}", code="E-SCHEDULE", hint=did_you_mean(name, known)
        )


def check_steps(steps: int, total: int) -> None:
    """Refuse a number of steps that a schedule of `total` timesteps does not offer."""
    if not 1 <= steps <= total:
        raise UsageError(f"steps must be from 1 to {total}, not {steps}", code="E-STEPS")


def _align_your_steps(table: np.ndarray, steps: int, model: str) -> np.ndarray:
    """Ten levels and the table's smallest, carried over to `steps` levels and that smallest."""
    places = align_your_steps_timesteps(model) * ((len(table) - 1) / 999)  # made for T = 1000
    levels = np.append(sigma_at(table, places), table[0])
    return log_linear_sigmas(levels, steps + 1)[:-1]
