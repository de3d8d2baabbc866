r"""DPM-Solver++, multistep, with or without noise: exponential Adams-Bashforth in -log sigma.

The variance-exploding reverse SDE with noise strength eta has the exact solution

.. math:: x' = e^{-k} x + \int_0^h (1 + \eta) e^{-(1 + \eta)(h - u)} x_0(\lambda + u)\, du
             + \sigma' \sqrt{1 - e^{-2 \eta h}}\,\epsilon, \qquad
          h = \log(\sigma / \sigma'), \quad k = (1 + \eta) h

in which the predictions of the last steps approximate x0 along the interval. eta = 0 is the
probability-flow ODE, eta = 1 the reverse diffusion.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.moments import exponential_moment
from ldmref.samplers.steps import euler_step


class EarlierPrediction(NamedTuple):
    """The prediction x0 of an earlier step and the length h of that step in log sigma, not 0.

    A schedule may repeat a level (diffusers' of 1000 steps do). A step to the same level changes
    nothing, and is not remembered.
    """

    x0: Array
    h: float


def second_difference(
    x0: Array, h: float, last: EarlierPrediction, first: EarlierPrediction
) -> tuple[Array, Array]:
    """Return first and half the second derivative of x0 in units of `h`, at the newest x0.

    Args:
        x0, h: Prediction and length of this step.
        last, first: Prediction and length of the previous step and of the step before it.
    """
    r0 = last.h / h
    r1 = first.h / h
    d1 = (h / last.h) * (x0 - last.x0)
    d2 = (d1 - (last.x0 - first.x0) * (1.0 / r1)) * (1.0 / (r0 + r1))
    return d1 + r0 * d2, d2


def _add_noise(x: Array, h: float, sigma_next: float, eta: float, noise: Noise) -> Array:
    up = sigma_next * math.sqrt(max(0.0, -math.expm1(-2.0 * eta * h)))
    return x + up * noise() if up > 0 else x


def dpmpp_2m(eta: float = 0.0, solver: str = "midpoint") -> Step:
    r"""DPM-Solver++(2M) and its SDE form: second-order multistep, one evaluation per step.

    .. math:: D = \frac{h}{h_{last}} (x_0 - x_{0,last}), \qquad
              x' = x_0 + e^{-k} (x - x_0) + c\, D + \sigma' \sqrt{1 - e^{-2\eta h}}\,\epsilon

    with c = (1 - e^{-k}) / 2 for `midpoint`, and the exact integral of the straight line through
    both predictions, 1 - (1 - e^{-k}) / k, for `heun`.

    The first step, and the last step to sigma = 0, are of first order (D = 0).

    Args:
        eta: Strength of the fresh noise; 0 is DPM-Solver++(2M), 1 its SDE form.
        solver: Weight of D, `midpoint` or `heun`.

    Returns:
        A step for `sample`: order 2, one evaluation per step. Its history is the last prediction x0
        with the length of its step. It needs `noise` if `eta` is not 0.

    Raises:
        ValueError: `solver` is not one of these.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2, with alpha = 1; k-diffusion,
    `sample_dpmpp_2m`, `sample_dpmpp_2m_sde`.

    >>> import numpy as np
    >>> from ldmref.samplers import dpmpp_2m, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], dpmpp_2m())
    >>> last.x.round(3)  # the exact result is 1
    array([0.99])
    """
    if solver not in ("midpoint", "heun"):
        raise ValueError(f"solver must be 'midpoint' or 'heun', not {solver!r}")

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        h = math.log(sigma / sigma_next)
        x_next = euler_step(x, x0, sigma, sigma * (sigma_next / sigma) ** (1.0 + eta))
        if history:
            last = history[0]
            k = (1.0 + eta) * h
            c = -0.5 * math.expm1(-k) if solver == "midpoint" else exponential_moment(1, k)
            x_next = x_next + (c * h / last.h) * (x0 - last.x0)
        if eta:
            x_next = _add_noise(x_next, h, sigma_next, eta, noise)
        return x_next, x0, (EarlierPrediction(x0, h),) if h != 0.0 else history

    return step


def dpmpp_3m(eta: float = 1.0, solver: str = "heun") -> Step:
    r"""DPM-Solver++(3M) SDE: three predictions, one evaluation per step, as in k-diffusion.

    .. math:: x' = x_0 + e^{-k}(x - x_0) + \varphi_2 D_1 + \varphi_3 D_2
                 + \sigma'\sqrt{1 - e^{-2\eta h}}\,\epsilon, \qquad
              \varphi_2 = 1 - \frac{1 - e^{-k}}{k}, \quad \varphi_3 = \frac12 - \frac{\varphi_2}{k}

    with D_1 the first and D_2 half the second derivative of x0 in units of h, by divided
    differences. The integral of the parabola through three predictions has 2 phi_3 instead of
    phi_3 (`exponential_moment(2, k)`): as published, the second derivative has half its weight, and
    the method is of second order. UniPC's predictor has the exact weights.

    The first step is of first order, the second as DPM-Solver++(2M) with `solver`.

    Args:
        eta: Strength of the fresh noise; 0 is deterministic, 1 the usual sampler.
        solver: Solver of the second-order steps, `midpoint` or `heun`, as in `dpmpp_2m`.

    Returns:
        A step for `sample`: order 2, one evaluation per step. Its history holds the last two
        predictions x0 with the lengths of their steps. It needs `noise` unless `eta` is 0.

    Raises:
        ValueError: `solver` is not one of these.

    Source: k-diffusion, `sample_dpmpp_3m_sde`; Lu et al. 2022, arXiv:2211.01095, published code
    (`multistep_dpm_solver_third_update`).

    >>> import numpy as np
    >>> from ldmref.samplers import dpmpp_3m, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], dpmpp_3m(eta=0.0))
    >>> last.x.round(3)  # the exact result is 1
    array([0.992])
    """
    if solver not in ("midpoint", "heun"):
        raise ValueError(f"solver must be 'midpoint' or 'heun', not {solver!r}")

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        h = math.log(sigma / sigma_next)
        k = (1.0 + eta) * h
        x_next = euler_step(x, x0, sigma, sigma * (sigma_next / sigma) ** (1.0 + eta))
        if history and h > 0.0:
            c1 = exponential_moment(1, k)
            if len(history) == 2:
                d1, d2 = second_difference(x0, h, *history)
                x_next = x_next + 0.5 * exponential_moment(2, k) * d2
            else:
                d1 = (h / history[0].h) * (x0 - history[0].x0)
                c1 = -0.5 * math.expm1(-k) if solver == "midpoint" else c1
            x_next = x_next + c1 * d1
        if eta:
            x_next = _add_noise(x_next, h, sigma_next, eta, noise)
        return x_next, x0, (EarlierPrediction(x0, h), *history[:1]) if h != 0.0 else history

    return step
