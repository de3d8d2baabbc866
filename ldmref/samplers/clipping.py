"""Clipping of the predictions x0, as in schedulers for pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from array_api_compat import array_namespace

from ldmref.math.arrays import Array
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.loop import Denoiser, Step, Stepped

Clip: TypeAlias = Callable[[Array], Array]


def configured_clip(config: SchedulerConfig) -> Clip:
    """Return the clipping of x0 that the scheduler's configuration asks for."""
    if config.thresholding_ratio:
        return dynamic_threshold(config.thresholding_ratio, config.sample_max_value)
    return clip_to(config.clip_sample_range)


def clip_to(bound: float) -> Clip:
    """Return a function that clips x0 to [-bound, bound]: diffusers' `clip_sample`.

    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, published code (`clip_denoised`).
    """
    return lambda x0: array_namespace(x0).clip(x0, -bound, bound)


def dynamic_threshold(ratio: float, largest: float) -> Clip:
    r"""Return a function that clips x0, (n, ...), to [-s, s] and divides it by s, for each image.

    .. math:: s = \mathrm{clip}(Q_{ratio}(|x_0|), 1, \mathrm{largest})

    with Q the quantile over an image's elements, linear between two of them.

    Args:
        ratio: Order of the quantile, in [0, 1]; 0.995 in the paper.
        largest: Largest s; a value below 1 is used as s.

    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3; diffusers 0.42.1,
    `_threshold_sample`.
    """

    def threshold(x0: Array) -> Array:
        xp = array_namespace(x0)
        flat = xp.sort(xp.reshape(xp.abs(x0), (x0.shape[0], -1)), axis=1)
        position = ratio * (flat.shape[1] - 1)
        low = int(position)
        high = min(low + 1, flat.shape[1] - 1)
        s = flat[:, low] + (position - low) * (flat[:, high] - flat[:, low])
        s = xp.where(s < 1.0, xp.ones_like(s), s)
        s = xp.where(s > largest, largest * xp.ones_like(s), s)
        s = xp.reshape(s, (-1,) + (1,) * (x0.ndim - 1))
        clipped = xp.where(x0 > s, s, x0)
        return xp.where(clipped < -s, -s, clipped) / s

    return threshold


def clip_predictions(step: Step, clip: Clip) -> Step:
    """Return `step` with a denoiser whose predictions are clipped."""

    def clipped_step(denoise: Denoiser, *arguments) -> Stepped:
        return step(lambda x, sigma: clip(denoise(x, sigma)), *arguments)

    return clipped_step
