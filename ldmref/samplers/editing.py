"""Editing of data by flows: towards given data or noise, and along the difference of two flows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, Noise, State
from ldmref.samplers.loop import run_intervals
from ldmref.samplers.path import FLOW, NoisePath


def toward_data(
    denoise: Denoiser, data: Array, strength: float, low: float = 0.0, high: float = 1.0
) -> Denoiser:
    r"""Mix predicted data with given data: the reverse control of RF inversion.

    .. math:: v' = v + \eta \left(\frac{x - y}{s} - v\right), \qquad \text{so that } \quad
              x_0' = (1 - \eta)\, x_0 + \eta\, y

    Args:
        denoise: The denoiser, with the prompt of the edited image.
        data: y, what the edit stays close to, (n, ...).
        strength: eta, from 0 (no control) to 1 (the result is y).
        low: It acts above this level.
        high: It acts up to this level; 1 is the noisiest of `FLOW`.

    Returns:
        A denoiser for `sample`.

    Source: Rout et al. 2024, arXiv:2410.10792, section 3.3 (controlled reverse ODE) and published
    code.

    >>> import numpy as np
    >>> from ldmref.samplers import toward_data
    >>> edit = toward_data(lambda x, s: 0.0 * x, np.asarray([4.0]), 0.25)
    >>> edit(np.asarray([1.0]), 0.5)
    array([1.])
    """

    def controlled(x: Array, sigma: float) -> Array:
        x0 = denoise(x, sigma)
        return x0 + strength * (data - x0) if low < sigma <= high else x0

    return controlled


def toward_noise(
    denoise: Denoiser, noise: Array, strength: float, path: NoisePath = FLOW
) -> Denoiser:
    r"""Mix predicted noise with given noise: the forward control of RF inversion.

    .. math:: v' = v + \gamma \left(\frac{z - x}{1 - s} - v\right), \qquad \text{so that } \quad
              \epsilon' = (1 - \gamma)\,\epsilon + \gamma\, z

    The noise found is more like that of the training, and the data are no longer exactly those that
    it generates: `toward_data` leads back to them.

    Args:
        denoise: The denoiser.
        noise: z, of unit variance, (n, ...).
        strength: gamma, from 0 (inversion) to 1 (the result is z).
        path: The path of x and sigma.

    Returns:
        A denoiser for `invert`.

    Source: Rout et al. 2024, arXiv:2410.10792, section 3.2 (controlled forward ODE).

    >>> import numpy as np
    >>> from ldmref.samplers import toward_noise
    >>> toward = toward_noise(lambda x, s: 0.0 * x, np.asarray([2.0]), 0.5)
    >>> toward(np.asarray([1.0]), 0.5)  # eps = 2 is z already
    array([0.])
    """

    def controlled(x: Array, sigma: float) -> Array:
        alpha = path.alpha(sigma)
        eps = (x - alpha * denoise(x, sigma)) / sigma
        return (x - sigma * (eps + strength * (noise - eps))) / alpha

    return controlled


def flow_edit(
    source: Denoiser,
    target: Denoiser,
    x: Array,
    sigmas: Sequence[float] | np.ndarray,
    noise: Noise,
    averages: int = 1,
    path: NoisePath = FLOW,
) -> Iterator[State]:
    r"""Move data along the difference of two flows, without inverting them (FlowEdit).

    .. math:: x_s &= \alpha x + \sigma\epsilon, \qquad y_s = y + x_s - x \\
              y' &= y + (\sigma' - \sigma)\, \mathbb{E}_\epsilon\left[
              v_{target}(y_s, \sigma) - v_{source}(x_s, \sigma)\right]

    y starts as x. Source and target see the same noise, so its part in the two velocities cancels:
    from pure noise, and for two Gaussians of one variance, y is x moved by the difference of their
    means, exactly and in one step. y holds no noise.

    Args:
        source: The denoiser with the prompt of the data.
        target: The denoiser with the prompt of the edit; its guidance is usually stronger.
        x: The data, (n, ...).
        sigmas: Decreasing levels, (k + 1,), above 0 except for the last. Starting below the
            noisiest level keeps more of the data.
        noise: `noise()` returns fresh standard normal noise of the shape of `x`.
        averages: Number of noises in the mean of each step.
        path: The path of the levels.

    Returns:
        An iterator of `State`; the x of the last state is the edited data, x0 the target's
        prediction.

    Source: Kulikov et al. 2024, arXiv:2412.08629, algorithm 1, with n_min = 0.

    >>> import numpy as np
    >>> from ldmref.samplers import flow_edit
    >>> def gaussian(mean):  # the exact denoiser of N(mean, 1) on the path of flow matching
    ...     return lambda x, s: mean + (1 - s) / ((1 - s) ** 2 + s**2) * (x - (1 - s) * mean)
    >>> rng = np.random.default_rng(0)
    >>> noise = lambda: rng.standard_normal(2)
    >>> x = np.asarray([0.5, -1.0])
    >>> *_, last = flow_edit(gaussian(0.0), gaussian(3.0), x, [1, 0.5, 0], noise)
    >>> last.x.round(12)
    array([3.5, 2. ])
    """
    y = x
    for interval in run_intervals([float(sigma) for sigma in sigmas], None, path):
        sigma = interval.sigma
        total = 0.0 * x
        x0 = total
        for _ in range(averages):
            noisy = path.noised(x, noise(), sigma)
            moved = noisy + (y - x)
            x0 = target(moved, sigma)
            total = total + (moved - x0) - (noisy - source(noisy, sigma))
        y = y + (interval.sigma_next - sigma) / (sigma * averages) * total
        yield State(interval.i, interval.sigma_next, y, x0, ())
