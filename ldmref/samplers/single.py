"""The training table in single precision, operation by operation as diffusers computes it.

Its numbers are no better than those of the float64 table; but where diffusers cuts timesteps to
whole ones, a last bit decides between 998 and 999.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ldmref.math.schedules import cosine_betas
from ldmref.samplers.grids import NEARLY_ZERO


def single_sigmas(config: Any) -> np.ndarray:
    """Sigmas of every training timestep, (T,) float32, increasing; `config`: a `SchedulerConfig`.

    Source: diffusers 0.42.1, `schedulers/scheduling_dpmsolver_multistep.py`, `__init__` and
    `rescale_zero_terminal_snr`.
    """
    n, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas:
        betas = np.asarray(config.trained_betas, np.float32)
    elif config.beta_schedule == "cosine":
        betas = cosine_betas(n).astype(np.float32)
    elif config.beta_schedule == "linear":
        betas = _linspace(start, end, n)
    else:
        betas = _linspace(start**0.5, end**0.5, n) ** 2
    alpha_bar = _cumulated(1.0 - betas)
    if config.rescale_betas_zero_snr:
        roots = np.sqrt(alpha_bar)
        first, last = roots[0].copy(), roots[-1].copy()
        squares = ((roots - last) * (first / (first - last))) ** 2
        alphas = np.concatenate([squares[:1], squares[1:] / squares[:-1]])
        alpha_bar = _cumulated(1.0 - (1.0 - alphas))
        alpha_bar[-1] = NEARLY_ZERO
    return np.sqrt((1.0 - alpha_bar) / alpha_bar)


def _linspace(start: float, end: float, n: int) -> np.ndarray:
    """torch.linspace: from both ends to the middle, with a step in single precision."""
    low, high = np.float32(start), np.float32(end)
    step, i = float((high - low) / np.float32(n - 1)), np.arange(n)
    return np.where(i < n // 2, low + step * i, high - step * (n - 1 - i)).astype(np.float32)


def _cumulated(alphas: np.ndarray) -> np.ndarray:
    """torch.cumprod: summed up in double precision."""
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)
