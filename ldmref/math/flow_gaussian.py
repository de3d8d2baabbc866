"""Stochastic flow samplers on Gaussian data, where a chain's mean and variance are exact.

The velocity of Gaussian data is affine in the state, and so is every published step. Mean and
variance of the chain therefore follow a recursion without sampling, which shows what a sampler
converges to. `tempering_exponent` is the limit of samplers that renew a fixed share of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

from ldmref.math.arrays import Array, along

FlowTransition: TypeAlias = Callable[[float, float, float, float], tuple[float, float]]


def gaussian_flow_velocity(xs: Array, s: Array, mean: float, variance: float) -> Array:
    r"""Return the expected velocity of a flow whose data are Gaussian.

    .. math:: \mathbb{E}[\epsilon - x_0 \mid x_s] = \frac{s - (1 - s)\, v}{(1 - s)^2 v + s^2}
              \left(x_s - (1 - s)\, m\right) - m

    Args:
        xs: data at flow time s, (n, ...), real floating, or a number.
        s: flow time, scalar or (n,), in [0, 1].
        mean: m of the data N(m, v), scalar.
        variance: v, scalar, > 0.

    Returns:
        the velocity of a perfect model, shape and dtype of `xs`.

    Accuracy: 12 ulp of each term, and that of s - (1 - s) v.
    Derived: x0 and eps are independent Gaussians, and x_s is linear in both.

    >>> round(gaussian_flow_velocity(2.0, 0.5, 1.0, 3.0), 12)
    -2.5
    """
    signal = 1.0 - s
    slope = (s - signal * variance) / (signal * signal * variance + s * s)
    return along(slope, xs) * (xs - along(signal * mean, xs)) - mean


def flow_chain_moments(
    transition: FlowTransition, times: Sequence[float], mean: float, variance: float
) -> tuple[float, float]:
    r"""Propagate the start N(0, 1) through a stochastic sampler with a perfect model, exactly.

    .. math:: \mu(x) = k x + l, \qquad M' = k M + l, \qquad V' = k^2 V + q^2

    Args:
        transition: a function (x_s, velocity, s, s') -> (mean, std) that is affine in both arrays:
            `flow_sde_transition` or `flow_renoise_transition` with its std.
        times: flow times of the chain, scalars, falling within [0, 1].
        mean: m of the data N(m, v), scalar.
        variance: v, scalar, > 0.

    Returns:
        (mean, variance) of the chain at the last time, where a right sampler has those of x_s,
        ((1 - s) m, (1 - s)^2 v + s^2).

    Accuracy: 16 ulp a step.
    Derived: the sum of an affine function of a Gaussian and of independent Gaussian noise.

    >>> from ldmref.math import flow_renoise_transition
    >>> def stochastic_sampling(x, u, s, t):
    ...     return flow_renoise_transition(x, u, s, t, t)
    >>> times = [1 - i / 100 for i in range(101)]
    >>> [round(z, 4) for z in flow_chain_moments(stochastic_sampling, times, 1.5, 0.25)]
    [1.5, 0.1188]
    """
    center = 0.0
    spread = 1.0
    for s, s_next in pairwise(times):
        at = [
            transition(x, gaussian_flow_velocity(x, s, mean, variance), s, s_next)
            for x in (0.0, 1.0)
        ]
        offset, std = at[0]
        slope = at[1][0] - offset
        center = slope * center + offset
        spread = slope * slope * spread + std * std
    return center, spread


def tempering_exponent(noise_level: float) -> float:
    r"""Return the power of the density that a sampler with a fixed share of fresh noise draws from.

    .. math:: k = \frac{2}{1 + \cos(a \pi / 2)} = \frac{1}{\cos^2(a \pi / 4)}

    With a perfect model and a number of steps that goes to infinity, steps that replace the share
    sin(a pi / 2) of the noise (`cps_std`) draw from the density p^k, normalised, and not from p.
    The conditions are in docs/math/flow_sde.md.

    Args:
        noise_level: a, scalar, in [0, 1]; 1 replaces all noise, as `stochastic_sampling` does.

    Returns:
        k, from 1 to 2; the variance of Gaussian data becomes v / k.

    Accuracy: 4 ulp.
    Derived: Langevin dynamics with drift (1 - w) s^2 times the score and noise of the variance
    (1 - w^2) s^2 have the temperature (1 + w) / 2, where w = cos(a pi / 2).

    >>> tempering_exponent(0.0), round(tempering_exponent(1.0), 12)
    (1.0, 2.0)
    """
    return 1.0 / math.cos(0.25 * math.pi * noise_level) ** 2
