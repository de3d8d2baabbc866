"""Rectified-CFG++: a step along the conditional flow, corrected by the guidance half a step on."""

from __future__ import annotations

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped, between
from ldmref.samplers.path import FLOW
from ldmref.samplers.steps import euler_step


def rectified_cfgpp(uncond: Denoiser, strength: float, power: float = 0.0) -> Step:
    r"""Rectified-CFG++: the conditional velocity, and guidance from the middle of its own step.

    .. math:: \tilde x = x + \frac{s' - s}{2}\, v_c(x, s), \qquad
              x' = x + (s' - s)\left(v_c(x, s) + \lambda (1 - s)^\gamma
              \left(v_c(\tilde x, \tilde s) - v_\varnothing(\tilde x, \tilde s)\right)\right)

    with the level s~ in the middle. The denoiser that `sample` gets is the conditional one, without
    guidance (`cfg_scale=1`). With strength 0 the step is Euler's. It uses only slopes, and so works
    on every path; (1 - s) is the share of the data at the same ratio on the path of flow matching.

    Args:
        uncond: The denoiser without the prompt: `ldmref.denoiser(model, "", cfg_scale=1.0)`.
        strength: lambda; 0 is no guidance.
        power: gamma, >= 0; 0 guides equally at all levels, larger values less at high noise.

    Returns:
        A step for `sample`: order 1, two evaluations of the conditional denoiser and one of
        `uncond` per step, no history.

    Source: Saini et al. 2025, arXiv:2510.07631, algorithm 1, without its optional noise.

    >>> import numpy as np
    >>> from ldmref.samplers import FLOW, rectified_cfgpp, sample
    >>> step = rectified_cfgpp(lambda x, sigma: 0.0 * x, 0.5)
    >>> *_, last = sample(lambda x, s: 0.0 * x + 1.0, np.zeros(1), [1.0, 0.5, 0.0], step, path=FLOW)
    >>> last.x  # without guidance 1
    array([2.])
    """

    def step(denoise: Denoiser, x: Array, at: Interval, history: History, noise: Noise) -> Stepped:
        sigma = at.sigma
        middle = 0.5 * (sigma + at.sigma_next)
        x0 = denoise(x, sigma)
        half = euler_step(x, x0, sigma, middle)
        change = between(denoise, at)(half, middle) - between(uncond, at)(half, middle)
        weight = strength * FLOW.alpha(FLOW.level(at.path.ratio(sigma))) ** power
        x0 = x0 + weight * (sigma / middle) * change
        return euler_step(x, x0, sigma, at.sigma_next), x0, ()

    return step
