"""Grids of other programs, number for number: one spacing name, several grids.

| convention   | spacings                             | n timesteps, last level                |
|--------------|--------------------------------------|----------------------------------------|
| `compvis`    | leading, quad                        | offset 1, timestep 0's level; n = 30   |
|              |                                      | of 1000 makes 31 steps                 |
| `diffusers`  | leading, linspace, trailing;         | offset 1; `ddim` ends at timestep 0's  |
|              | but for `ddim`: karras, exponential, | level, the other families at 0         |
|              | beta_sigma                           |                                        |
| `kdiffusion` | linspace, karras, exponential        | not rounded; 0                         |
| `course`     | leading                              | offset 0; 0                            |

Those of `diffusers` are its classes as configured for Stable Diffusion: `steps_offset=1`,
`set_alpha_to_one=False`. Its families:

| family      | classes                                                                    |
|-------------|----------------------------------------------------------------------------|
| `ddim`      | DDIM; PNDM but for its repeated timestep: n whole timesteps                |
| `euler`     | Euler, EulerAncestral, LMS: n timesteps, `linspace` not rounded, sigma     |
|             | linear between the table's                                                 |
| `multistep` | DPMSolverMultistep, UniPCMultistep: of n + 1 whole timesteps all but last  |

Source: CompVis/latent-diffusion, `ldm/modules/diffusionmodules/util.py`; diffusers 0.42.1,
`schedulers/*.py`, `set_timesteps`; k-diffusion, `external.py` and `sampling.py`;
hkproj/pytorch-stable-diffusion, `sd/ddpm.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldmref.errors import UsageError
from ldmref.math.schedules import sigma_from_alpha_bar
from ldmref.math.sigmas import beta_sigmas, exponential_sigmas, karras_sigmas
from ldmref.samplers.grids import check_name, check_steps, sigma_at

CONVENTIONS = ("compvis", "diffusers", "kdiffusion", "course")
FAMILIES = ("ddim", "euler", "multistep")
_CONTINUOUS = {
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "beta_sigma": beta_sigmas,
}


class ConventionGrid(NamedTuple):
    """`sigmas`, (n + 1,) float64; `timesteps`, (n,) float64: what the network is told at each."""

    sigmas: np.ndarray
    timesteps: np.ndarray


def convention_grid(
    alpha_bar: np.ndarray, steps: int, convention: str, spacing: str, family: str = "ddim"
) -> ConventionGrid:
    """The grid that another program makes.

    Args:
        alpha_bar: of every training timestep, (T,), decreasing.
        steps: from 1 to T; `compvis` may make more.
        convention: one of `CONVENTIONS`.
        spacing: a name of the convention's own row in the table above.
        family: of `FAMILIES`; only `diffusers` tells them apart.

    Raises:
        UsageError: an unknown name, or a number of steps at which that program's timesteps leave
            the training table (CompVis raises an IndexError there).

    >>> from ldmref.math import alphas_cumprod, scaled_linear_betas
    >>> table = alphas_cumprod(scaled_linear_betas(1000))
    >>> convention_grid(table, 5, "compvis", "leading").timesteps
    array([801., 601., 401., 201.,   1.])
    >>> convention_grid(table, 5, "diffusers", "leading", "multistep").timesteps
    array([831., 665., 499., 333., 167.])
    """
    check_name("convention", convention, CONVENTIONS)
    check_name("family", family, FAMILIES)
    table = sigma_from_alpha_bar(np.asarray(alpha_bar, np.float64))
    check_steps(steps, len(table))
    make = {"compvis": _compvis, "diffusers": _diffusers, "kdiffusion": _kdiffusion}
    if convention in make:
        return make[convention](table, steps, spacing, family)
    check_name("schedule of the course", spacing, ("leading",))
    return _on_table(table, _leading(len(table), steps, 0), 0.0)


def _compvis(table: np.ndarray, steps: int, spacing: str, family: str) -> ConventionGrid:
    """`make_ddim_timesteps`: the step is whole, and as many fit as fit."""
    check_name("schedule of compvis", spacing, ("leading", "quad"))
    total = len(table)
    if spacing == "leading":  # "uniform" in CompVis
        t = np.arange(0, total, total // steps)
    else:
        t = (np.linspace(0.0, np.sqrt(total * 0.8), steps) ** 2).astype(np.int64)
    return _on_table(table, t[::-1] + 1, table[0])


def _diffusers(table: np.ndarray, steps: int, spacing: str, family: str) -> ConventionGrid:
    known = ("leading", "linspace", "trailing", *(_CONTINUOUS if family != "ddim" else ()))
    check_name(f"schedule of diffusers' {family}", spacing, known)
    final = table[0] if family == "ddim" else 0.0
    if spacing in _CONTINUOUS:
        return diffusers_grid(table, steps, family, "linspace", 1, final, spacing)
    return diffusers_grid(table, steps, family, spacing, 1, final)


def diffusers_grid(
    table: np.ndarray,
    steps: int,
    family: str,
    timestep_spacing: str = "leading",
    offset: int = 0,
    final: float = 0.0,
    continuous: str = "",
    rounding: str = "",
    single: np.ndarray | None = None,
) -> ConventionGrid:
    """What a scheduler of diffusers walks, as its scheduler_config.json says.

    Args:
        table: sigmas of every training timestep, (T,), increasing.
        steps: from 1 to T.
        family: `ddim`, `euler` or `multistep`.
        timestep_spacing: `leading`, `linspace` or `trailing`.
        offset: `steps_offset`, added to `leading`.
        final: the last level: 0, or the level of timestep 0.
        continuous: `karras`, `exponential` or `beta_sigma` (`use_..._sigmas`): between the ends of
            the grid of `timestep_spacing` in family `euler`, of the table in `multistep`.
        rounding: how `multistep` makes their timesteps whole, `round` or `cut`; "": rounded for
            `karras`, else cut.
        single: the table in single precision (`single_sigmas`), by which diffusers finds the
            timesteps that it makes whole; None takes `table`.

    Raises:
        UsageError: timesteps leave the table.
    """
    total, drop = len(table), int(family == "multistep")
    if timestep_spacing == "leading":
        t = _leading(total, steps + drop, offset)[:steps]
    elif timestep_spacing == "linspace":
        t = np.linspace(0.0, total - 1.0, steps + drop)[::-1][:steps]  # a single one is 0
        t = t if family == "euler" else np.rint(t)
    else:
        t = np.rint(np.arange(total, 0, -total / steps)) - 1.0
    if continuous:
        ends = np.interp(t[[0, -1]], np.arange(total), table)
        high, low = ends if family == "euler" else (table[-1], table[0])
        sigmas = _CONTINUOUS[continuous](steps, low, high)
        t = _timesteps_at(table, sigmas)
        if family == "multistep":
            if single is not None:
                ends = float(single[0]), float(single[-1])
                t = _timesteps_at(single, _CONTINUOUS[continuous](steps, *ends))
            rounds = (rounding or ("round" if continuous == "karras" else "cut")) == "round"
            t = np.rint(t) if rounds else np.trunc(t)
        return ConventionGrid(np.append(sigmas, final), t)
    if family == "ddim":
        return _on_table(table, t, final)
    return ConventionGrid(np.append(np.interp(t, np.arange(total), table), final), t.astype(float))


def _kdiffusion(table: np.ndarray, steps: int, spacing: str, family: str) -> ConventionGrid:
    check_name("schedule of kdiffusion", spacing, ("linspace", "karras", "exponential"))
    if spacing == "linspace":
        t = np.linspace(len(table) - 1.0, 0.0, steps)
        return ConventionGrid(np.append(sigma_at(table, t), 0.0), t)
    sigmas = _CONTINUOUS[spacing](steps, table[0], table[-1])
    return ConventionGrid(np.append(sigmas, 0.0), _timesteps_at(table, sigmas))


def _leading(total: int, steps: int, offset: int) -> np.ndarray:
    return np.arange(steps)[::-1] * (total // steps) + offset


def _timesteps_at(table: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The inverse of `sigma_at`."""
    return np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))


def _on_table(table: np.ndarray, t: np.ndarray, final: float) -> ConventionGrid:
    """The levels of whole timesteps, which must exist."""
    if t.min() < 0 or t.max() >= len(table):
        raise UsageError(
            f"timesteps {t.min():.0f} to {t.max():.0f} leave the table of {len(table)}",
            code="E-STEPS",
            hint="take another number of steps, or no convention",
        )
    return ConventionGrid(np.append(table[t.astype(np.int64)], final), t.astype(np.float64))
