"""Inversion: from clean data to the noise that generates it, by a deterministic sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, State, Step, Stepped
from ldmref.samplers.loop import sample
from ldmref.samplers.path import VE, NoisePath
from ldmref.samplers.steps import ancestral, euler_step


def invert(
    denoise: Denoiser,
    x: Array,
    sigmas: Sequence[float] | np.ndarray,
    step: Step | None = None,
    path: NoisePath = VE,
) -> Iterator[State]:
    r"""Run a deterministic sampler over increasing `sigmas`; by default DDIM (DDIM inversion).

    .. math:: x' = x_0 + \frac{\sigma'}{\sigma}(x - x_0), \qquad \sigma' > \sigma

    Sampling from the last state over the reversed sigmas returns x up to an error of the method's
    order in the step size (first order for DDIM), since each slope is taken at the other end of the
    interval.

    Args:
        denoise: The model, `denoise(x, sigma) -> x0`.
        x: Data at noise level sigmas[0], an array of any shape.
        sigmas: Increasing noise levels, (n + 1,). The first must be positive because the slope
            (x - x0) / sigma does not exist at 0; the smallest sigma of the network's training is a
            good choice.
        step: Step of a deterministic sampler in `SAMPLERS`; None: DDIM. On `FLOW`, `midpoint` is
            RF-Solver.
        path: The path of x and the levels.

    Returns:
        An iterator of `State`, as from `sample`; the x of the last state is the noise.

    Raises:
        ValueError: The sigmas do not increase, or start at 0.

    Source: Song, Meng, Ermon 2020, arXiv:2010.02502, section 4.3 and eq. 13, run backwards.

    >>> import numpy as np
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = invert(denoise, np.array([1.0]), np.linspace(0.01, 3.0, 200))
    >>> last.x.round(2)  # sqrt(1 + 3^2) times as large
    array([3.14])
    """
    sigmas = [float(sigma) for sigma in sigmas]
    if not sigmas or sigmas[0] <= 0.0 or any(b <= a for a, b in pairwise(sigmas)):
        raise ValueError(f"inversion needs increasing sigmas above 0, not {sigmas}")
    return sample(denoise, x, sigmas, ancestral(0.0) if step is None else step, path=path)


def implicit(iterations: int = 5) -> Step:
    r"""Return the exact inverse of a DDIM step, by fixed-point iteration.

    The slope is taken at the upper end, as in the step down:

    .. math:: x' = x + \frac{\sigma' - \sigma}{\sigma'} (x' - x_0(x', \sigma'))

    The iteration starts at DDIM inversion's x', or at x if sigma is 0, which is allowed. Each
    iteration evaluates the denoiser once. It converges if the right-hand side is a contraction,
    which holds for small steps and fails with guidance far above 1.

    Args:
        iterations: Number of iterations of each step.

    Returns:
        A step for `invert`: order 1, `iterations` + 1 evaluations per step (the first is DDIM
        inversion's, without one at sigma = 0), no history.

    Source: Pan et al. 2023, arXiv:2309.04907 (AIDI; the plain iteration, without its
    acceleration); Garibi et al. 2024, arXiv:2403.14602 (ReNoise, which also averages the last
    predictions and keeps them editable; not implemented).

    >>> import numpy as np
    >>> from ldmref.samplers import ancestral, implicit, invert, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, up = invert(denoise, np.asarray([1.0]), [0.5, 0.7, 1.0], implicit(20))
    >>> *_, down = sample(denoise, up.x, [1.0, 0.7, 0.5], ancestral())
    >>> down.x.round(6)  # DDIM undoes it
    array([1.])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x_next = x
        x0 = x
        if sigma > 0.0:
            x0 = denoise(x, sigma)
            x_next = euler_step(x, x0, sigma, sigma_next)
        for _ in range(iterations):
            x0 = denoise(x_next, sigma_next)
            x_next = x + (sigma_next - sigma) / sigma_next * (x_next - x0)
        return x_next, x0, history

    return step
