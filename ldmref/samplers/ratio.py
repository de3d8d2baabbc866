r"""Methods written for x0 + sigma eps, on any path.

With z = x / alpha and r = sigma / alpha, every path is z = x0 + r eps. A step in these variables is
the same method on every path, and exact: the denoiser returns x0 in both.
"""

from __future__ import annotations

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import (
    Denoiser,
    Guided,
    GuidedDenoiser,
    History,
    Interval,
    Noise,
    Step,
    Stepped,
)
from ldmref.samplers.path import VE


def on_ratio(step: Step) -> Step:
    r"""Return a step for x0 + sigma eps that also works on other paths.

    .. math:: z = \frac{x}{\alpha}, \quad r = \frac{\sigma}{\alpha}, \qquad
              x' = \alpha'\, \mathrm{step}(z, r, r')

    At the level of pure noise alpha is 2^-40 (`PURE_NOISE`), so that the ratio is a number.

    Args:
        step: Step of any method.

    Returns:
        A step for `sample`: order, evaluations and history are those of `step`, in these variables.

    Derived: the change of variables above, put into x = alpha x0 + sigma eps.

    >>> import numpy as np
    >>> from ldmref.samplers import FLOW, dpmpp_2m, on_ratio, sample
    >>> def denoise(x, s):  # the exact denoiser of standard normal data
    ...     return x * (1.0 - s) / ((1.0 - s) ** 2 + s**2)
    >>> levels = np.linspace(1.0, 0.0, 41)
    >>> *_, last = sample(denoise, np.ones(1), levels, on_ratio(dpmpp_2m()), path=FLOW)
    >>> last.x.round(2)
    array([1.])
    """

    def step_on_ratio(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        path = interval.path
        if path is VE:
            return step(denoise, x, interval, history, noise)
        within = interval._replace(
            sigma=path.ratio(interval.sigma),
            sigma_next=path.ratio(interval.sigma_next),
            ahead=tuple(map(path.ratio, interval.ahead)),
            path=VE,
        )
        z = x * (1.0 + path.fade * within.sigma)
        inner = denoise_at_ratio(denoise, interval, within)
        z_next, x0, history = step(inner, z, within, history, noise)
        return z_next * path.alpha(interval.sigma_next), x0, history

    return step_on_ratio


def denoise_at_ratio(denoise: Denoiser, interval: Interval, within: Interval) -> Denoiser:
    """Return the denoiser of a path as one of z = x / alpha and the ratio.

    Args:
        denoise: The denoiser on the path.
        interval: The interval of the step on the path.
        within: The same interval in ratios.
    """
    path = interval.path
    ends = {within.sigma_next: interval.sigma_next, within.sigma: interval.sigma}

    def back(z: Array, ratio: float) -> tuple[Array, float]:
        x, sigma = path.from_ratio(z, ratio)
        return x, ends.get(ratio, sigma)  # the ends are levels of the schedule, to the last bit

    if not isinstance(denoise, GuidedDenoiser):
        return lambda z, ratio: denoise(*back(z, ratio))
    guided = denoise.guided

    def predict(
        z: Array,
        ratio: float,
        memory: History,
        unconditional: bool,
        at: Interval | None,
        scale: float | None,
    ) -> Guided:
        level = interval
        if at is not None:
            target = None if at.target is None else ends.get(at.target, path.level(at.target))
            level = interval._replace(between=at.between, target=target)
        return guided(*back(z, ratio), memory, unconditional, level, scale)

    return GuidedDenoiser(predict, denoise.remembers)
