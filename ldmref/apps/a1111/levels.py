"""The noise levels of A1111 (AUTOMATIC1111's web UI, version 1.10), to replay its images.

Its schedules share names with others that have other levels, and end at 0, except for KL Optimal:

| schedule           | levels of n steps, before the final 0                                  |
|--------------------|------------------------------------------------------------------------|
| `uniform`, `normal`| n timesteps from T-1 to 0, log-linear between those of the table       |
| `sgm uniform`      | n + 1 such timesteps without the last                                  |
| `simple`           | the table's, every T/n-th from its end                                 |
| `ddim`             | the table's 1, 1 + s, 1 + 2s, ... with s = T // n                      |
| `turbo`            | timesteps T k/n - 1, rounded (Forge)                                   |
| `karras`, ...      | from the table's largest level to its smallest                         |
| `align your steps` | eleven published levels, resampled to n                                |
| `kl optimal`       | n + 1 levels evenly spaced in arctan(sigma), the last one sigma_min    |

DPM2, DPM2 a and DPM++ 3M SDE make n + 1 levels and drop the last but one. DDIM, PLMS and UniPC
ignore the schedule: DDIM and PLMS follow CompVis' timesteps from the largest to 1, which is a step
less than there are timesteps, and UniPC takes as many steps, evenly spaced from T-1 to 0.

Sources: AUTOMATIC1111/stable-diffusion-webui, modules/sd_schedulers.py, sd_samplers_kdiffusion.py
(`get_sigmas`), sd_samplers_common.py (`setup_img2img_steps`), sd_samplers_timesteps.py,
sd_samplers_timesteps_impl.py and models/diffusion/uni_pc/uni_pc.py; k-diffusion, external.py
(`DiscreteSchedule`); lllyasviel/stable-diffusion-webui-forge (`turbo_scheduler`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ldmref.math.sigmas import (
    beta_sigmas,
    exponential_sigmas,
    karras_sigmas,
    log_linear_sigmas,
)
from ldmref.models.config import ModelConfig
from ldmref.modes import validation
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import check_steps, sigmas_at

ALIGN_YOUR_STEPS = {
    "sd": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
AUTOMATIC = {  # the schedule "Automatic", where it is not uniform
    "dpmpp_2m": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2s_a": "karras",
    "dpm_solver_2": "karras",
    "dpm_solver_2_a": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2m_sde_heun": "exponential",
    "dpmpp_3m_sde": "exponential",
}
DISCARDING = ("dpm_solver_2", "dpm_solver_2_a", "dpmpp_3m_sde")  # drop the last but one level
UNIPC = "unipc_3"
COMPVIS = ("ddim", "pndm", UNIPC)  # follow CompVis' timesteps and no schedule
MOST = 0.999  # of the denoising strength
UNIPC_ORDER = 3


class Options(NamedTuple):
    """Options of the noise levels, in addition to sampler, schedule and steps.

    Args:
        beta: Shape of the distribution of schedule `beta`.
        discard: Whether to drop the last but one level with any sampler.
        sdxl: Whether the model is SDXL, for `align your steps`.
        drops_level: Whether the samplers in `DISCARDING` do so, as in A1111.
    """

    beta: tuple[float, float] = (0.6, 0.6)
    discard: bool = False
    sdxl: bool = False
    drops_level: bool = True


class Levels(NamedTuple):
    """`sigmas`, decreasing float64; `first`: the index at which the run starts, 0 for txt2img."""

    sigmas: np.ndarray
    first: int = 0

    @property
    def taken(self) -> tuple[float, ...]:
        """The levels from the start of the run on."""
        return tuple(self.sigmas[self.first :].tolist())

    @property
    def strength(self) -> float:
        """The `strength` of `modes.img2img` that starts these levels at `first`."""
        steps = len(self.sigmas) - 1
        left = steps - self.first
        strength = left / steps
        while int(steps * strength) < left:
            strength = math.nextafter(strength, 1.0)
        return strength

    def parameters(self, noised: bool) -> dict[str, Any]:
        """Return the parameters of `modes.plan` that give these levels.

        Args:
            noised: Whether the run starts from an image.
        """
        values = {"sigmas": tuple(self.sigmas.tolist()), "steps": None, "schedule": None}
        return values | {"strength": self.strength} if noised else values


def levels_for(
    config: ModelConfig,
    sampler: str,
    schedule: str,
    steps: int | None,
    strength: float | None = None,
    options: Options | None = None,
) -> Levels | None:
    """Return A1111's noise levels for a model, None if it has none for this sampler and schedule.

    Nor has it any here for models of flow matching, whose levels are flow times.

    Args:
        config: Configuration of the model that generates.
        sampler, schedule, strength: As for `a1111_levels`.
        steps: Number of steps; None: the model's.
        options: Further options, of which the model decides `sdxl`; None: the defaults.

    Raises:
        UsageError: `steps` or `strength` is out of range.
    """
    if config.scheduler.path is FLOW:
        return None
    table = sampling_sigmas(config.scheduler)
    steps = config.defaults.steps if steps is None else steps
    check_steps(steps, min(validation.MAX_STEPS, len(table)))
    if strength is not None:
        strength = validation.check_number("strength", strength, 0.0, 1.0)
    options = (options or Options())._replace(sdxl=config.text_encoder_2 is not None)
    return a1111_levels(table, sampler, schedule, steps, strength, options)


def a1111_levels(
    table: np.ndarray,
    sampler: str,
    schedule: str,
    steps: int,
    strength: float | None = None,
    options: Options | None = None,
) -> Levels | None:
    """Return the noise levels of A1111, None if it takes no step or the schedule is unknown.

    Args:
        table: Sigmas of every training timestep, (T,), increasing.
        sampler: A name in `SAMPLERS`.
        schedule: A1111's label in lower case: a name in `SCHEDULES`, or `automatic`.
        steps: Number of steps, from 1 to T.
        strength: Denoising strength of img2img, from 0 to 1; None for txt2img.
        options: Further options; None: the defaults of `Options`.
    """
    encoded = None if strength is None else int(min(strength, MOST) * steps)
    return encoded_levels(table, sampler, schedule, steps, encoded, options or Options())


def encoded_levels(
    table: np.ndarray,
    sampler: str,
    schedule: str,
    steps: int,
    encoded: int | None,
    options: Options,
) -> Levels | None:
    """Return the noise levels of A1111; arguments and None are those of `a1111_levels`.

    `encoded` is A1111's `t_enc`, one less than the steps that it takes; None: all of them.
    """
    if sampler in COMPVIS:
        return _compvis_levels(table, sampler, steps + options.discard, encoded)
    name = AUTOMATIC.get(sampler, "uniform") if schedule == "automatic" else schedule
    if name not in SCHEDULES or sampler == "lcm":
        return None
    discards = options.discard or (options.drops_level and sampler in DISCARDING)
    sigmas = SCHEDULES[name](table, steps + discards, options)
    if discards:
        sigmas = np.delete(sigmas, -2)
    return Levels(sigmas, 0 if encoded is None else steps - encoded - 1)


def _compvis_levels(
    table: np.ndarray, sampler: str, steps: int, encoded: int | None
) -> Levels | None:
    """Return the levels of DDIM, PLMS and UniPC, which ends at the table's smallest.

    img2img starts at the timestep below the one to which A1111 noises the image.
    """
    total = len(table)
    stride = max(total // steps, 1)
    timesteps = np.minimum(np.arange(0, total, stride) + 1, total - 1)
    if sampler == UNIPC:
        count = len(timesteps) if encoded is None else encoded
        start = total - 1 if encoded is None else timesteps[encoded - 1]
        if count < UNIPC_ORDER:
            return None
        t = np.linspace(start, 0, count + 1)
        if encoded is None:
            return Levels(_sigmas_by_alpha(table, t))
        return Levels(_sigmas_by_alpha(table, np.append(timesteps[encoded], t)), 1)
    whole = np.unique(timesteps)[::-1]  # the largest occurs twice above T / 2 steps
    first = 0 if encoded is None else len(whole) - encoded
    if len(whole) - first < 2:
        return None
    return Levels(table[whole], first)


def _sigmas_by_alpha(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Interpolate sigmas at timesteps linearly in log alpha-bar, as in UniPC's code."""
    minus_log_alpha_bar = np.interp(t, np.arange(len(table)), np.log1p(table**2))
    return np.sqrt(np.expm1(minus_log_alpha_bar))


def _between(table: np.ndarray, n: int) -> np.ndarray:
    """Return the sigmas at n timesteps evenly spaced from the last to the first."""
    return sigmas_at(table, np.linspace(len(table) - 1, 0, n))


def _ended(sigmas: np.ndarray) -> np.ndarray:
    return np.append(sigmas, 0.0)


def _uniform(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    return _ended(_between(table, n))


def _sgm_uniform(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    return _ended(_between(table, n + 1)[:-1])


def _simple(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    stride = len(table) / n
    return _ended(table[[-1 - int(k * stride) for k in range(n)]])


def _ddim(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    stride = max(len(table) // n, 1)
    return _ended(table[1::stride][::-1])


def _turbo(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    timesteps = np.rint(np.arange(n, 0, -1) * (len(table) / n) - 1.0).astype(np.int64)
    return _ended(table[np.clip(timesteps, 0, len(table) - 1)])


def _karras(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    return _ended(karras_sigmas(n, table[0], table[-1]))


def _exponential(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    return _ended(exponential_sigmas(n, table[0], table[-1]))


def _beta(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    return _ended(beta_sigmas(n, table[0], table[-1], *options.beta))


def _kl_optimal(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    return np.tan(np.linspace(math.atan(table[-1]), math.atan(table[0]), n + 1))


def _align_your_steps(table: np.ndarray, n: int, options: Options) -> np.ndarray:
    levels = np.asarray(ALIGN_YOUR_STEPS["sdxl" if options.sdxl else "sd"])
    return _ended(log_linear_sigmas(levels[::-1], n)[::-1])  # reversed: a single one is the last


SCHEDULES: dict[str, Callable[[np.ndarray, int, Options], np.ndarray]] = {
    "uniform": _uniform,
    "normal": _uniform,
    "karras": _karras,
    "exponential": _exponential,
    "polyexponential": _exponential,  # with its usual rho of 1
    "sgm uniform": _sgm_uniform,
    "sgmuniform": _sgm_uniform,
    "kl optimal": _kl_optimal,
    "align your steps": _align_your_steps,
    "simple": _simple,
    "ddim": _ddim,
    "beta": _beta,
    "turbo": _turbo,
}
