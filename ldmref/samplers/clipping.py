"""Clipping of the predictions x0, as in schedulers for pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from array_api_compat import array_namespace

from ldmref.math.arrays import Array
from ldmref.math.guidance import dynamic_threshold
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.interfaces import Denoiser, Guided, GuidedDenoiser, Step, Stepped

Clip: TypeAlias = Callable[[Array], Array]


def configured_clip(config: SchedulerConfig) -> Clip:
    """Return the clipping of x0 that the scheduler's configuration asks for."""
    if config.thresholding_ratio:
        return threshold_at(config.thresholding_ratio, config.sample_max_value)
    return clip_to(config.clip_sample_range)


def clip_to(bound: float) -> Clip:
    """Return a function that clips x0 to [-bound, bound]: diffusers' `clip_sample`.

    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, published code (`clip_denoised`).
    """
    return lambda x0: array_namespace(x0).clip(x0, -bound, bound)


def threshold_at(ratio: float, largest: float) -> Clip:
    """Return a function that thresholds x0, diffusers' `thresholding`: see `dynamic_threshold`.

    Args:
        ratio: Order of the quantile, in [0, 1].
        largest: Largest s; a value below 1 is used as s.

    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3; diffusers 0.42.1,
    `_threshold_sample`.
    """
    return lambda x0: dynamic_threshold(x0, ratio, largest=largest)


def _clip_guided(denoise: GuidedDenoiser, clip: Clip) -> GuidedDenoiser:
    """Return a guided denoiser whose predictions are clipped."""

    def predict(*arguments: Any) -> Guided:
        found = denoise.guided(*arguments)
        uncond = None if found.uncond is None else clip(found.uncond)
        return found._replace(x0=clip(found.x0), uncond=uncond)

    return GuidedDenoiser(predict, denoise.remembers)


def clip_predictions(step: Step, clip: Clip) -> Step:
    """Return `step` with a denoiser whose predictions are clipped."""

    def clipped_step(denoise: Denoiser, *arguments) -> Stepped:
        if isinstance(denoise, GuidedDenoiser):
            return step(_clip_guided(denoise, clip), *arguments)
        return step(lambda x, sigma: clip(denoise(x, sigma)), *arguments)

    return clipped_step
