"""Editing of data by flows: towards given data or noise, and along the difference of two flows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import (
    Denoiser,
    History,
    Interval,
    Noise,
    State,
    Step,
    Stepped,
    within,
)
from ldmref.samplers.loop import sample
from ldmref.samplers.path import FLOW, NoisePath
from ldmref.samplers.steps import euler_step


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
    return sample(target, x, sigmas, flow_edit_step(source, x, averages), noise=noise, path=path)


def flow_edit_step(source: Denoiser, x: Array, averages: int = 1, generated: int = 0) -> Step:
    r"""Return the step of `flow_edit`, whose state is the edited data y without noise.

    In the last `generated` steps the state is y with noise, at first
    :math:`y + \alpha x + \sigma\epsilon - x`, which Euler's method denoises with the target alone.

    Args:
        source: The denoiser with the prompt of the data.
        x: The data, (n, ...).
        averages: Number of noises in the mean of each step.
        generated: n_min of the paper.

    Source: Kulikov et al. 2024, arXiv:2412.08629, algorithm 1.

    >>> import numpy as np
    >>> from ldmref.samplers import FLOW, sample
    >>> from ldmref.samplers.editing import flow_edit_step
    >>> x = np.asarray([2.0])
    >>> step = flow_edit_step(lambda y, s: 0.0 * y, x)
    >>> *_, last = sample(lambda y, s: 0.0 * y + 1, x, [1, 0], step, noise=lambda: x, path=FLOW)
    >>> last.x
    array([3.])
    """

    def step(
        target: Denoiser, y: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        path = interval.path
        left = interval.n - interval.i
        if left <= generated:
            if left == generated:
                y = path.noised(x, noise(), sigma) + (y - x)
            x0 = target(y, sigma)
            return euler_step(y, x0, sigma, interval.sigma_next), x0, ()
        total = 0.0 * x
        x0 = total
        follow = within(source, interval)
        for _ in range(averages):
            noisy = path.noised(x, noise(), sigma)
            moved = noisy + (y - x)
            x0 = target(moved, sigma)
            total = total + (moved - x0) - (noisy - follow(noisy, sigma))
        return y + (interval.sigma_next - sigma) / (sigma * averages) * total, x0, ()

    return step


def rf_inversion_step(
    source: Denoiser,
    data: Array,
    noise: Array,
    gamma: float,
    eta: float,
    low: float = 0.0,
    high: float = 1.0,
    path: NoisePath = FLOW,
) -> Step:
    """Return the step of RF inversion: up to noise with the source, and down with the target.

    A step to more noise is Euler's with `toward_noise`, one to less noise Euler's with
    `toward_data`, so a run goes through levels like 0.001, 0.5, 1, 0.5, 0.

    Args:
        source: The denoiser with the prompt of the data.
        data: y, the data, (n, ...).
        noise: z, of unit variance, (n, ...).
        gamma: Strength of the control on the way up, from 0 to 1.
        eta: Strength of the control on the way down, from 0 to 1.
        low, high: The control on the way down acts above `low`, and up to `high`.
        path: The path of the levels.

    Source: Rout et al. 2024, arXiv:2410.10792, algorithms 1 and 2.

    >>> import numpy as np
    >>> from ldmref.samplers import FLOW, sample
    >>> from ldmref.samplers.editing import rf_inversion_step
    >>> y = np.asarray([2.0])
    >>> step = rf_inversion_step(lambda x, s: 0.0 * x, y, np.asarray([1.0]), 0.5, 1.0)
    >>> *_, last = sample(lambda x, s: x, y, [0.01, 0.5, 1, 0.5, 0], step, path=FLOW)
    >>> last.x
    array([2.])
    """
    upwards = toward_noise(source, noise, gamma, path)

    def step(
        target: Denoiser, x: Array, interval: Interval, history: History, fresh: Noise
    ) -> Stepped:
        rises = interval.sigma_next > interval.sigma
        denoise = upwards if rises else toward_data(target, data, eta, low, high)
        x0 = denoise(x, interval.sigma)
        return euler_step(x, x0, interval.sigma, interval.sigma_next), x0, ()

    return step
