r"""SEEDS: exponential Runge-Kutta methods for the reverse SDE, in lambda = -log sigma.

The stages of a step of length h = log(sigma / sigma') lie at lambda + r h, and each is the exact
solution of the equation in `dpmpp.py` with a polynomial through earlier stages in place of x0. The
noises of the stages belong to one Ornstein-Uhlenbeck path W, so that they fit each other:

.. math:: W_0 = 0, \qquad W_{r'} = e^{-(r' - r)\eta h}\, W_r
              + \sqrt{1 - e^{-2 (r' - r)\eta h}}\;\epsilon
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
from ldmref.samplers.moments import exponential_moment
from ldmref.samplers.steps import euler_step


def _move_on(path: Array, length: float, noise: Noise) -> Array:
    """Return the path of the noise after a time of `length` = eta h (r' - r)."""
    share = -math.expm1(-2.0 * length)
    return math.exp(-length) * path + math.sqrt(share) * noise() if share > 0.0 else path


def seeds_2(eta: float = 1.0, r: float = 0.5, solver: str = "phi_1") -> Step:
    r"""SEEDS-2: two stages, the second at r h; with r = 1 the exponential form of Heun's method.

    .. math:: u = x_0 + e^{-r k} (x - x_0) + \sigma e^{-r h}\, W_r, \qquad
              x' = x_0 + e^{-k} (x - x_0) + c\,(x_0(u) - x_0) + \sigma' W_1, \qquad k = (1 + \eta) h

    with c = (1 - e^{-k}) / (2 r) for `phi_1`, and (1 - (1 - e^{-k}) / k) / r, the exact integral of
    the straight line, for `phi_2`.

    Args:
        eta: Strength of the fresh noise; 0 is deterministic, 1 the reverse diffusion.
        r: Position of the second stage in units of h, in (0, 1].
        solver: Weight of the difference, `phi_1` or `phi_2`.

    Returns:
        A step for `sample`: order 2 at eta = 0, two evaluations per step (one in the step to 0), no
        history. If `eta` is not 0 it needs `noise`, two arrays of it per step (one if r = 1).

    Raises:
        ValueError: `r` or `solver` is not one of these.

    Source: Gonzalez et al. 2023, arXiv:2305.14267, algorithm 2 (data prediction); ComfyUI,
    `sample_seeds_2`, and with r = 1 and `phi_2` `sample_exp_heun_2_x0` and `..._sde`.

    >>> import numpy as np
    >>> from ldmref.samplers import sample, seeds_2
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> *_, last = sample(denoise, np.asarray([2.0]), levels, seeds_2(eta=0.0))
    >>> last.x.round(3)  # the exact result is 1
    array([0.996])
    """
    if not 0.0 < r <= 1.0 or solver not in ("phi_1", "phi_2"):
        raise ValueError(f"r must be in (0, 1], solver phi_1 or phi_2; not {r}, {solver!r}")

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        h = math.log(sigma / sigma_next)
        k = (1.0 + eta) * h
        s = sigma_next if r == 1.0 else sigma * math.exp(-r * h)
        path = _move_on(0.0, r * eta * h, noise)
        u = euler_step(x, x0, sigma, sigma * math.exp(-r * k)) + s * path
        stage = denoise if r == 1.0 else between(denoise, interval)
        difference = stage(u, s) - x0
        c = -0.5 * math.expm1(-k) if solver == "phi_1" else exponential_moment(1, k)
        x_next = euler_step(x, x0, sigma, sigma * math.exp(-k)) + (c / r) * difference
        path = _move_on(path, (1.0 - r) * eta * h, noise)
        return x_next + sigma_next * path, x0, ()

    return step


def seeds_3(eta: float = 1.0) -> Step:
    r"""SEEDS-3: three stages, at 0, h / 3 and 2 h / 3.

    With m(k) = 1 - (1 - e^{-k}) / k, r_1 = 1/3, r_2 = 2/3 and k = (1 + eta) h:

    .. math::
        u_1 &= x_0 + e^{-r_1 k} (x - x_0) + \sigma e^{-r_1 h}\, W_{r_1} \\
        u_2 &= x_0 + e^{-r_2 k} (x - x_0)
               + \frac{r_2}{r_1} m(r_2 k) (x_0(u_1) - x_0) + \sigma e^{-r_2 h}\, W_{r_2} \\
        x' &= x_0 + e^{-k} (x - x_0) + \frac{m(k)}{r_2} (x_0(u_2) - x_0) + \sigma' W_1

    Args:
        eta: Strength of the fresh noise; 0 is deterministic, 1 the reverse diffusion.

    Returns:
        A step for `sample`: order 3 at eta = 0, three evaluations per step (one in the step to 0),
        no history. It needs `noise`, three arrays of it per step, if `eta` is not 0.

    Source: Gonzalez et al. 2023, arXiv:2305.14267, algorithm 3 (data prediction); ComfyUI,
    `sample_seeds_3`.

    >>> import numpy as np
    >>> from ldmref.samplers import sample, seeds_3
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> levels = [2.0, 1.4, 1.0, 0.7, 0.5]
    >>> *_, last = sample(denoise, np.asarray([2.0]), levels, seeds_3(eta=0.0))
    >>> last.x.round(3)  # the exact result is 1
    array([1.])
    """
    r1 = 1.0 / 3.0
    r2 = 2.0 / 3.0

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        h = math.log(sigma / sigma_next)
        k = (1.0 + eta) * h
        third = eta * h / 3.0  # of the path, from stage to stage
        stage = between(denoise, interval)

        def move(r: float) -> Array:
            return euler_step(x, x0, sigma, sigma * math.exp(-r * k))

        path = _move_on(0.0, third, noise)
        s1 = sigma * math.exp(-r1 * h)
        d1 = stage(move(r1) + s1 * path, s1) - x0
        path = _move_on(path, third, noise)
        s2 = sigma * math.exp(-r2 * h)
        u2 = move(r2) + (r2 / r1 * exponential_moment(1, r2 * k)) * d1
        d2 = stage(u2 + s2 * path, s2) - x0
        path = _move_on(path, third, noise)
        x_next = move(1.0) + (exponential_moment(1, k) / r2) * d2
        return x_next + sigma_next * path, x0, ()

    return step
