"""Latent consistency models: jump to the clean data, add fresh noise, and again."""

from __future__ import annotations

from ldmref.math.arrays import Array
from ldmref.samplers.loop import Denoiser, History, Interval, Noise, Step, Stepped


def lcm() -> Step:
    r"""Multistep consistency sampling, for networks that were distilled for it.

    .. math:: x' = x_0 + \sigma'\,\epsilon

    A consistency function maps every point of a probability-flow path to its clean end, so that one
    step is a sample and every further one only mends it. With an ordinary denoiser, whose x0 is an
    average of possible pictures, the walk does not converge to the data, however many steps it has:
    the declared order is 0.

    The boundary coefficients c_skip = s^2 / (tau^2 + s^2) and c_out = tau / sqrt(tau^2 + s^2) with
    s = 1/2 and tau = 10 t, which diffusers applies outside the network, are 0 and 1 to within 2e-5
    for every timestep t >= 19 on which these networks are run, and are left out.

    Source: Luo et al. 2023, arXiv:2310.04378, algorithm 3; Song et al. 2023, arXiv:2303.01469,
    algorithm 1.
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        return (x0 + sigma_next * noise() if sigma_next > 0 else x0), x0, ()

    return step
