r"""DPM-Solver and DPM-Solver++, singlestep: exponential integrators in lambda = -log sigma.

With h = lambda' - lambda = log(sigma / sigma'), the intermediate node lambda + r h is
sigma e^(-r h). DPM-Solver expands the noise eps in lambda, DPM-Solver++ the data x0.
"""

from __future__ import annotations

import math

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import (
    Denoiser,
    History,
    Interval,
    Noise,
    Step,
    Stepped,
    between,
)
from ldmref.samplers.path import PURE_NOISE
from ldmref.samplers.steps import ancestral, ancestral_sigmas, euler_step


def dpm_solver(order: int = 2) -> Step:
    r"""DPM-Solver-1, -2 and -3: `order` evaluations for each step.

    .. math:: s_i = \sigma e^{-r_i h}, \quad u_1 = \mathrm{euler}(s_1), \quad
              D_i = \epsilon(u_i) - \epsilon(x) \qquad

    Order 2 (r_1 = 1/2): x' = euler(sigma') - (sigma - sigma') D_1.
    Order 3 (r_1 = 1/3, r_2 = 2/3), with phi(h) = (e^h - 1) / h - 1:

    .. math:: u_2 = \mathrm{euler}(s_2) - s_2 \frac{r_2}{r_1} \varphi(r_2 h) D_1, \qquad
              x' = \mathrm{euler}(\sigma') - \frac{\sigma'}{r_2} \varphi(h) D_2

    Order 1 is DDIM; order 2 is k-diffusion's DPM2. The step to sigma = 0 goes to x0. A step from
    pure noise (`ldmref.samplers.path`), where lambda is infinite and eps has no expansion in it, is
    DDIM's.

    Args:
        order: Number of evaluations per step: 1, 2 or 3.

    Returns:
        A step for `sample`: order `order`, `order` evaluations per step (one in the step to 0), no
        history.

    Raises:
        ValueError: `order` is not 1, 2 or 3.

    Source: Lu et al. 2022, arXiv:2206.00927, algorithms 1 (DPM-Solver-2) and 2 (DPM-Solver-3).

    >>> import numpy as np
    >>> from ldmref.samplers import dpm_solver, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], dpm_solver())
    >>> last.x.round(3)  # the exact result is 1
    array([1.005])
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, not {order}")
    if order == 1:
        return ancestral(0.0)

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        end = euler_step(x, x0, sigma, sigma_next)
        if sigma >= PURE_NOISE:
            return end, x0, ()
        h = math.log(sigma / sigma_next)
        inside = between(denoise, interval)
        r1 = 0.5 if order == 2 else 1.0 / 3.0
        s1 = sigma * math.exp(-r1 * h)
        d1 = (x0 - inside(euler_step(x, x0, sigma, s1), s1)) * (1.0 / s1)
        if order == 2:
            return end + (sigma_next - sigma) * d1, x0, ()
        r2 = 2.0 / 3.0
        s2 = sigma * math.exp(-r2 * h)
        correction = -s2 * (r2 / r1) * _phi(r2 * h) * d1
        d2 = (x0 - inside(euler_step(x, x0, sigma, s2) + correction, s2) + correction) * (1.0 / s2)
        return end - (sigma_next / r2) * _phi(h) * d2, x0, ()

    return step


def _phi(h: float) -> float:
    return math.expm1(h) / h - 1.0


def dpmpp_2s() -> Step:
    r"""DPM-Solver++(2S): second-order singlestep for the data prediction, midpoint in lambda.

    .. math:: u = \mathrm{euler}(\sigma e^{-h/2}), \qquad
              x' = \mathrm{euler}(\sigma') + (1 - e^{-h}) (x_0(u) - x_0)

    Returns:
        A step for `sample`: order 2, two evaluations per step (one in the step to 0), no history.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2 and alpha = 1.

    >>> import numpy as np
    >>> from ldmref.samplers import dpmpp_2s, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], dpmpp_2s())
    >>> last.x.round(3)  # the exact result is 1
    array([0.996])
    """
    return dpmpp_sde(0.0)


def dpmpp_sde(eta: float = 1.0, r: float = 0.5) -> Step:
    r"""DPM-Solver++ SDE: DPM-Solver++(2S) with fresh noise, at the midpoint and at the end.

    Both substeps, to s = sigma e^(-r h) and to sigma', start at x, step to their sigma_down and add
    independent noise of strength sigma_up (`ancestral_sigmas`):

    .. math:: u = \mathrm{euler}(s_{down}) + s_{up}\,\epsilon_1, \qquad
              x' = \mathrm{euler}(\sigma'_{down})
                 + \left(1 - \frac{\sigma'_{down}}{\sigma}\right) \frac{x_0(u) - x_0}{2 r}
                 + \sigma'_{up}\,\epsilon_2

    k-diffusion takes both noises from one Brownian path: they are correlated, and samples with few
    and with many steps resemble each other.

    Args:
        eta: Strength of the fresh noise; 0 is DPM-Solver++(2S), 1 the usual sampler.
        r: Position of the intermediate node in units of h, in (0, 1].

    Returns:
        A step for `sample` that needs `noise`, two arrays of it per step: two evaluations per step
        (one in the step to 0), no history.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 1; k-diffusion, `sample_dpmpp_sde`.

    >>> import numpy as np
    >>> from ldmref.samplers import Streams, dpmpp_sde, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> noise = Streams([7], (1,))
    >>> *_, last = sample(denoise, np.asarray([[2.0]]), levels, dpmpp_sde(), noise=noise)
    >>> last.x.round(3)
    array([[1.337]])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        s = sigma * math.exp(-r * math.log(sigma / sigma_next))
        down, up = ancestral_sigmas(sigma, s, eta)
        u = euler_step(x, x0, sigma, down)
        inside = between(denoise, interval)
        difference = inside(u + up * noise() if up > 0 else u, s) - x0
        down, up = ancestral_sigmas(sigma, sigma_next, eta)
        x_next = euler_step(x, x0, sigma, down) + ((1.0 - down / sigma) * 0.5 / r) * difference
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step
