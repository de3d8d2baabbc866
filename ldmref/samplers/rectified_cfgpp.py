"""Rectified-CFG++: a step along the conditional flow, corrected by the guidance half a step on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Doc, Range
from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import (
    Denoiser,
    Guided,
    GuidedDenoiser,
    History,
    Interval,
    Noise,
    Step,
    Stepped,
    between,
)
from ldmref.samplers.path import FLOW
from ldmref.samplers.steps import euler_step


@dataclass(frozen=True)
class RectifiedParameters:
    """The parameters of `rectified_cfgpp` in a request."""

    power: Annotated[
        float,
        Range(0.0, 100.0),
        Doc("Exponent of the share of data, which weakens guidance at high noise."),
    ] = 0.0


def rectified_cfgpp(power: float = 0.0) -> Step:
    r"""Rectified-CFG++: the conditional velocity, and guidance from the middle of its own step.

    .. math:: \tilde x = x + \frac{s' - s}{2}\, v_c(x, s), \qquad
              x' = x + (s' - s)\left(v_c(x, s) + \lambda (1 - s)^\gamma
              \left(v_c(\tilde x, \tilde s) - v_\varnothing(\tilde x, \tilde s)\right)\right)

    with the level s~ in the middle, and lambda the guidance scale of a `GuidedDenoiser`: 0 is
    Euler's step without guidance, and lambda converges to the flow of the usual scale lambda + 1.
    It uses only slopes, and so works on every path; (1 - s) is the share of the data at the same
    ratio on the path of flow matching. A denoiser that has no unconditional prediction is not
    guided.

    Args:
        power: gamma, >= 0; 0 guides equally at all levels, larger values less at high noise.

    Returns:
        A step for `sample`: order 1, two evaluations per step, with the prompt and then with and
        without it, no history.

    Source: Saini et al. 2025, arXiv:2510.07631, algorithm 1, without its optional noise.

    >>> import numpy as np
    >>> from ldmref.samplers import FLOW, get_guidance, guided_denoiser, rectified_cfgpp, sample
    >>> def network(x, sigma, names, interval):  # velocity -1 with the prompt, 0 without
    ...     return [np.full_like(x, -1.0 if name == "cond" else 0.0) for name in names]
    >>> denoise = guided_denoiser(network, "flow", get_guidance("cfg"), 0.5, path=FLOW)
    >>> *_, last = sample(denoise, np.zeros(1), [1.0, 0.5, 0.0], rectified_cfgpp(), path=FLOW)
    >>> last.x  # without guidance 1
    array([1.5])
    """

    def step(denoise: Denoiser, x: Array, at: Interval, history: History, noise: Noise) -> Stepped:
        sigma = at.sigma
        middle = 0.5 * (sigma + at.sigma_next)
        x0 = conditional(denoise, x, sigma).x0
        half = euler_step(x, x0, sigma, middle)
        cond, uncond, _, scale = conditional(between(denoise, at), half, middle, unconditional=True)
        if uncond is not None:
            weight = scale * FLOW.alpha(FLOW.level(at.path.ratio(sigma))) ** power
            x0 = x0 + weight * (sigma / middle) * (cond - uncond)
        return euler_step(x, x0, sigma, at.sigma_next), x0, ()

    return step


def conditional(denoise: Denoiser, x: Array, sigma: float, unconditional: bool = False) -> Guided:
    """Return the prediction with the prompt, and the one without it if there is one."""
    if isinstance(denoise, GuidedDenoiser):
        return denoise.guided(x, sigma, unconditional=unconditional, scale=1.0)
    return Guided(denoise(x, sigma), None, ())
