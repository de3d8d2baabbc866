r"""DPM-Solver, multistep: the noise prediction is integrated in lambda = -log sigma.

With h = log(sigma / sigma'), the reverse SDE of noise strength eta has the exact solution

.. math:: x' = x - (1 + \eta) \int_0^h \sigma e^{-u}\, \epsilon(\lambda + u)\, du
             + \sqrt{\eta (\sigma^2 - \sigma'^2)}\,\xi

in which the predictions of the last steps approximate eps along the interval. `dpmpp.py` has its
counterpart for the data prediction, DPM-Solver++.
"""

from __future__ import annotations

import math

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.path import PURE_NOISE
from ldmref.samplers.steps import ancestral_sigmas, euler_step


def dpm_solver_multistep(order: int = 2, eta: float = 0.0, solver: str = "midpoint") -> Step:
    r"""DPM-Solver(2M) and (3M), and their SDE form: one evaluation per step.

    .. math:: x' = \mathrm{euler} - \eta(\sigma - \sigma')\epsilon
                 - (1 + \eta)\,(c_1 D_1 + c_2 D_2)
                 + \sqrt{\eta (\sigma^2 - \sigma'^2)}\,\xi

    with D_1 the first and D_2 half the second derivative of eps in units of h, by divided
    differences; c_1 = (sigma - sigma') / 2 for `midpoint`, and for `heun` and in order 3 the exact
    sigma' ((e^h - 1) / h - 1); c_2 = sigma' ((e^h - 1 - h) / h^2 - 1/2), half of its integral, as
    published. The first steps are of lower orders; the step to sigma = 0 goes to x0.

    Args:
        order: Order of the polynomial's steps: 1, 2 or 3.
        eta: Strength of the fresh noise; 0 is deterministic, 1 the SDE form.
        solver: Solver of the second-order steps, `midpoint` or `heun`.

    Returns:
        A step for `sample`: order min(`order`, 2), one evaluation per step. Its history holds the
        last predictions. It needs `noise` if `eta` is not 0.

    Raises:
        ValueError: `order` or `solver` is not one of these.

    Source: Lu et al. 2022, arXiv:2206.00927, published code; diffusers 0.42.1,
    `algorithm_type="dpmsolver"` and `"sde-dpmsolver"`.

    >>> import numpy as np
    >>> from ldmref.samplers import dpm_solver_multistep, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> *_, last = sample(denoise, np.asarray([2.0]), levels, dpm_solver_multistep())
    >>> last.x.round(3)  # the exact result is 1
    array([0.986])
    """
    if order not in (1, 2, 3) or solver not in ("midpoint", "heun"):
        raise ValueError(f"order must be 1 to 3, solver midpoint or heun; not {order}, {solver!r}")

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        eps = (x - x0) * (1.0 / sigma)
        past = ((sigma, eps), *history)[:order]
        if sigma >= PURE_NOISE:  # the SDE in eps has no first step there: take that of `ancestral`
            down, up = ancestral_sigmas(sigma, sigma_next, eta)
            x_next = euler_step(x, x0, sigma, down)
            return (x_next + up * noise() if up > 0 else x_next), x0, past
        h = math.log(sigma / sigma_next)
        k = 1.0 + eta
        x_next = euler_step(x, x0, sigma, sigma_next) - (eta * (sigma - sigma_next)) * eps
        exact = sigma_next * (math.expm1(h) / h - 1.0) if h else 0.0
        if len(past) > 1 and h:
            d1 = _slope(past[0], past[1], h)
            c1 = exact if len(past) == 3 or solver == "heun" else 0.5 * (sigma - sigma_next)
            if len(past) == 3:
                earlier = _slope(past[1], past[2], h)
                r0, r1 = (math.log(past[i + 1][0] / past[i][0]) / h for i in range(2))
                d2 = (d1 - earlier) * (1.0 / (r0 + r1))
                d1 = d1 + r0 * d2
                c2 = sigma_next * ((math.expm1(h) - h) / h**2 - 0.5)
                x_next = x_next - (k * c2) * d2
            x_next = x_next - (k * c1) * d1
        up = math.sqrt(eta * max(0.0, sigma**2 - sigma_next**2))
        past = past if h else history  # a repeated level is not remembered
        return (x_next + up * noise() if up > 0 else x_next), x0, past

    return step


def _slope(new: tuple[float, Array], old: tuple[float, Array], h: float) -> Array:
    """Return the divided difference of two predictions, in units of h."""
    return (new[1] - old[1]) * (h / math.log(old[0] / new[0]))
