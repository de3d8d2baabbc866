"""Step functions: one short pure function per sampler, in the coordinates x = x0 + sigma eps."""

from __future__ import annotations

import math
from typing import Any

from ldmref.samplers.loop import Denoise, Noise, StepFunction

Array = Any


def ancestral(eta: float = 0.0) -> StepFunction:
    r"""DDPM, DDIM, Euler and Euler-ancestral: one function of eta.

    .. math:: \sigma_{up} = \eta\,\sigma'\sqrt{1 - \sigma'^2/\sigma^2}, \quad
              \sigma_{down} = \sqrt{\sigma'^2 - \sigma_{up}^2}, \qquad
              x' = x_0 + \frac{\sigma_{down}}{\sigma}(x - x_0) + \sigma_{up}\,\epsilon

    eta = 0 is Euler's method for the probability-flow ODE, which is DDIM; eta = 1 draws from the
    posterior q(x_s | x_t, x_0), which is DDPM; in between it is DDIM(eta).

    Args:
        eta: how much fresh noise, from 0 (none) to 1 (the posterior's).

    Source: Song, Meng, Ermon 2020, arXiv:2010.02502, eq. 12 and 16; Ho, Jain, Abbeel 2020,
    arXiv:2006.11239, eq. 7; Karras et al. 2022, arXiv:2206.00364, algorithm 1 with Euler steps.
    """

    def step(denoise: Denoise, x: Array, sigma: float, sigma_next: float, history, noise: Noise):
        x0 = denoise(x, sigma)
        # the ratio first: sigma may be large, and the product stays <= sigma_next
        up = eta * sigma_next * math.sqrt(max(0.0, 1.0 - (sigma_next / sigma) ** 2))
        down = math.sqrt(sigma_next**2 - up**2)
        x_next = x0 + (down / sigma) * (x - x0)
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step


def heun() -> StepFunction:
    r"""Heun's second-order method: an Euler step, corrected with the slope at its end.

    .. math:: d = (x - x_0)/\sigma, \quad \hat x = x + (\sigma' - \sigma)d, \quad
              \hat d = (\hat x - \hat x_0)/\sigma', \quad
              x' = x + (\sigma' - \sigma)\tfrac12(d + \hat d)
                 = \hat x + \frac{\sigma - \sigma'}{2\sigma'}(\hat x_0 - x_0)

    with x_0 and \hat x_0 the predictions at both ends; the last form is the one computed, because
    large sigmas do not cancel in it. The last step to sigma = 0 is Euler's, since the slope there
    does not exist.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1 (without churn).
    """

    def step(denoise: Denoise, x: Array, sigma: float, sigma_next: float, history, noise: Noise):
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        guess = x0 + (sigma_next / sigma) * (x - x0)
        x0_there = denoise(guess, sigma_next)
        return guess + (0.5 * (sigma - sigma_next) / sigma_next) * (x0_there - x0), x0, ()

    return step


def dpmpp_2m() -> StepFunction:
    r"""DPM-Solver++(2M): second-order multistep in lambda = -log sigma, one evaluation a step.

    .. math:: h = \lambda' - \lambda, \quad r = h_{last}/h, \quad
              D = x_0 + \frac{1}{2r}(x_0 - x_{0,last}), \qquad
              x' = \frac{\sigma'}{\sigma}x + (1 - e^{-h})\,D

    The first step, and the last one to sigma = 0, are of first order (D = x_0).

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2, with alpha = 1.
    """

    def step(denoise: Denoise, x: Array, sigma: float, sigma_next: float, history, noise: Noise):
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        h = math.log(sigma / sigma_next)
        direction = x0
        if history:
            x0_last, h_last = history
            direction = x0 + (0.5 * h / h_last) * (x0 - x0_last)
        x_next = (sigma_next / sigma) * x - math.expm1(-h) * direction
        return x_next, x0, (x0, h)

    return step
