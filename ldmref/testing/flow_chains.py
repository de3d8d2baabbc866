"""Stochastic flow samplers with a perfect model, for tests, plots and lessons.

`LAWS` has the published transitions by name, and `flow_map_law` makes those of flow maps.
`TwoModes` is data whose velocity is known, and `run_chain` samples it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref import math as lm
from ldmref.math.arrays import Array

Law = Callable[[Any, Any, float, float], tuple[Any, float]]
MakeLaw = Callable[..., Law]
NOISE_LEVEL = 0.7


def shifted_times(n: int, shift: float = 1.0) -> list[float]:
    """Return n + 1 flow times from 1 to 0, equally spaced before the shift.

    >>> shifted_times(2, 3.0)
    [1.0, 0.75, 0.0]
    """
    return [lm.shift_flow_time(1 - i / n, shift) for i in range(n + 1)]


def sde_law(diffusion: Callable[[float], float]) -> Law:
    """Return the transition of the reverse SDE with the diffusion coefficient g(s)."""

    def step(x: Array, u: Array, s: float, t: float) -> tuple[Any, float]:
        return lm.flow_sde_transition(x, u, s, t, diffusion(s))

    return step


def renoise_law(std: Callable[[float, float], float]) -> Law:
    """Return the transition that renoises with the std q(s, s')."""

    def step(x: Array, u: Array, s: float, t: float) -> tuple[Any, float]:
        return lm.flow_renoise_transition(x, u, s, t, std(s, t))

    return step


def guarded_law(times: Sequence[float], level: float = NOISE_LEVEL) -> Law:
    """Return Flow-GRPO's transition with the guard of the authors' code, the second time."""
    return sde_law(lambda s: lm.flow_grpo_diffusion(s, times[1], level))


def _clamped(largest: float) -> MakeLaw:
    return lambda times, level=NOISE_LEVEL: sde_law(
        lambda s: lm.flow_grpo_clamped_diffusion(s, largest, level)
    )


def _renoising(std: Callable[[float, float, float], float]) -> MakeLaw:
    return lambda times, level=NOISE_LEVEL: renoise_law(lambda s, t: std(s, t, level))


LAWS: dict[str, MakeLaw] = {
    "Euler (ODE)": _renoising(lambda s, t, level: 0.0),
    "Flow-GRPO": guarded_law,
    "Flow-GRPO, clamp 0.95": _clamped(0.95),
    "Flow-GRPO, clamp 0.99": _clamped(0.99),
    "Flow-GRPO, clamp 0.999": _clamped(0.999),
    "Dance": lambda times, level=NOISE_LEVEL: sde_law(lambda s: level),
    "DDPM posterior": _renoising(lambda s, t, level: lm.flow_posterior_std(s, t)),
    "flow DDIM": _renoising(lambda s, t, level: level * lm.flow_posterior_std(s, t)),
    "Precise": _renoising(lm.precise_std),
    "ancestral RF": _renoising(lambda s, t, level: lm.ancestral_flow_std(s, t)),
    "CPS": _renoising(lambda s, t, level: lm.cps_std(t, level)),
    "stochastic_sampling": _renoising(lambda s, t, level: t),
}
"""The published transitions by name, each made for the times of a chain and a noise level."""


def flow_map_law(mean: float, variance: float, eta: float, distilled: bool = True) -> Law:
    """Return the transition of a flow map that jumps below the next time and renoises.

    Args:
        mean: Mean of the Gaussian data.
        variance: Variance of the data.
        eta: Share of the next time by which the jump goes below it, as in `flow_map_renoise_step`.
        distilled: Jump by the exact average velocity; False: by the velocity of an ordinary model.

    >>> law = flow_map_law(1.5, 0.25, 1.0)
    >>> [round(z, 12) for z in lm.flow_chain_moments(law, shifted_times(2), 1.5, 0.25)]
    [1.5, 0.25]
    """

    def step(x: Array, velocity: Array, s: float, t: float) -> tuple[Any, float]:
        below = (1.0 - eta) * t
        u = lm.gaussian_average_velocity(x, s, below, mean, variance) if distilled else velocity
        at = [lm.flow_map_renoise_step(x, u, noise, s, t, eta) for noise in (0.0, 1.0)]
        return at[0], at[1] - at[0]

    return step


@dataclass(frozen=True)
class TwoModes:
    """Data of one dimension: two overlapping Gaussians of unequal weight.

    Args:
        centers: The means of the two Gaussians.
        spread: Their standard deviation.
        weights: Their weights, which sum to 1.
    """

    centers: tuple[float, float] = (-0.6, 0.6)
    spread: float = 0.3
    weights: tuple[float, float] = (0.7, 0.3)

    def velocity(self, x: np.ndarray, s: float) -> np.ndarray:
        """Return E[eps - x0 | x_s], (n,)."""
        variance = (1 - s) ** 2 * self.spread**2 + s * s
        gap = x[:, None] - (1 - s) * np.asarray(self.centers)
        logits = np.log(self.weights) - 0.5 * gap * gap / variance
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        each = np.asarray(self.centers) + (1 - s) * self.spread**2 / variance * gap
        x0 = (p * each).sum(axis=1)
        return (x - x0) / s

    def powered(self, power: float, grid: np.ndarray) -> np.ndarray:
        """Return the density to a power, normalised over the equally spaced grid."""
        gap = (grid[:, None] - np.asarray(self.centers)) / self.spread
        p = (np.asarray(self.weights) * np.exp(-0.5 * gap * gap)).sum(axis=1) ** power
        return p / (p.sum() * (grid[1] - grid[0]))


def run_chain(
    law: MakeLaw,
    times: Sequence[float],
    data: TwoModes,
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Sample `count` chains from noise to the last time with a perfect model, (count,).

    >>> x = run_chain(LAWS["CPS"], shifted_times(20), TwoModes(), 2000, np.random.default_rng(0))
    >>> bool(0.2 < (x > 0).mean() < 0.32)
    True
    """
    step = law(times)
    x = rng.standard_normal(count)
    for s, t in pairwise(times):
        mean, std = step(x, data.velocity(x, s), s, t)
        x = mean + std * rng.standard_normal(count) if std else mean
    return x
