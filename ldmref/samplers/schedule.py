"""The schedule of a run: sigmas, timesteps that the network sees, and the scale of its noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.math.schedules import (
    alphas_cumprod,
    cosine_betas,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigma_from_alpha_bar,
)
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.diffusers import schedule as diffusers
from ldmref.samplers.flow_spacings import flow_levels
from ldmref.samplers.interfaces import Interval
from ldmref.samplers.own_spacing import Spacing, get_spacing
from ldmref.samplers.path import FLOW, PURE_NOISE, VE, NoisePath, noise_levels
from ldmref.samplers.sampler import Sampler
from ldmref.samplers.spacings import SPACINGS, check_steps, sigma_grid, sigmas_at, timesteps_at

NEARLY_ZERO = 2.0**-24  # alpha-bar at the end of a schedule with zero terminal SNR


@cache
def training_alphas_cumprod(config: SchedulerConfig) -> np.ndarray:
    """Return alpha-bar of every training timestep, (T,) float64, read-only.

    Raises:
        ValueError: The model was trained on a flow, which has none.
    """
    n = config.num_train_timesteps
    if config.path is FLOW:
        raise ValueError("a model trained with flow matching has no alpha-bar")
    if config.trained_betas:
        betas = np.asarray(config.trained_betas, np.float64)
    elif config.beta_schedule == "cosine":
        betas = cosine_betas(n)
    elif config.beta_schedule == "linear":
        betas = linear_betas(n, config.beta_start, config.beta_end)
    else:
        betas = scaled_linear_betas(n, config.beta_start, config.beta_end)
    if config.rescale_betas_zero_snr:
        alpha_bar = alphas_cumprod(rescale_zero_terminal_snr(betas))
        alpha_bar[-1] = NEARLY_ZERO  # as diffusers: sigma stays finite
    else:
        alpha_bar = alphas_cumprod(betas)
    alpha_bar.flags.writeable = False
    return alpha_bar


@cache
def sampling_sigmas(config: SchedulerConfig) -> np.ndarray:
    """Return the ratios of the timesteps that samplers use, (T,) float64, increasing, read-only.

    They are sigmas of x0 + sigma eps. Those of a flow are s / (1 - s) at s = 1/T, 2/T, ..., and
    `PURE_NOISE` at 1.

    Samplers use timesteps with sigma <= `config.sigma_max`. A cosine schedule ends near
    sigma = 20,000, where nothing is left of the data and second-order methods are inaccurate.
    """
    if config.path is FLOW:
        n = config.num_train_timesteps
        sigmas = np.asarray([FLOW.ratio(k / n) for k in range(1, n + 1)])
    else:
        sigmas = sigma_from_alpha_bar(training_alphas_cumprod(config))
        sigmas = sigmas[sigmas <= config.sigma_max]
    sigmas.flags.writeable = False
    return sigmas


class Schedule(NamedTuple):
    """Sigmas, timesteps and initial noise scale of a run; `make_schedule` returns it.

    Args:
        sigmas: Noise levels on `path`, (n + 1,) float64, decreasing; the last may be 0.
        timesteps: Timesteps that the network gets at `sigmas[:-1]`, (n,) float64.
        init_noise_sigma: Standard deviation of the initial state of a run from pure noise.
        training_sigmas: Ratios of every training timestep, (T,), increasing.
        convention: "diffusers" for a schedule computed as in diffusers, otherwise "".
        path: The path on which the levels are.
        of_flow: Whether the model was trained on a flow; its timestep is T times the flow time.

    >>> from ldmref.samplers import SAMPLERS, SchedulerConfig, make_schedule
    >>> schedule = make_schedule(SchedulerConfig(), SAMPLERS["euler"], "karras", 4)
    >>> schedule.sigmas.round(2)
    array([14.61,  3.17,  0.45,  0.03,  0.  ])
    """

    sigmas: np.ndarray
    timesteps: np.ndarray
    init_noise_sigma: float
    training_sigmas: np.ndarray
    convention: str = ""
    path: NoisePath = VE
    of_flow: bool = False

    def __repr__(self) -> str:
        ends = f"sigma {self.sigmas[0]:.6g} to {self.sigmas[-1]:.6g}"
        return f"<Schedule of {len(self.timesteps)} steps, {ends}>"

    def timestep(self, sigma: float, interval: Interval | None = None) -> float:
        """Return the timestep that the network gets at a noise level, not always a whole number.

        Args:
            sigma: Noise level at which a step evaluates the denoiser.
            interval: Interval of that step. At its ends, the timestep is the schedule's own;
                otherwise it is linear in log sigma between the training timesteps, or T times the
                flow time. None: no step; the timestep is interpolated.
        """
        index = None if interval is None else interval.index_of(sigma)
        if index is None or index >= len(self.timesteps):  # the last sigma has no timestep
            ratio = self.path.ratio(sigma)
            return float(timestep_at(self.training_sigmas, ratio, self.of_flow))
        return float(self.timesteps[index])


def timestep_at(table: np.ndarray, ratio: Any, of_flow: bool) -> Any:
    """Return the timestep that a network gets at a noise level, or an array of them.

    Args:
        table: Ratios of every training timestep, (T,), increasing.
        ratio: The noise level, as the sigma of x0 + sigma eps.
        of_flow: Whether the network was trained on a flow: then the timestep is T times the flow
            time, and T where the level has no data. Otherwise it is linear in log sigma between
            those of training.
    """
    if not of_flow:
        return timesteps_at(table, ratio)
    return np.where(ratio < PURE_NOISE, len(table) * FLOW.level(ratio), float(len(table)))


def make_schedule(
    config: SchedulerConfig,
    sampler: Sampler,
    spacing: str | Spacing | None,
    steps: int,
    sigmas: Sequence[float] | None = None,
    path: NoisePath | None = None,
    tokens: int = 0,
) -> Schedule:
    """Return the schedule of `steps` steps.

    With the convention "diffusers" in the configuration, spacings of diffusers are computed as its
    scheduler for this sampler computes them.

    Args:
        config: Configuration of the checkpoint's scheduler.
        sampler: Sampler from `get_sampler`.
        spacing: A name in `SPACINGS` or of a plug-in, or a `Spacing`; None: the checkpoint's
            spacing.
        steps: Number of steps.
        sigmas: Decreasing noise levels on the path, (steps + 1,), to use instead of a spacing.
            None: those of the spacing.
        path: The path on which the sampler moves; the levels of a model's schedule are the same
            distributions on each. None: `config.path`.
        tokens: Number of image tokens, on which the shift of some flows depends.

    Returns:
        A `Schedule` of float64 NumPy arrays; pass its `sigmas` to `sample`.

    Raises:
        UsageError: The spacing is unknown, the schedule does not exist for this number of steps or
            this model, or `sigmas` are not `steps` + 1 decreasing numbers.

    >>> from ldmref.samplers import SAMPLERS, SchedulerConfig
    >>> schedule = make_schedule(SchedulerConfig(), SAMPLERS["euler"], "trailing", 4)
    >>> schedule.timesteps
    array([999., 749., 499., 249.])
    """
    if not isinstance(sampler, Sampler):
        raise UsageError(
            f"sampler must be a Sampler, not {short_repr(sampler)}",
            code="E-SAMPLER",
            hint='samplers.get_sampler("euler") or samplers.SAMPLERS["euler"]',
        )
    own = config.path
    path = path or own
    of_flow = own is FLOW
    if of_flow and path is VE:
        raise UsageError(
            "a model trained with flow matching begins at noise without data, where the path 've' "
            "has no level",
            code="E-PATH",
            hint="leave the path out",
        )
    table = sampling_sigmas(config)
    if spacing is None:
        spacing = default_spacing(config, sampler)
    elif not isinstance(spacing, str) or spacing not in SPACINGS:
        spacing = get_spacing(spacing)
    if sigmas is not None:
        levels = _given_levels(sigmas, steps, path)
    else:
        steps = check_steps(steps, len(table))
        if isinstance(spacing, Spacing):
            levels = spacing.sigmas(own.level(table), steps)
        elif of_flow:
            levels = flow_levels(config, spacing, steps, tokens)
        elif config.convention == "diffusers" and spacing in diffusers.SPACINGS:
            theirs = diffusers.diffusers_sigmas(config, table, sampler, spacing, steps)
            return on_path(Schedule(*theirs, table, "diffusers"), path)
        else:
            final = "zero" if sampler.clean_end else config.final_sigma
            levels = sigma_grid(table, spacing, steps, final, config.steps_offset)
        if path is not own:
            levels = np.asarray([path.level(own.ratio(level)) for level in levels.tolist()])
    ratios = np.asarray([path.ratio(level) for level in levels[:-1].tolist()])
    timesteps = timestep_at(table, ratios, of_flow)
    first = 1.0 if of_flow else path.spread(float(levels[0]))  # a flow begins at unit noise
    return Schedule(levels, timesteps, first, table, "", path, of_flow)


def _given_levels(sigmas: Sequence[float], steps: int, path: NoisePath) -> np.ndarray:
    """Return given noise levels, (steps + 1,) float64; refuse another number, or an increase."""
    steps = check_steps(steps, None)
    grid = np.asarray(noise_levels(sigmas, path), np.float64)
    if len(grid) != steps + 1 or not (np.diff(grid) < 0).all():
        raise UsageError(
            f"sigmas of {steps} steps must be {steps + 1} decreasing numbers", code="E-SIGMAS"
        )
    return grid


def on_path(schedule: Schedule, path: NoisePath) -> Schedule:
    """Return a schedule of `VE` on another path: the same distributions, scaled."""
    if path is VE:
        return schedule
    sigmas = np.asarray([path.level(sigma) for sigma in schedule.sigmas.tolist()])
    first = schedule.init_noise_sigma * path.alpha(float(sigmas[0]))
    return schedule._replace(sigmas=sigmas, init_noise_sigma=first, convention="", path=path)


def from_strength(schedule: Schedule, strength: float) -> Schedule:
    """Return a schedule with as many steps, which begins at a share of the time of the noise.

    Every timestep is multiplied by the strength. A flow map, whose steps lead from any time to any
    other, starts from an image like this, without a rounding to whole steps.

    Args:
        schedule: The schedule of the whole run.
        strength: The share, above 0 and at most 1.

    >>> from ldmref.samplers import SAMPLERS, SchedulerConfig, make_schedule
    >>> schedule = make_schedule(SchedulerConfig(), SAMPLERS["ddim"], "trailing", 2)
    >>> from_strength(schedule, 0.5).timesteps
    array([499.5, 249.5])
    """
    if strength == 1.0:
        return schedule
    path, table = schedule.path, schedule.training_sigmas
    ratios = [path.ratio(sigma) for sigma in schedule.sigmas.tolist()]
    timesteps = strength * np.append(
        schedule.timesteps, timestep_at(table, ratios[-1], schedule.of_flow)
    )
    if schedule.of_flow:
        lower = [FLOW.ratio(t / len(table)) for t in timesteps.tolist()]
    else:
        lower = sigmas_at(table, timesteps).tolist()
    if ratios[-1] == 0.0:
        lower[-1] = 0.0
    levels = np.asarray([path.level(ratio) for ratio in lower])
    first = 1.0 if schedule.of_flow else path.spread(float(levels[0]))
    return schedule._replace(
        sigmas=levels, timesteps=timesteps[:-1], init_noise_sigma=first, convention=""
    )


def default_spacing(config: SchedulerConfig, sampler: Sampler) -> str:
    """Return the default spacing of a checkpoint for a sampler.

    diffusers' LCMScheduler and TCDScheduler only have `lcm`, whatever their configurations say.
    """
    lcm = sampler.name in ("lcm", "tcd") and config.convention == "diffusers"
    return "lcm" if lcm else config.spacing
