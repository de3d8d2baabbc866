r"""iPNDM with variable steps, as published.

With steps h_0 = sigma' - sigma, h_1 = sigma - sigma_1, ... the polynomial through four slopes is
integrated in Newton's form. Three slips of the published code are part of the method. A bracket is
misplaced, so that the second difference has the weight

.. math:: \tfrac12\left(1 - \frac{h_0}{3 (h_0 + h_1)} \cdot
          \frac{h_0 (h_0 + h_1)}{h_1 (h_1 + h_2)}\right)
          \quad\text{instead of}\quad
          \tfrac12\left(1 - \frac{h_0}{3 (h_0 + h_1)}\right) \frac{h_0 (h_0 + h_1)}{h_1 (h_1 + h_2)}

the weight of the third difference has a sign + for - (11/24 instead of 3/8 for equal steps), and
that of the oldest slope h_1 / h_2 for h_2 / h_3, so that the weights sum to 1 only if the lengths
of the steps form a geometric sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.multistep import MultistepHistory, recall
from ldmref.samplers.runge_kutta import combine
from ldmref.samplers.steps import euler_step


def published_weights(past: Sequence[float], sigma: float, sigma_next: float) -> list[float]:
    """Return the weights of the slopes, newest first, in units of the step.

    Args:
        past: Sigmas of the earlier slopes, newest first, up to three.
        sigma: Noise level of the newest slope.
        sigma_next: Noise level at the end of the step.
    """
    h0 = sigma_next - sigma
    h1, h2, h3 = ([a - b for a, b in zip((sigma, *past), past, strict=False)] + [0.0] * 3)[:3]
    weights = [1.0, 0.0, 0.0, 0.0]
    if h1:
        line = h0 / h1
        weights[0] += 0.5 * line
        weights[1] -= 0.5 * line
    if h2:
        near = h1 / h2
        share = h0 / (3.0 * (h0 + h1)) * (h0 * (h0 + h1)) / (h1 * (h1 + h2))
        bend = 0.5 * (1.0 - share)
        weights[0] += bend
        weights[1] -= (1.0 + near) * bend
        weights[2] += near * bend
        if h3:
            twist = 0.5 * (1.0 - h0 / (3.0 * (h0 + h1)))
            twist += (1.0 - h0 / (2.0 * (h0 + h1))) * h0 / (6.0 * (h0 + h1 + h2))
            twist *= h0 * (h0 + h1) * (h0 + h1 + h2)
            twist /= h1 * (h1 + h2) * (h1 + h2 + h3)
            wide = h1 * (h1 + h2) / (h2 * (h2 + h3))
            weights[0] += twist
            weights[1] -= (1.0 + near + wide) * twist
            weights[2] += (near + wide * (1.0 + h2 / h3)) * twist
            weights[3] -= wide * near * twist
    return weights[: len(past) + 1]


def ipndm_v() -> Step:
    """Return iPNDM with variable steps: `ipndm` whose weights follow the lengths of the steps.

    It has the weights of the published code with its three slips (see the file). `lms_euler` has
    the right weights for unequal steps.

    Returns:
        A step for `sample`: order 2 if the lengths of the steps change smoothly, one evaluation per
        step. Its history holds four slopes. The step to sigma = 0 goes to x0.

    Source: Zhang and Chen 2022, arXiv:2204.13902, section 3.2 (iPNDM); Zhou et al. 2023,
    arXiv:2312.00094, published code (`ipndm_v_sampler`); ComfyUI, `sample_ipndm_v`.

    >>> import numpy as np
    >>> from ldmref.samplers import ipndm_v, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], ipndm_v())
    >>> last.x.round(3)  # the exact result is 1
    array([0.986])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        if sigma == sigma_next:
            return x, x0, history
        past = recall(x, x0, sigma, history, 3)
        weights = published_weights([s for s, _ in past], sigma, sigma_next)
        h = sigma_next - sigma
        correction = h * combine(weights[1:], [d for _, d in past])
        excess = (sum(weights) - 1.0) * h  # of the slope at x: the weights need not sum to 1
        correction = correction + (excess / sigma) * (x - x0)
        x_next = euler_step(x, x0, sigma, sigma_next) + correction
        return x_next, x0, MultistepHistory(sigma, x_next, x0 + correction, past)

    return step
