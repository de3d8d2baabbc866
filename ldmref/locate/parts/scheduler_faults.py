"""Known faults of the forward process and the grid: another configuration of the scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ldmref.locate.recorded.precision import round_to
from ldmref.math.sigmas import beta_sigmas, exponential_sigmas, karras_sigmas
from ldmref.samplers import Schedule, SchedulerConfig
from ldmref.samplers.flow_spacings import shift_factor
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.samplers.spacings import FLOW_SPACINGS

SIGMA_SPACINGS = {"karras": karras_sigmas, "exponential": exponential_sigmas, "beta": beta_sigmas}
CONSTANT_MU = 2.02  # of FLUX.2 in InvokeAI


def in_format(config: SchedulerConfig, dtype: str) -> SchedulerConfig:
    """Return a configuration whose alphas_cumprod are those of a table in a number format.

    The product is computed in float32, as other programs do, and then rounded.
    """
    if config.path is FLOW:
        return config  # which has no table
    alphas = training_alphas_cumprod(config)
    steps = np.divide(alphas, np.append(1.0, alphas[:-1])).astype(np.float32)
    table = round_to(np.cumprod(steps).astype(np.float64), dtype)
    table = np.maximum(table, 2.0**-24)
    betas = 1.0 - table / np.append(1.0, table[:-1])
    return replace(config, trained_betas=tuple(betas), rescale_betas_zero_snr=False)


def config_faults(config: SchedulerConfig) -> Iterator[tuple[str, SchedulerConfig]]:
    """Yield other forward processes and grids: words and configuration."""
    if config.path is FLOW:
        yield from _flow_faults(config)
        return
    yield "alphas_cumprod in float16", in_format(config, "float16")
    yield "alphas_cumprod in bfloat16", in_format(config, "bfloat16")
    for name in ("linear", "scaled_linear", "cosine"):
        if name != config.beta_schedule or config.trained_betas:
            other = replace(config, beta_schedule=name, trained_betas=())
            yield f"betas {name} instead of {config.beta_schedule}", other
    zero = not config.rescale_betas_zero_snr
    words = "with" if zero else "without"
    yield f"{words} zero terminal SNR", replace(config, rescale_betas_zero_snr=zero)
    for offset in (0, 1):
        if offset != config.steps_offset:
            text = f"steps_offset {offset} instead of {config.steps_offset}"
            yield text, replace(config, steps_offset=offset)
    end = "zero" if config.final_sigma != "zero" else "sigma_min"
    words = "0" if end == "zero" else "the smallest of the table"
    yield f"the last sigma is {words}", replace(config, final_sigma=end)
    end = "zero" if config.final_alpha != "zero" else "sigma_min"
    words = "1" if end == "zero" else "that of timestep 0"
    yield f"the last alpha_bar is {words} (set_alpha_to_one)", replace(config, final_alpha=end)


def _flow_faults(config: SchedulerConfig) -> Iterator[tuple[str, SchedulerConfig]]:
    """Yield other shifts and spacings of a flow: words and configuration."""
    for shift in (1.0, 3.0):
        if config.dynamic_shift or shift != config.shift:
            words = "a shift by the tokens" if config.dynamic_shift else f"shift {config.shift:g}"
            other = replace(config, shift=shift, dynamic_shift=False)
            yield f"shift {shift:g} instead of {words}", other
    if not config.dynamic_shift and config.shift != 1.0:
        yield "the levels are shifted twice", replace(config, shift=config.shift**2)
        yield "a shift by the tokens instead of a constant one", replace(config, dynamic_shift=True)
    if config.dynamic_shift and config.shift_rule == "empirical":
        line = replace(config, shift_rule="linear")
        yield "a shift linear in the tokens instead of the empirical one", line
        constant = replace(line, base_shift=CONSTANT_MU, max_shift=CONSTANT_MU)
        yield f"mu {CONSTANT_MU:g} at every size", constant
    for spacing in FLOW_SPACINGS:
        if spacing != config.spacing:
            text = f"spacing {spacing} instead of {config.spacing}"
            yield text, replace(config, spacing=spacing)


def other_levels(
    config: SchedulerConfig, schedule: Schedule, tokens: int
) -> Iterator[tuple[str, Schedule]]:
    """Yield the levels of a flow that are shifted again after they were made, and not at all.

    Also those of other spacings, with the shift before them, after them, and without it.
    """
    if config.path is not FLOW:
        return
    total = config.num_train_timesteps
    whole = np.rint(schedule.timesteps)
    yield "the levels are made of whole timesteps", _from_timesteps(schedule, whole, total)
    yield from _spaced_by_sigma(
        config, schedule, shift_factor(config, tokens, len(schedule.timesteps))
    )
    if config.dynamic_shift:
        yield from _other_counts(config, schedule, tokens)
        return
    even = shift_levels(np.linspace(1.0, 0.0, len(schedule.timesteps)), config.shift)
    yield "the last evaluation is at level 0", _from_timesteps(schedule, total * even, total)
    if config.shift == 1.0:
        return
    once = shift_levels(np.linspace(1.0, 1.0 / total, len(schedule.timesteps)), config.shift)
    text = "the end of the levels is shifted once instead of twice"
    yield text, _from_timesteps(schedule, total * once, total)
    for text, shift in (
        ("the levels are shifted twice", config.shift),
        (f"shift 1 instead of shift {config.shift:g}", 1.0 / config.shift),
    ):
        sigmas = shift_levels(schedule.sigmas, shift)
        timesteps = config.num_train_timesteps * sigmas[: len(schedule.timesteps)]
        yield text, schedule._replace(sigmas=sigmas, timesteps=timesteps)


def _other_counts(
    config: SchedulerConfig, schedule: Schedule, tokens: int
) -> Iterator[tuple[str, Schedule]]:
    """Yield the levels with the shift of four times as many tokens, and of a quarter of them."""
    total, steps = config.num_train_timesteps, len(schedule.timesteps)
    own = shift_factor(config, tokens, steps)
    for other in (4 * tokens, tokens // 4):
        if other == 0:
            continue
        sigmas = shift_levels(schedule.sigmas, shift_factor(config, other, steps) / own)
        text = f"the shift of {other} image tokens instead of {tokens}"
        yield text, schedule._replace(sigmas=sigmas, timesteps=total * sigmas[:steps])


def _spaced_by_sigma(
    config: SchedulerConfig, schedule: Schedule, factor: float
) -> Iterator[tuple[str, Schedule]]:
    """Yield the levels of spacings that diffusion models have, between the ends of a flow's."""
    total = config.num_train_timesteps
    steps = len(schedule.timesteps)
    first, least = float(schedule.sigmas[0]), 1.0 / total
    for name, space in SIGMA_SPACINGS.items():
        words = f"spacing {name} instead of {config.spacing}"
        unshifted = space(steps, least, first)
        placed = {
            f"{words}, without the shift": unshifted,
            f"{words}, shifted afterwards": shift_levels(unshifted, factor),
            f"{words}, between the ends of the shifted levels": space(
                steps, float(schedule.sigmas[steps - 1]), first
            ),
        }
        for text, levels in placed.items():
            yield text, _from_timesteps(schedule, total * levels, total)


def _from_timesteps(schedule: Schedule, timesteps: np.ndarray, total: int) -> Schedule:
    sigmas = np.append(timesteps / total, schedule.sigmas[len(timesteps) :])
    return schedule._replace(sigmas=sigmas, timesteps=timesteps)


def other_tables(config: SchedulerConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield other tables of alphas_cumprod."""
    exact = training_alphas_cumprod(config)
    for dtype in ("float16", "bfloat16"):
        yield f"alphas_cumprod in {dtype}", round_to(exact, dtype)
    for text, changed in config_faults(config):
        yield text, training_alphas_cumprod(changed)
    yield "alphas_cumprod shifted: that of the next timestep", np.append(exact[1:], exact[-1])
    yield "alphas_cumprod shifted: that of the previous timestep", np.append(1.0, exact[:-1])
    yield "1 - alphas_cumprod instead of alphas_cumprod", 1.0 - exact
    yield "the square root of alphas_cumprod", np.sqrt(exact)


def shift_levels(sigmas: np.ndarray, shift: float) -> np.ndarray:
    return shift * sigmas / (1.0 + (shift - 1.0) * sigmas)


def fit_shift(got: np.ndarray, sigmas: np.ndarray) -> float:
    """Return s of s sigma / (1 + (s - 1) sigma) at the first sigma but 1; 1 if there is none."""
    inner = np.flatnonzero((sigmas > 0.0) & (sigmas != 1.0)) if got.shape == sigmas.shape else []
    if not len(inner):
        return 1.0
    a, b = float(got[inner[0]]), float(sigmas[inner[0]])
    below = b * (1.0 - a)
    return a * (1.0 - b) / below if below else 1.0
