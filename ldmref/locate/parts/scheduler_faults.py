"""Known faults of the forward process and the grid: another configuration of the scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ldmref.locate.precision import round_to
from ldmref.samplers import SchedulerConfig
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.samplers.spacings import FLOW_SPACINGS

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
