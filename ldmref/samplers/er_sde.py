r"""ER-SDE: solvers of the extended reverse SDE, whose strength of noise is a function of sigma."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.path import PURE_NOISE
from ldmref.samplers.steps import euler_step

POINTS = 200  # of the published sum


def published_scale(sigma: float) -> float:
    """Return sigma (exp(sigma^0.3) + 10), phi of ER-SDE-5 and the default of ComfyUI."""
    return sigma * (math.exp(sigma**0.3) + 10.0)


def er_sde(order: int = 3, scale: Callable[[float], float] = published_scale) -> Step:
    r"""ER-SDE-Solver-1, -2 and -3: multistep, one evaluation per step.

    With r = phi(sigma') / phi(sigma) and D_1, D_2 the first and second derivative of x0 in sigma by
    divided differences of the predictions:

    .. math:: x' = x_0 + r (x - x_0) + (\phi(\sigma') I_0 - \delta) D_1
                 + \left(\phi(\sigma') I_1 + \tfrac12 \delta^2\right) D_2
                 + \sqrt{\sigma'^2 - r^2 \sigma^2}\;\epsilon, \qquad
              I_j = \int_{\sigma'}^{\sigma} \frac{(s - \sigma)^j}{\phi(s)}\, ds, \quad
              \delta = \sigma - \sigma'

    phi(s) = s is the probability flow, and phi(s) = s^2 the reverse diffusion. As published, both
    integrals are sums over the left ends of 200 parts. Their error, 1 / 400 of the step times the
    change of the integrand, is of first order. It is small: up to some 50 steps the method
    converges at order 2.

    The step to sigma = 0 goes to x0. The first steps are of order 1 and 2.

    Args:
        order: Number of predictions, 1 to 3.
        scale: phi, a positive function of sigma for which phi(s) / s does not decrease.

    Returns:
        A step for `sample` that needs `noise` unless phi(s) / s is constant: order 1 (see above),
        one evaluation per step. Its history holds the last two predictions with their sigmas.

    Raises:
        ValueError: `order` is not 1, 2 or 3.

    Source: Cui et al. 2023, arXiv:2309.06169, algorithms 1 to 3 (variance-exploding); ComfyUI,
    `sample_er_sde`.

    >>> import numpy as np
    >>> from ldmref.samplers import er_sde, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> *_, last = sample(denoise, np.asarray([2.0]), levels, er_sde(3, lambda sigma: sigma))
    >>> last.x.round(3)  # the exact result is 1
    array([0.982])
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, not {order}")

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        after = scale(sigma_next)
        r = after / scale(sigma) if sigma < PURE_NOISE else 0.0
        x_next = euler_step(x, x0, sigma, r * sigma)
        if len(history) > 0 and order > 1 and sigma != sigma_next:
            (last, x0_last), *earlier = history
            gap = sigma_next - sigma
            width = -gap / POINTS
            points = (sigma_next + width * np.arange(POINTS)).tolist()
            weights = [width / scale(point) for point in points]
            d1 = (x0 - x0_last) * (1.0 / (sigma - last))
            x_next = x_next + (gap + after * sum(weights)) * d1
            if earlier and order > 2:
                ((first, x0_first),) = earlier
                change = d1 - (x0_last - x0_first) * (1.0 / (last - first))
                moment = sum(w * (p - sigma) for w, p in zip(weights, points, strict=True))
                weight = (0.5 * gap**2 + after * moment) / (0.5 * (sigma - first))
                x_next = x_next + weight * change
        up = math.sqrt(max(0.0, sigma_next**2 - (r * sigma) ** 2))
        known = ((sigma, x0), *history[:1]) if sigma != sigma_next else history
        return (x_next + up * noise() if up > 0 else x_next), x0, known

    return step
