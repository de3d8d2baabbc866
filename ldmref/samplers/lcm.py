"""Latent consistency models: predict the clean data, add fresh noise, repeat."""

from __future__ import annotations

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped, toward


def lcm() -> Step:
    r"""Multistep consistency sampling, for networks distilled for it.

    .. math:: x' = x_0 + \sigma'\,\epsilon

    A consistency function maps every point of a probability-flow path to its clean end, so one step
    yields a sample, and further ones refine it. With an ordinary denoiser, whose x0 is an average
    of possible images, the method does not converge to the data: the declared order is 0.

    The boundary coefficients c_skip = s^2 / (tau^2 + s^2) and c_out = tau / sqrt(tau^2 + s^2) with
    s = 1/2 and tau = 10 t, which diffusers applies outside the network, are 0 and 1 to within 2e-5
    for every timestep t >= 19 on which these networks are run, and are left out.

    Returns:
        A step for `sample` that needs `noise`: one evaluation per step, no history.

    Source: Luo et al. 2023, arXiv:2310.04378, algorithm 3; Song et al. 2023, arXiv:2303.01469,
    algorithm 1.

    >>> import numpy as np
    >>> from ldmref.samplers import Streams, lcm, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> noise = Streams([7], (1,))
    >>> *_, last = sample(denoise, np.asarray([[2.0]]), levels, lcm(), noise=noise)
    >>> last.x.round(3)
    array([[1.612]])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        x0 = toward(denoise, interval, 0.0)(x, interval.sigma)
        return (x0 + interval.sigma_next * noise() if interval.sigma_next > 0 else x0), x0, ()

    return step
