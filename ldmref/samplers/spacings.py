"""The spacings of noise levels, by name.

The name of a spacing says how n steps are spaced over the T training timesteps. The last sigma is
named separately, because implementations that agree on the spacing differ there:

| spacing       | timesteps, or sigmas, of n steps out of T                             |
|---------------|-----------------------------------------------------------------------|
| `leading`     | (n-1) (T//n) + offset, ..., T//n + offset, offset                     |
| `linspace`    | n points from T-1 to 0                                                |
| `trailing`    | T-1, T-1 - T/n, ... (rounded)                                         |
| `karras`      | evenly spaced in sigma^(1/7) over the table's range                   |
| `exponential` | evenly spaced in log sigma over the table's range                     |
| `kl_optimal`  | evenly spaced in arctan sigma over the table's range                  |
| `beta`        | quantiles of Beta(0.6, 0.6) over the timesteps: the paper, ComfyUI    |
| `beta_sigma`  | quantiles of Beta(0.6, 0.6) over the sigmas: diffusers' "beta"        |
| `ays`         | align-your-steps for Stable Diffusion 1.5, interpolated in log sigma  |
| `ays_sdxl`    | the same for SDXL                                                     |
| `lcm`         | for latent consistency models: some of T/50 - 1, 2 T/50 - 1, ..., T-1 |

Only a diffusers folder whose scheduler has another `timestep_spacing` begins `karras` and other
continuous spacings below the table's largest sigma, as its scheduler does.

Final sigma: `zero`, or `sigma_min` (the sigma of timestep 0, where CompVis' DDIM ends).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.math.sigmas import (
    align_your_steps_timesteps,
    beta_sigmas,
    beta_timesteps,
    exponential_sigmas,
    karras_sigmas,
    kl_optimal_sigmas,
    log_linear_sigmas,
)
from ldmref.samplers.diffusers import schedule as diffusers

SUMMARIES = {
    "leading": "timesteps at a whole stride from the first of training, which leaves out the last",
    "linspace": "timesteps at equal distances from the last of training to the first",
    "trailing": "timesteps at equal distances, counted back from the last of training",
    "karras": "levels at equal distances in sigma^(1/7): Karras et al. 2022, eq. 5",
    "exponential": "levels at equal distances in log(sigma): Lu et al. 2022, section 3.3",
    "kl_optimal": "levels at equal distances in arctan(sigma): Sabour et al. 2024",
    "beta": "timesteps at quantiles of a Beta distribution: Lee et al. 2024",
    "beta_sigma": "levels at quantiles of a Beta distribution, as in diffusers",
    "ays": "ten levels optimized for Stable Diffusion 1.5, interpolated: Sabour et al. 2024",
    "ays_sdxl": "ten levels optimized for SDXL, interpolated: Sabour et al. 2024",
    "lcm": "a subset of the 50 timesteps on which latent consistency models are distilled",
}
SPACINGS = tuple(SUMMARIES)
"""The names of the spacings that `make_schedule` takes, described above."""

FLOW_SUMMARIES = {  # of models trained with flow matching: flow_spacings.py
    "flow": "flow times at equal distances from noise, shifted: Esser et al. 2024, section 5.3.2",
    "flow_table": "shifted flow times at equal distances to the last of training, as in SD3",
}
FLOW_SPACINGS = tuple(FLOW_SUMMARIES)

WHERE_IT_DIVIDES = "where the number of steps divides that of training"
OF_OTHERS = {  # schedules of ComfyUI and A1111 that none of these always equals
    "normal": "linspace is the nearest, with whole timesteps; of a flow, flow_table has its levels",
    "simple": f"trailing has its timesteps, or of a flow, flow its levels, {WHERE_IT_DIVIDES}",
    "ddim_uniform": f"leading has its timesteps {WHERE_IT_DIVIDES}",
    "sgm_uniform": "trailing is the nearest, or of a flow, flow",
}
OF_OTHERS |= {"uniform": OF_OTHERS["normal"], "ddim": OF_OTHERS["ddim_uniform"]}

BETWEEN_ENDS = {  # spacings of sigmas from the table's smallest to its largest
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "kl_optimal": kl_optimal_sigmas,
    "beta_sigma": beta_sigmas,
}

FINAL_SIGMAS = ("zero", "sigma_min")


def sigma_grid(
    table: np.ndarray, spacing: str, steps: int, final_sigma: str = "zero", offset: int = 0
) -> np.ndarray:
    """Return the sigmas of `steps` steps by the name of a spacing.

    Args:
        table: Sigmas of every training timestep, (T,), increasing.
        spacing: A name in `SPACINGS`.
        steps: Number of steps, from 1 to T.
        final_sigma: Last sigma: `zero`, or `sigma_min`, the smallest of the table (0 where a
            spacing already ends at that).
        offset: Number added to every timestep of `leading` (1 for Stable Diffusion).

    Returns:
        (steps + 1,) float64, strictly decreasing.

    Raises:
        UsageError: A name is unknown, or `steps` is not from 1 to T.

    >>> import numpy as np
    >>> from ldmref.samplers import sigma_grid
    >>> sigma_grid(np.geomspace(0.01, 100.0, 1000), "exponential", 4).round(3)
    array([1.000e+02, 4.642e+00, 2.150e-01, 1.000e-02, 0.000e+00])
    """
    if spacing not in SPACINGS:
        raise unknown_spacing(spacing)
    if not isinstance(final_sigma, str) or final_sigma not in FINAL_SIGMAS:
        raise unknown_name("final sigma", final_sigma, FINAL_SIGMAS)
    steps = check_steps(steps, len(table))
    if spacing in BETWEEN_ENDS:
        sigmas = BETWEEN_ENDS[spacing](steps, table[0], table[-1])
    elif spacing == "lcm":
        sigmas = table[diffusers.lcm_timesteps(len(table), steps)]
    elif spacing == "beta":
        sigmas = sigmas_at(table, beta_timesteps(steps, len(table)))
    elif spacing in ("ays", "ays_sdxl"):
        sigmas = _align_your_steps(table, steps, "sd" if spacing == "ays" else "sdxl")
    else:
        sigmas = table[spaced_timesteps(spacing, len(table), steps, offset)]
    at_minimum = sigmas[-1] <= table[0] * (1.0 + 1e-9)  # no further step by a rounding error
    return np.append(sigmas, 0.0 if final_sigma == "zero" or at_minimum else table[0])


def spaced_timesteps(spacing: str, total: int, steps: int, offset: int = 0) -> np.ndarray:
    """Return the timesteps of `leading`, `linspace` or `trailing`, (steps,) int64, decreasing."""
    if spacing == "leading":
        stride = total // steps
        offset = min(offset, total - 1 - (steps - 1) * stride)  # never past the table's end
        return np.arange(steps)[::-1] * stride + offset
    if spacing == "linspace":
        return np.rint(np.linspace(total - 1, 0, steps)).astype(np.int64)
    return np.rint(total - np.arange(steps) * (total / steps)).astype(np.int64) - 1


def sigmas_at(table: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """Interpolate sigmas at timesteps that need not be whole, linearly in log sigma."""
    return np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))


def timesteps_at(table: np.ndarray, sigmas: float | np.ndarray) -> np.ndarray:
    """Invert `sigmas_at`, exactly on the table; below the table, the timestep is 0."""
    return np.interp(np.log(np.maximum(sigmas, table[0])), np.log(table), np.arange(len(table)))


def spacing_name(name: str) -> str:
    """Convert the name of a spacing from the spelling of other programs.

    >>> spacing_name("KL Optimal"), spacing_name("Karras")
    ('kl_optimal', 'karras')
    """
    return "_".join(name.lower().split())


def unknown_name(what: str, name: object, known: Sequence[str]) -> UsageError:
    """Return the error of a name that is not among the known ones, with the nearest as a hint."""
    hint = did_you_mean(name if isinstance(name, str) else "", known)
    return UsageError(f"unknown {what} {short_repr(name)}", code="E-SCHEDULE", hint=hint)


def unknown_spacing(spacing: object) -> UsageError:
    """Return the error of a spacing that is not in `SPACINGS`."""
    if spacing not in FLOW_SPACINGS:
        return unknown_name("schedule", spacing, SPACINGS)
    return UsageError(
        f"schedule {spacing!r} is for models trained with flow matching",
        code="E-SCHEDULE",
        hint="this model has " + ", ".join(SPACINGS),
    )


def check_steps(steps: int, total: int | None) -> int:
    """Return the number of steps as an int; refuse more steps than a table has timesteps.

    Args:
        steps: Number of steps.
        total: Number of timesteps of the table; None for any number.
    """
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise UsageError(f"steps must be a whole number, not {short_repr(steps)}", code="E-STEPS")
    if steps < 1 or (total is not None and steps > total):
        most = f"from 1 to {total}" if total is not None else "1 or more"
        hint = f"the model has {total} timesteps to choose from" if total is not None else ""
        message = f"steps must be {most}, not {short_repr(steps)}"
        raise UsageError(message, code="E-STEPS", hint=hint)
    return int(steps)


def _align_your_steps(table: np.ndarray, steps: int, model: str) -> np.ndarray:
    """Resample the ten published sigmas and the table's smallest to `steps` sigmas."""
    timesteps = align_your_steps_timesteps(model) * ((len(table) - 1) / 999)  # made for T = 1000
    sigmas = np.append(sigmas_at(table, timesteps), table[0])
    return log_linear_sigmas(sigmas, steps + 1)[:-1]
