"""Grids of other programs, number for number: one spacing name, several grids.

| convention   | spacings                             | n timesteps, last sigma                |
|--------------|--------------------------------------|----------------------------------------|
| `compvis`    | leading, quad                        | offset 1, timestep 0's sigma; n = 30   |
|              |                                      | of 1000 makes 31 steps                 |
| `diffusers`  | leading, linspace, trailing;         | offset 1; `ddim` ends at timestep 0's  |
|              | not `ddim`: karras, exponential,     | sigma, the other families at 0         |
|              | beta_sigma                           |                                        |
| `kdiffusion` | linspace, karras, exponential        | not rounded; 0                         |
| `course`     | leading                              | offset 0; 0                            |

The grids of `diffusers` are those of its classes for Stable Diffusion: `steps_offset=1`,
`set_alpha_to_one=False`.

Source: CompVis/latent-diffusion, `ldm/modules/diffusionmodules/util.py`; k-diffusion, `external.py`
and `sampling.py`; hkproj/pytorch-stable-diffusion, `sd/ddpm.py`; `ldmref.samplers.diffusers`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldmref.errors import UsageError
from ldmref.math.schedules import sigma_from_alpha_bar
from ldmref.math.sigmas import exponential_sigmas, karras_sigmas
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.diffusers.schedule import CONTINUOUS, WHOLE, diffusers_sigmas
from ldmref.samplers.registry import SAMPLERS
from ldmref.samplers.spacings import check_steps, sigmas_at, timesteps_at, unknown_name

CONVENTIONS = ("compvis", "diffusers", "kdiffusion", "course")
FAMILIES = {"ddim": "ddim", "euler": "euler", "multistep": "dpmpp_2m"}  # with a sampler of each


class Grid(NamedTuple):
    """`sigmas`, (n + 1,) float64; `timesteps`, (n,) float64."""

    sigmas: np.ndarray
    timesteps: np.ndarray


def grid_of(
    alpha_bar: np.ndarray, steps: int, convention: str, spacing: str, family: str = "ddim"
) -> Grid:
    """Return the grid that another program makes.

    Args:
        alpha_bar: of every training timestep, (T,), decreasing.
        steps: from 1 to T; `compvis` may make more.
        convention: one of `CONVENTIONS`.
        spacing: a name of the convention's own row in the table above.
        family: of `FAMILIES`; only `diffusers` tells them apart.

    Raises:
        UsageError: an unknown name, or a number of steps at which that program's timesteps leave
            the training table (CompVis raises an IndexError there).
    """
    check_name("convention", convention, CONVENTIONS)
    check_name("family", family, tuple(FAMILIES))
    table = sigma_from_alpha_bar(np.asarray(alpha_bar, np.float64))
    check_steps(steps, len(table))
    return {"compvis": compvis, "kdiffusion": kdiffusion, "course": course}.get(
        convention, diffusers
    )(table, steps, spacing, family)


def check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not among the known ones."""
    if name not in known:
        raise unknown_name(what, name, known)


def compvis(table: np.ndarray, steps: int, spacing: str, family: str) -> Grid:
    """`make_ddim_timesteps`: the stride is whole, and as many timesteps as fit."""
    check_name("schedule of compvis", spacing, ("leading", "quad"))
    total = len(table)
    if spacing == "leading":  # "uniform" in CompVis
        t = np.arange(0, total, total // steps)
    else:
        t = (np.linspace(0.0, np.sqrt(total * 0.8), steps) ** 2).astype(np.int64)
    return _on_table(table, t[::-1] + 1, table[0])


def diffusers(table: np.ndarray, steps: int, spacing: str, family: str) -> Grid:
    known = (*WHOLE, *(CONTINUOUS if family != "ddim" else ()))
    check_name(f"schedule of diffusers' {family}", spacing, known)
    config = SchedulerConfig(
        steps_offset=1, final_alpha="sigma_min", final_sigma="zero", timestep_spacing="linspace"
    )
    return Grid(*diffusers_sigmas(config, table, SAMPLERS[FAMILIES[family]], spacing, steps)[:2])


def kdiffusion(table: np.ndarray, steps: int, spacing: str, family: str) -> Grid:
    check_name("schedule of kdiffusion", spacing, ("linspace", "karras", "exponential"))
    if spacing == "linspace":
        t = np.linspace(len(table) - 1.0, 0.0, steps)
        return Grid(np.append(sigmas_at(table, t), 0.0), t)
    spaced = {"karras": karras_sigmas, "exponential": exponential_sigmas}[spacing]
    sigmas = spaced(steps, table[0], table[-1])
    return Grid(np.append(sigmas, 0.0), timesteps_at(table, sigmas))


def course(table: np.ndarray, steps: int, spacing: str, family: str) -> Grid:
    check_name("schedule of the course", spacing, ("leading",))
    return _on_table(table, np.arange(steps)[::-1] * (len(table) // steps), 0.0)


def _on_table(table: np.ndarray, t: np.ndarray, final: float) -> Grid:
    """Return the sigmas of whole timesteps, which must exist."""
    if t.min() < 0 or t.max() >= len(table):
        raise UsageError(
            f"timesteps {t.min():.0f} to {t.max():.0f} leave the table of {len(table)}",
            code="E-STEPS",
            hint="take another number of steps, or no convention",
        )
    return Grid(np.append(table[t.astype(np.int64)], final), t.astype(np.float64))
