"""The sigmas and timesteps of diffusers' schedulers, number for number.

| family      | classes                                                                    |
|-------------|----------------------------------------------------------------------------|
| `ddim`      | DDIM, DDPM, LCM, TCD, PNDM without its repeated timestep: n whole timesteps     |
| `euler`     | Euler, EulerAncestral, LMS, Heun, DPM2, DPMSolverSDE: n timesteps,         |
|             | `linspace` not rounded, sigma linear between the table's                   |
| `multistep` | DPMSolverMultistep, DPMSolverSinglestep, DEIS, UniPC: of n + 1 whole       |
|             | timesteps all but the last                                                 |

Source: diffusers 0.42.1, `schedulers/*.py`, `set_timesteps`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ldmref.errors import UsageError
from ldmref.math.schedules import cosine_betas
from ldmref.math.sigmas import beta_sigmas, exponential_sigmas, karras_sigmas
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.sampler import Sampler

WHOLE = ("leading", "linspace", "trailing", "lcm")  # spacings of whole timesteps
CONTINUOUS = {
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "beta_sigma": beta_sigmas,
}
SPACINGS = (*WHOLE, *CONTINUOUS)
ENDS_OPTIONALLY = ("ddim", "ddim_cfgpp", "pndm", "euler", "euler_cfgpp")  # as all multistep do
DEIS = ("deis", "deis_3", "deis_3_euler")
ENDS_ABOVE = (*DEIS, "tcd")  # always end with the sigma of timestep 0
UNIPC = ("unipc_1", "unipc", "unipc_3")
REPEATS = (*DEIS, *UNIPC)  # repeat the last of continuous sigmas instead
KDPM2 = ("dpm_solver_2", "dpm_solver_2_a")  # round the timesteps of Karras' sigmas


def lcm_timesteps(total: int, steps: int, original: int = 50) -> np.ndarray:
    """Return the timesteps of latent consistency models, (steps,) int64, decreasing.

    They are evenly spaced, starting from the last, among the timesteps k - 1, 2 k - 1, ... with
    k = total // original on which the model was distilled.

    Args:
        total: Number of training timesteps.
        steps: Number of steps, from 1 to `original`.
        original: Number of timesteps of the distillation, from 1 to `total`.

    Raises:
        UsageError: There are more steps than timesteps of the distillation.

    >>> lcm_timesteps(1000, 4).tolist()
    [999, 759, 499, 259]
    """
    if steps > original:
        message = f"spacing 'lcm' has at most {original} steps, not {steps}"
        raise UsageError(message, code="E-STEPS", hint="take fewer steps, or another schedule")
    distilled = (np.arange(original)[::-1] + 1) * (total // original) - 1
    return distilled[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)]


class Grid(NamedTuple):
    """`sigmas`, (n + 1,) float64; `timesteps`, (n,) float64; `init_noise_sigma`."""

    sigmas: np.ndarray
    timesteps: np.ndarray
    init_noise_sigma: float


def diffusers_sigmas(
    config: SchedulerConfig, table: np.ndarray, sampler: Sampler, spacing: str, steps: int
) -> Grid:
    """Return the sigmas and timesteps of diffusers' scheduler for a sampler.

    Args:
        config: Configuration of the scheduler.
        table: Sigmas of every training timestep, (T,), increasing.
        sampler: Sampler, whose `family` decides.
        spacing: A name in `WHOLE` or in `CONTINUOUS` (`use_karras_sigmas`, ...). A continuous
            spacing begins and ends with the sigmas of `config.timestep_spacing` in family `euler`
            (of the table with `config.full_range`), with the sigmas of the table in `multistep`,
            and does not exist in `ddim`.
        steps: Number of steps, from 1 to T.

    Raises:
        UsageError: The timesteps leave the table.
    """
    family = sampler.family
    # DDIM and PNDM have a separate option for the end; of the other schedulers, only the multistep
    # methods and Euler have one, and the rest end at 0
    final = config.final_alpha if family == "ddim" else config.final_sigma
    optional = family == "multistep" or sampler.name in ENDS_OPTIONALLY
    ends_above = sampler.name in ENDS_ABOVE or (final == "sigma_min" and optional)
    whole = config.timestep_spacing if spacing in CONTINUOUS else spacing
    if whole == "lcm":
        t = lcm_timesteps(len(table), steps, config.original_inference_steps).astype(np.float64)
    else:
        t = _timesteps(len(table), steps, family, whole, config.steps_offset)
    if spacing in CONTINUOUS and family != "ddim":
        sigmas, t = _continuous(config, table, family, spacing, t)
        t = np.rint(t) if spacing == "karras" and sampler.name in KDPM2 else t
    elif family == "ddim":
        sigmas = _on_table(table, t)
    else:
        sigmas = np.interp(t, np.arange(len(table)), table)
    at_minimum = sigmas[-1] <= table[0] * (1.0 + 1e-9)  # no further step by a rounding error
    repeats = spacing in CONTINUOUS and sampler.name in REPEATS
    last = (sigmas[-1] if at_minimum or repeats else table[0]) if ends_above else 0.0
    high = float(sigmas[0])
    unscaled = family == "euler" and whole in ("linspace", "trailing")
    init_noise_sigma = high if unscaled else math.hypot(1.0, high)
    return Grid(np.append(sigmas, last), t.astype(np.float64), init_noise_sigma)


def _timesteps(total: int, steps: int, family: str, spacing: str, offset: int) -> np.ndarray:
    n = steps + (family == "multistep")
    if spacing == "leading":
        return (np.arange(n)[::-1] * (total // n) + offset)[:steps]
    if spacing == "linspace":
        t = np.linspace(0.0, total - 1.0, n)[::-1][:steps]  # a single one is 0
        return t if family == "euler" else np.rint(t)
    return np.rint(np.arange(total, 0, -total / steps)) - 1.0


def _continuous(
    config: SchedulerConfig, table: np.ndarray, family: str, spacing: str, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sigmas and their timesteps, which are whole in family `multistep`."""
    total = np.arange(len(table))
    spaced = CONTINUOUS[spacing]
    if family == "euler":
        ends = (table[-1], table[0]) if config.full_range else np.interp(t[[0, -1]], total, table)
        high, low = ends
        sigmas = spaced(len(t), low, high)
        return sigmas, np.interp(np.log(sigmas), np.log(table), total)
    single = single_precision_sigmas(config)
    theirs = spaced(len(t), float(single[0]), float(single[-1]))
    t = np.interp(np.log(theirs), np.log(single), np.arange(len(single)))
    rounding = config.timestep_rounding or ("round" if spacing == "karras" else "cut")
    return spaced(len(t), table[0], table[-1]), np.rint(t) if rounding == "round" else np.trunc(t)


def _on_table(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the sigmas of whole timesteps; refuse timesteps outside of the table."""
    if t.min() < 0 or t.max() >= len(table):
        raise UsageError(
            f"timesteps {t.min():.0f} to {t.max():.0f} leave the table of {len(table)}",
            code="E-STEPS",
            hint="take another number of steps, or another schedule",
        )
    return table[t.astype(np.int64)]


def single_precision_sigmas(config: SchedulerConfig) -> np.ndarray:
    """Return the sigmas of every training timestep, (T,) float32, computed exactly as in diffusers.

    They are less accurate than in float64, but diffusers truncates timesteps, and a last bit
    decides between 998 and 999.

    Source: `schedulers/scheduling_dpmsolver_multistep.py`, `__init__` and
    `rescale_zero_terminal_snr`.
    """
    n = config.num_train_timesteps
    start = config.beta_start
    end = config.beta_end
    if config.trained_betas:
        betas = np.asarray(config.trained_betas, np.float32)
    elif config.beta_schedule == "cosine":
        betas = cosine_betas(n).astype(np.float32)
    elif config.beta_schedule == "linear":
        betas = _linspace(start, end, n)
    else:
        betas = _linspace(start**0.5, end**0.5, n) ** 2
    alpha_bar = _cumprod(1.0 - betas)
    if config.rescale_betas_zero_snr:
        roots = np.sqrt(alpha_bar)
        first = roots[0].copy()
        last = roots[-1].copy()
        squares = ((roots - last) * (first / (first - last))) ** 2
        alphas = np.concatenate([squares[:1], squares[1:] / squares[:-1]])
        alpha_bar = _cumprod(1.0 - (1.0 - alphas))
        alpha_bar[-1] = 2.0**-24
    return np.sqrt((1.0 - alpha_bar) / alpha_bar)


def _linspace(start: float, end: float, n: int) -> np.ndarray:
    """Compute torch.linspace: from both ends to the middle, with a step in single precision."""
    low = np.float32(start)
    high = np.float32(end)
    step = float((high - low) / np.float32(n - 1))
    i = np.arange(n)
    return np.where(i < n // 2, low + step * i, high - step * (n - 1 - i)).astype(np.float32)


def _cumprod(alphas: np.ndarray) -> np.ndarray:
    """Compute torch.cumprod, which accumulates in double precision."""
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)
