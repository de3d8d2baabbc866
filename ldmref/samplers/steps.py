r"""Step functions and their building blocks, in the coordinates x = x0 + sigma eps.

Every step contains Euler's step, from x at sigma along the slope eps = (x - x0) / sigma to sigma'.
It is DDIM, and the first order of every other method:

.. math:: x' = x_0 + \frac{\sigma'}{\sigma}(x - x_0)

A method of higher order adds a *correction*, a combination of differences of predictions x0. In
this form nothing cancels when sigma is large; a combination of slopes would lose the digits of x0
below sigma times the rounding unit, a full unit of data in float32 at sigma = 2e4.

| file                 | methods                                                                 |
|----------------------|-------------------------------------------------------------------------|
| `steps.py`           | DDPM, DDIM, Euler, Euler-ancestral: one function of eta                 |
| `runge_kutta.py`     | midpoint, Heun, RK4, adaptive Dormand-Prince, from Butcher tableaux     |
| `multistep.py`       | LMS, PNDM, iPNDM, DEIS: polynomials through the slopes of earlier steps |
| `dpm_solver.py`      | DPM-Solver-2 and -3, DPM-Solver++(2S), DPM-Solver++ SDE                 |
| `dpm_multistep.py`   | DPM-Solver, multistep                                                   |
| `singlestep.py`      | DPM-Solver++, singlestep over the schedule's own sigmas                 |
| `dpmpp.py`           | DPM-Solver++(2M), (2M) SDE, (3M) SDE                                    |
| `unipc.py`           | UniPC: a predictor and a corrector that share one evaluation            |
| `churn.py`           | EDM's churn around Euler and Heun                                       |
| `seeds.py`           | SEEDS-2 and -3, exponential Heun                                        |
| `er_sde.py`          | ER-SDE                                                                  |
| `heunpp.py`          | Heun++                                                                  |
| `ipndm_v.py`         | iPNDM with variable steps                                               |
| `lcm.py`             | latent consistency models                                               |
| `tcd.py`             | trajectory consistency distillation                                     |
| `cfgpp.py`           | CFG++: guided data, noise of the unconditional prediction               |
| `rectified_cfgpp.py` | Rectified-CFG++, for flows                                              |
"""

from __future__ import annotations

import math

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped, toward


def euler_step(x: Array, x0: Array, sigma: float, sigma_next: float) -> Array:
    r"""Take Euler's step along the noise x - x0: DDIM.

    .. math:: x' = x_0 + \frac{\sigma'}{\sigma}(x - x_0)

    Args:
        x: State at `sigma`, (n, ...) or any other shape.
        x0: Prediction of the clean data at x, shape of `x`.
        sigma: Noise level of x, > 0.
        sigma_next: Noise level to step to, >= 0; at 0 the result is x0.

    Returns:
        The state at `sigma_next`, shape and dtype of `x`.

    Source: Song, Meng, Ermon 2020, arXiv:2010.02502, eq. 13, divided by the root of alpha-bar.

    >>> euler_step(5.0, 1.0, 2.0, 1.0)
    3.0
    """
    return x0 + (sigma_next / sigma) * (x - x0)


def ancestral_sigmas(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    r"""Return (sigma_down, sigma_up): a step to sigma_down plus noise of sigma_up reaches sigma'.

    .. math:: \sigma_{up} = \eta\,\sigma'\sqrt{1 - \sigma'^2/\sigma^2}, \quad
              \sigma_{down} = \sqrt{\sigma'^2 - \sigma_{up}^2}

    Args:
        sigma, sigma_next: Noise levels before and after, sigma > 0; a step up adds no noise.
        eta: Strength of the noise, from 0 (none) to 1 (the posterior's).

    Raises:
        ValueError: `eta` is outside [0, 1].

    Source: Song, Meng, Ermon 2020, arXiv:2010.02502, eq. 16, divided by the root of alpha-bar.

    >>> ancestral_sigmas(5.0, 4.0, 0.0)
    (4.0, 0.0)
    >>> [round(s, 6) for s in ancestral_sigmas(5.0, 4.0, 1.0)]
    [3.2, 2.4]
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be from 0 to 1, not {eta}")
    # the ratio first: sigma may be large, and the product stays <= sigma_next
    up = eta * sigma_next * math.sqrt(max(0.0, 1.0 - (sigma_next / sigma) ** 2))
    return math.sqrt(sigma_next**2 - up**2), up


def ancestral(eta: float = 0.0) -> Step:
    r"""DDPM, DDIM, Euler and Euler-ancestral: one function of eta.

    .. math:: x' = x_0 + \frac{\sigma_{down}}{\sigma}(x - x_0) + \sigma_{up}\,\epsilon

    with the two sigmas of `ancestral_sigmas`. eta = 0 is Euler's method for the probability-flow
    ODE, which is DDIM; eta = 1 samples from the posterior q(x_s | x_t, x_0), which is DDPM; in
    between it is DDIM(eta).

    Args:
        eta: Strength of the fresh noise, from 0 (none) to 1 (the posterior's).

    Returns:
        A step for `sample`, with one evaluation of the denoiser and no history.

    Raises:
        ValueError: `eta` is outside [0, 1] (raised by the step).

    Source: Song, Meng, Ermon 2020, arXiv:2010.02502, eq. 12 and 16; Ho, Jain, Abbeel 2020,
    arXiv:2006.11239, eq. 7; Karras et al. 2022, arXiv:2206.00364, algorithm 1 with Euler steps.

    >>> import numpy as np
    >>> from ldmref.samplers import ancestral, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], ancestral())
    >>> last.x.round(3)  # the exact result is 1
    array([0.949])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        down, up = ancestral_sigmas(sigma, sigma_next, eta)
        x0 = toward(denoise, interval, down)(x, sigma)
        x_next = euler_step(x, x0, sigma, down)
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step


def with_noise(inner: Step, eta: float = 1.0) -> Step:
    """Return the ancestral form of a step: step to sigma_down, then add fresh noise.

    `with_noise(ancestral(0), eta)` is `ancestral(eta)`; the other samplers whose names end in "a"
    are built in the same way.

    Args:
        inner: Step of a deterministic singlestep method.
        eta: Strength of the fresh noise, from 0 (none) to 1 (the posterior's).

    Returns:
        A step for `sample` that needs `noise`; order, evaluations and history are those of `inner`.

    Raises:
        ValueError: `eta` is outside [0, 1] (raised by the step).

    Source: k-diffusion, `sample_dpm_2_ancestral`, `sample_dpmpp_2s_ancestral`.

    >>> import numpy as np
    >>> from ldmref.samplers import Streams, heun, sample, with_noise
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> noise = Streams([7], (1,))
    >>> *_, last = sample(denoise, np.asarray([[2.0]]), levels, with_noise(heun()), noise=noise)
    >>> last.x.round(3)
    array([[2.232]])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        down, up = ancestral_sigmas(sigma, sigma_next, eta)
        x_next, x0, history = inner(denoise, x, interval._replace(sigma_next=down), history, noise)
        return (x_next + up * noise() if up > 0 else x_next), x0, history

    return step
