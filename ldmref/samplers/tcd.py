"""Trajectory consistency distillation: jump below the next noise level, then add noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped, toward
from ldmref.samplers.steps import euler_step

ROUNDED = 0.01  # timesteps: a level this close to a timestep is that timestep, rounded


def tcd(eta: float = 0.3, training_sigmas: Sequence[float] | np.ndarray | None = None) -> Step:
    r"""Strategic stochastic sampling of TCD, for networks distilled for it.

    .. math:: x' = x_0 + \frac{\sigma_s}{\sigma} (x - x_0)
                 + \sqrt{\sigma'^2 - \sigma_s^2}\;\epsilon, \qquad
              s = \lfloor (1 - \eta)\, t' \rfloor

    with t' the timestep of sigma' and sigma_s the noise level of timestep s. eta = 0 is DDIM, and
    eta = 1 nearly `lcm`. A distilled network jumps exactly along its path. With an ordinary
    denoiser the jump is DDIM's, and every step replaces a fixed share of the noise, however many
    steps there are: then the method does not converge to the data, and the declared order is 0.

    Args:
        eta: Strength of the fresh noise, from 0 to 1; gamma in the paper.
        training_sigmas: Sigmas of the training timesteps, (T,), increasing. None: without
            timesteps, sigma_s = (1 - eta) sigma'.

    Returns:
        A step for `sample` that needs `noise` if `eta` is not 0: one evaluation per step, no
        history. A step to 0 or to the first training timestep adds no noise.

    Raises:
        ValueError: `eta` is outside [0, 1].

    Source: Zheng et al. 2024, arXiv:2402.19159, algorithm 2 (strategic stochastic sampling);
    diffusers 0.42.1, `TCDScheduler`.

    >>> import numpy as np
    >>> from ldmref.samplers import Streams, sample, tcd
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> noise = Streams([7], (1,))
    >>> *_, last = sample(denoise, np.asarray([[2.0]]), levels, tcd(), noise=noise)
    >>> last.x.round(3)
    array([[1.999]])
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be from 0 to 1, not {eta}")
    table = None if training_sigmas is None else np.asarray(training_sigmas, np.float64)

    def level_below(sigma_next: float) -> float:
        if eta == 0.0 or table is None:
            return (1.0 - eta) * sigma_next
        t = np.interp(math.log(max(sigma_next, table[0])), np.log(table), np.arange(len(table)))
        s = math.floor(np.float32(1.0 - eta) * np.float32(t))  # as rounded in diffusers
        if t < s + ROUNDED:
            return sigma_next
        return min(float(table[s]), sigma_next)

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma_next = interval.sigma_next
        below = level_below(sigma_next) if sigma_next > 0.0 else 0.0
        x0 = toward(denoise, interval, below)(x, interval.sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        x_next = euler_step(x, x0, interval.sigma, below)
        up = math.sqrt(max(0.0, sigma_next**2 - below**2))
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step
