r"""Churn: raise the noise level a little before each step of a deterministic method.

.. math:: \hat\sigma = (1 + \gamma)\,\sigma, \qquad
          \hat x = x + s_{noise} \sqrt{\hat\sigma^2 - \sigma^2}\,\epsilon, \qquad
          x' = \mathrm{step}(\hat x, \hat\sigma, \sigma')
"""

from __future__ import annotations

import math

from ldmref.math.arrays import Array
from ldmref.samplers.loop import Denoiser, History, Interval, Noise, Step, Stepped
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
    r"""Add EDM's churn to a deterministic singlestep method.

    gamma = min(s_churn / n, sqrt(2) - 1) in a run of n steps if s_tmin <= sigma <= s_tmax, and 0
    otherwise.
    s_churn = 0 is `inner` itself. For ImageNet-64 with 256 steps, EDM has s_churn = 40,
    s_tmin = 0.05, s_tmax = 50 and s_noise = 1.003 (table 5).

    Args:
        inner: Step of a deterministic singlestep method, such as `heun()`.
        s_churn: Total amount of churn, >= 0.
        s_tmin, s_tmax: Range of the noise levels that are raised, 0 <= s_tmin <= s_tmax.
        s_noise: Scale of the fresh noise, > 0. Only 1 keeps the distribution; slightly more
            compensates for detail that a network removes.

    Raises:
        ValueError: A number is outside its range.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2; NVlabs/edm, `generate.py`.
    """
    if not (s_churn >= 0.0 and s_noise > 0.0 and 0.0 <= s_tmin <= s_tmax):
        raise ValueError(
            f"churn needs s_churn >= 0, s_noise > 0 and 0 <= s_tmin <= s_tmax, "
            f"not {s_churn}, {s_noise}, {s_tmin} and {s_tmax}"
        )

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        gamma = min(s_churn / interval.n, MOST) if s_tmin <= sigma <= s_tmax else 0.0
        if gamma > 0.0:
            raised = sigma * (1.0 + gamma)
            x = x + (s_noise * math.sqrt(raised**2 - sigma**2)) * noise()
            interval = interval._replace(sigma=raised)
        return inner(denoise, x, interval, history, noise)

    return step


def euler_churn(**options: float) -> Step:
    """Make Euler's method with churn; the options are the arguments of `churn`.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2, without its lines 9 to 11;
    k-diffusion, `sample_euler`.
    """
    return churn(ancestral(0.0), **options)


def heun_churn(**options: float) -> Step:
    """Make EDM's stochastic sampler, Heun's method with churn; options: arguments of `churn`.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2.
    """
    return churn(heun(), **options)
