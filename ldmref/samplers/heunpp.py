"""Heun++: three slopes at the schedule's next levels, with weights that follow the noise level."""

from __future__ import annotations

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.steps import euler_step


def heunpp2() -> Step:
    r"""Heun++2: slopes here, at the next level and at the level after it.

    .. math:: x' = x + (\sigma' - \sigma) ((1 - w_2 - w_3) e_1 + w_2 e_2 + w_3 e_3), \qquad
              w_2 = \frac{\sigma'}{3 \sigma_0}, \quad w_3 = \frac{\sigma''}{3 \sigma_0}

    with sigma_0 the first level of the run. In the step before the last there are two slopes, with
    the weight sigma' / (2 sigma_0) of the second; the last step is Euler's. The weights of later
    slopes vanish with sigma, so that the method turns from Heun's into Euler's along the run. It is
    of order 1.

    Returns:
        A step for `sample`: order 1, three evaluations per step (two and one in the last two). Its
        history is sigma_0. It reads the levels ahead in the interval of the step.

    Source: ComfyUI, `sample_heunpp2`; Carzit, sd-webui-samplers-scheduler.

    >>> import numpy as np
    >>> from ldmref.samplers import heunpp2, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], heunpp2())
    >>> last.x.round(3)  # the exact result is 1
    array([0.987])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        (start,) = history or (sigma,)
        x0 = denoise(x, sigma)
        x_next = euler_step(x, x0, sigma, sigma_next)
        if not interval.ahead or sigma_next == 0.0:
            return x_next, x0, (start,)
        slopes = 2 if len(interval.ahead) == 1 or interval.ahead[0] == 0.0 else 3
        unit = (sigma_next - sigma) / (slopes * start)
        d2 = (x0 - denoise(x_next, sigma_next)) * (1.0 / sigma_next)  # e_2 - e_1
        correction = (unit * sigma_next) * d2
        if slopes == 3:
            after = interval.ahead[0]
            bend = (after - sigma_next) * d2
            u = euler_step(x, x0, sigma, after) + bend
            correction = correction + unit * (x0 - denoise(u, after) + bend)
        return x_next + correction, x0, (start,)

    return step
