r"""Churn: raise the noise level a little before each step of a deterministic method.

On `VE` (on other paths the ratio sigma / alpha is raised, and nothing at pure noise):

.. math:: \hat\sigma = (1 + \gamma)\,\sigma, \qquad
          \hat x = x + s_{noise} \sqrt{\hat\sigma^2 - \sigma^2}\,\epsilon, \qquad
          x' = \mathrm{step}(\hat x, \hat\sigma, \sigma')
"""

from __future__ import annotations

import math

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.path import PURE_NOISE
from ldmref.samplers.runge_kutta import heun
from ldmref.samplers.steps import ancestral

MOST = math.sqrt(2.0) - 1.0  # gamma; the noise at most doubles its variance


def churn(
    inner: Step,
    s_churn: float = 40.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Step:
    """Add EDM's churn to a deterministic singlestep method.

    gamma = min(s_churn / n, sqrt(2) - 1) in a run of n steps if s_tmin <= sigma <= s_tmax, and 0
    otherwise.
    s_churn = 0 is `inner` itself. For ImageNet-64 with 256 steps, EDM has s_churn = 40,
    s_tmin = 0.05, s_tmax = 50 and s_noise = 1.003 (table 5).

    Args:
        inner: Step of a deterministic singlestep method, such as `heun()`.
        s_churn: Total amount of churn, >= 0.
        s_tmin: Smallest noise level that is raised, >= 0.
        s_tmax: Largest noise level that is raised, >= s_tmin.
        s_noise: Scale of the fresh noise, > 0. Only 1 keeps the distribution; slightly more
            compensates for detail that a network removes.

    Returns:
        A step for `sample` that needs `noise`: order, evaluations and history are those of `inner`,
        whose step starts at the raised noise level.

    Raises:
        ValueError: A number is outside its range.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2; NVlabs/edm, `generate.py`.

    >>> import numpy as np
    >>> from ldmref.samplers import Streams, churn, heun, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> noise = Streams([7], (1,))
    >>> step = churn(heun(), s_churn=1.0)
    >>> *_, last = sample(denoise, np.asarray([[2.0]]), levels, step, noise=noise)
    >>> last.x.round(3)
    array([[2.337]])
    """
    if not (s_churn >= 0.0 and s_noise > 0.0 and 0.0 <= s_tmin <= s_tmax):
        raise ValueError(
            f"churn needs s_churn >= 0, s_noise > 0 and 0 <= s_tmin <= s_tmax, "
            f"not {s_churn}, {s_noise}, {s_tmin} and {s_tmax}"
        )

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        path = interval.path
        ratio = path.ratio(interval.sigma)
        gamma = min(s_churn / interval.n, MOST) if s_tmin <= ratio <= s_tmax else 0.0
        if gamma > 0.0 and ratio < PURE_NOISE:
            raised = path.level(ratio * (1.0 + gamma))
            keep, up = path.forward(interval.sigma, raised)
            x = keep * x + (s_noise * up) * noise()
            interval = interval._replace(sigma=raised)
        return inner(denoise, x, interval, history, noise)

    return step


def euler_churn(**options: float) -> Step:
    """Return Euler's method with churn.

    Args:
        options: Arguments of `churn` by name: `s_churn`, `s_tmin`, `s_tmax` and `s_noise`.

    Returns:
        A step for `sample` that needs `noise`: order 1, one evaluation per step, no history.

    Raises:
        ValueError: A number is outside its range.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2, without its lines 9 to 11;
    k-diffusion, `sample_euler`.

    >>> import numpy as np
    >>> from ldmref.samplers import Streams, euler_churn, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> noise = Streams([7], (1,))
    >>> step = euler_churn(s_churn=1.0)
    >>> *_, last = sample(denoise, np.asarray([[2.0]]), levels, step, noise=noise)
    >>> last.x.round(3)
    array([[2.072]])
    """
    return churn(ancestral(0.0), **options)


def heun_churn(**options: float) -> Step:
    """Return EDM's stochastic sampler: Heun's method with churn.

    Args:
        options: Arguments of `churn` by name: `s_churn`, `s_tmin`, `s_tmax` and `s_noise`.

    Returns:
        A step for `sample` that needs `noise`: order 2, two evaluations per step, no history.

    Raises:
        ValueError: A number is outside its range.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2.

    >>> import numpy as np
    >>> from ldmref.samplers import Streams, heun_churn, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> noise = Streams([7], (1,))
    >>> step = heun_churn(s_churn=1.0)
    >>> *_, last = sample(denoise, np.asarray([[2.0]]), levels, step, noise=noise)
    >>> last.x.round(3)
    array([[2.337]])
    """
    return churn(heun(), **options)
