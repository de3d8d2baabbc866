r"""Linear multistep methods: a polynomial through the slopes of this step and the last ones.

LMS, PNDM, iPNDM and DEIS are one method. Each interpolates the slope eps by the polynomial through
the known slopes and integrates it exactly; they differ only in the variable tau of the polynomial:

| method | polynomial in                       | start                                            |
|--------|-------------------------------------|--------------------------------------------------|
| LMS    | sigma (Adams-Bashforth)             | Runge-Kutta 4, or lower orders as in k-diffusion |
| DEIS   | log sigma                           | lower orders, or Runge-Kutta 4                   |
| PNDM   | the index of the step               | one step of Heun, then lower orders              |
| iPNDM  | the index of the step               | lower orders                                     |

With r = (tau - tau_n) / (tau_{n+1} - tau_n), the weights of the differences to the newest slope
solve the moment equations

.. math:: \sum_{j=1}^{p-1} w_j\, r_j^i = \int_{\sigma_n}^{\sigma_{n+1}} r^i\, d\sigma,
          \quad i = 1, \dots, p - 1, \qquad
          x' = \mathrm{euler} + \sum_j w_j (e_{n-j} - e_n)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.moments import moment_weights, quadrature
from ldmref.samplers.path import PURE_NOISE
from ldmref.samplers.runge_kutta import HEUN, RK4, Tableau, combine, runge_kutta_correction
from ldmref.samplers.steps import euler_step

# (sigmas of the earlier slopes, newest first; sigma; sigma_next) -> a weight for each
Rule = Callable[[Sequence[float], float, float], list[float]]


class MultistepHistory(NamedTuple):
    """The newest slope of the last step, and the differences of earlier slopes to it.

    `sigma`: of the newest slope; `arrived`: the result of the step; `target`: the clean data to
    which the newest slope points from there; `past`: ((sigma, slope minus the newest slope), ...),
    newest first.
    """

    sigma: float
    arrived: Array
    target: Array
    past: tuple[tuple[float, Array], ...]


def recall(x: Array, x0: Array, sigma: float, history: tuple, most: int) -> tuple:
    """Return the last `most` slopes minus the slope at x: ((sigma, difference), ...), newest first.

    The slope has changed by ((x - arrived) + (target - x0)) / sigma since the last step; the first
    term is 0 unless a constraint has moved x in between.
    """
    if not history:
        return ()
    last, arrived, target, past = history
    change = ((x - arrived) + (target - x0)) * (1.0 / sigma)
    return ((last, -change), *((s, d - change) for s, d in past))[:most]


def linear_multistep(
    order: int,
    rule: Rule,
    start: Tableau | None = None,
    start_steps: int = 0,
    integrate_to_zero: bool = False,
) -> Step:
    """Return the step shared by all methods of this file.

    Args:
        order: Number of slopes, >= 1.
        rule: Function that returns the weights of the slopes.
        start: Method of the first `start_steps` steps, except from pure noise; afterwards, or
            without it, the order grows by one with every step up to `order`.
        start_steps: Number of steps by `start`.
        integrate_to_zero: Whether the step to sigma = 0 also integrates the polynomial; otherwise
            it returns x0.
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0 and not integrate_to_zero:
            return x0, x0, ()
        if sigma == sigma_next:  # diffusers' DEIS repeats the last of Karras' sigmas
            return x, x0, history
        past = recall(x, x0, sigma, history, order - 1)
        if start is not None and len(past) < start_steps and sigma < PURE_NOISE:
            correction = runge_kutta_correction(denoise, x, x0, sigma, sigma_next, start)
        else:
            weights = rule([s for s, _ in past], sigma, sigma_next)
            correction = combine(weights, [d for _, d in past])
        x_next = euler_step(x, x0, sigma, sigma_next) + correction
        return x_next, x0, MultistepHistory(sigma, x_next, x0 + correction, past)

    return step


def adams_bashforth_rule(past: Sequence[float], sigma: float, sigma_next: float) -> list[float]:
    """Return weights for polynomials in sigma, of moments (sigma' - sigma) / (i + 1)."""
    h = sigma_next - sigma
    moments = [h / (i + 2) for i in range(len(past))]
    return moment_weights([(s - sigma) / h for s in past], moments)


def index_rule(past: Sequence[float], sigma: float, sigma_next: float) -> list[float]:
    """Return weights for polynomials in the step's index, as if the steps were equal."""
    moments = [(sigma_next - sigma) / (i + 2) for i in range(len(past))]
    return moment_weights([-(j + 1.0) for j in range(len(past))], moments)


def log_rule(past: Sequence[float], sigma: float, sigma_next: float) -> list[float]:
    r"""Return weights for polynomials in log sigma.

    With h = log(sigma / sigma'), d sigma = -sigma h e^(-h r) dr.
    """
    h = math.log(sigma / sigma_next)
    u, w = quadrature()
    density = -sigma * h * np.exp(-h * u) * w
    moments = [float(np.sum(density * u ** (i + 1))) for i in range(len(past))]
    return moment_weights([math.log(sigma / s) / h for s in past], moments)


def _start(name: str, order: int) -> tuple[Tableau | None, int]:
    if name not in ("runge_kutta", "euler"):
        raise ValueError(f"start must be 'runge_kutta' or 'euler', not {name!r}")
    return (RK4, order - 1) if name == "runge_kutta" else (None, 0)


def lms(order: int = 4, start: str = "runge_kutta") -> Step:
    """Linear multistep in sigma: Adams-Bashforth with unequal steps; order 1 is Euler's method.

    Args:
        order: Number of slopes, from 1 to 4.
        start: `runge_kutta` takes order - 1 steps of RK4 first and converges at `order`. `euler`
            starts with orders 1, 2, 3 and integrates the polynomial to sigma = 0, as k-diffusion
            and diffusers do; it converges at order 2 because the first step's error remains.

    Returns:
        A step for `sample`: one evaluation per step after the start. Its history holds the last
        `order` slopes.

    Raises:
        ValueError: `order` or `start` is not one of these.

    Source: k-diffusion, `sample_lms`; Hairer, Norsett, Wanner 1993, Solving ODEs I, section III.5
    (variable steps).

    >>> import numpy as np
    >>> from ldmref.samplers import lms, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], lms())
    >>> last.x.round(3)  # the exact result is 1
    array([1.])
    """
    if not 1 <= order <= 4:
        raise ValueError(f"order must be from 1 to 4, not {order}")
    return linear_multistep(order, adams_bashforth_rule, *_start(start, order), start == "euler")


def deis(order: int = 2, start: str = "euler") -> Step:
    """Diffusion exponential integrator sampler (tAB-DEIS) with the polynomial in log sigma.

    Args:
        order: Number of slopes, from 1 to 4; diffusers has 1 to 3.
        start: `euler` starts with lower orders, as diffusers does, and converges at order
            min(order, 2). `runge_kutta` takes order - 1 steps of RK4 first and converges at
            `order`.

    Returns:
        A step for `sample`: one evaluation per step after the start. Its history holds the last
        `order` slopes.

    Raises:
        ValueError: `order` or `start` is not one of these.

    Source: Zhang and Chen 2022, arXiv:2204.13902, section 3.2 (tAB-DEIS) in the variable log rho.

    >>> import numpy as np
    >>> from ldmref.samplers import deis, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], deis())
    >>> last.x.round(3)  # the exact result is 1
    array([0.984])
    """
    if not 1 <= order <= 4:
        raise ValueError(f"order must be from 1 to 4, not {order}")
    return linear_multistep(order, log_rule, *_start(start, order))


def pndm() -> Step:
    """Pseudo linear multistep (PLMS): four slopes, weighted as if the steps were equal.

    The first step is Heun's. Programs that take one network evaluation per step write it as two,
    with the second timestep repeated: 951, 901, 901, 851, ... is this grid's 951, 901, 851, ...
    Weights that ignore the sizes of the steps make it of order 2, not 4.

    Returns:
        A step for `sample`: order 2, one evaluation per step (two in the first). Its history holds
        the last four slopes.

    Source: Liu et al. 2022, arXiv:2202.09778, eq. 12 and algorithm 2 (PLMS), without its
    Runge-Kutta start, as CompVis' `PLMSSampler`.

    >>> import numpy as np
    >>> from ldmref.samplers import pndm, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], pndm())
    >>> last.x.round(3)  # the exact result is 1
    array([1.005])
    """
    return linear_multistep(4, index_rule, HEUN, 1)


def ipndm() -> Step:
    """Improved PNDM: `pndm` with a start of orders 1, 2, 3 and one evaluation in every step.

    Returns:
        A step for `sample`: order 2, one evaluation per step; its history holds four slopes.

    Source: Zhang and Chen 2022, arXiv:2204.13902, section 3.2 (iPNDM); ComfyUI, `sample_ipndm`.

    >>> import numpy as np
    >>> from ldmref.samplers import ipndm, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], ipndm())
    >>> last.x.round(3)  # the exact result is 1
    array([0.991])
    """
    return linear_multistep(4, index_rule)


def gradient_estimation(gamma: float = 2.0) -> Step:
    r"""Euler's method along the slope, extrapolated by its last change.

    .. math:: \bar e = \gamma e_n + (1 - \gamma) e_{n-1}, \qquad
              x' = x + (\sigma' - \sigma)\,\bar e

    Args:
        gamma: Weight of the newest slope: 1 is Euler's method, 1.5 second-order Adams-Bashforth
            with equal steps.

    Returns:
        A step for `sample`: order 1, one evaluation per step. Its history is the last slope.

    Source: Permenter and Yuan 2023, arXiv:2306.04848, algorithm 2; ComfyUI,
    `sample_gradient_estimation`.

    >>> import numpy as np
    >>> from ldmref.samplers import gradient_estimation, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> *_, last = sample(denoise, np.asarray([2.0]), levels, gradient_estimation())
    >>> last.x.round(3)  # the exact result is 1
    array([1.021])
    """

    def rule(past: Sequence[float], sigma: float, sigma_next: float) -> list[float]:
        return [(1.0 - gamma) * (sigma_next - sigma)] * len(past)

    return linear_multistep(2, rule)
