"""CFG++: guided data, and noise of the unconditional prediction."""

from __future__ import annotations

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import (
    Denoiser,
    GuidedDenoiser,
    History,
    Interval,
    Noise,
    Step,
    Stepped,
)
from ldmref.samplers.steps import ancestral_sigmas


def cfgpp(eta: float = 0.0) -> Step:
    r"""CFG++: DDIM whose noise is that of the unconditional prediction.

    .. math:: x' = \hat x_0 + \frac{\sigma_{down}}{\sigma}(x - x_{0\varnothing})
              + \sigma_{up}\,\epsilon

    The guided prediction and the one without the prompt come from a `GuidedDenoiser`, whose
    guidance scale is the paper's lambda, usually from 0 to 1. A step with eta = 0 is Euler's with
    the guidance scale lambda sigma / (sigma - sigma'), which grows with the number of steps: with
    guidance the method does not converge to the flow of one scale. Without it (lambda = 0, or a
    denoiser that has no unconditional prediction) it is `ancestral(eta)`.

    Args:
        eta: Strength of the fresh noise, from 0 (none) to 1 (the posterior's).

    Returns:
        A step for `sample`: order 1, one evaluation per step, no history.

    Raises:
        ValueError: `eta` is outside [0, 1] (raised by the step).

    Source: Chung et al. 2024, arXiv:2406.08070, algorithm 2, and published code (`ddim_cfg++`,
    `euler_cfg++`).

    >>> import numpy as np
    >>> from ldmref.samplers import cfgpp, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], cfgpp())
    >>> last.x.round(3)  # the exact result is 1
    array([0.949])
    """

    def step(denoise: Denoiser, x: Array, at: Interval, history: History, noise: Noise) -> Stepped:
        x0, uncond = both(denoise, x, at.sigma)
        down, up = ancestral_sigmas(at.sigma, at.sigma_next, eta)
        x_next = x0 + (down / at.sigma) * (x - uncond)
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step


def both(denoise: Denoiser, x: Array, sigma: float) -> tuple[Array, Array]:
    """Return the guided prediction of x0 and the one without the prompt, which may be the same."""
    if isinstance(denoise, GuidedDenoiser):
        found = denoise.guided(x, sigma, unconditional=True)
        return found.x0, found.x0 if found.uncond is None else found.uncond
    x0 = denoise(x, sigma)
    return x0, x0
