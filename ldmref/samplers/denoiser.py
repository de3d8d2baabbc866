"""From a network to a denoiser: `denoise(x, sigma) -> x0` in the coordinates x = x0 + sigma eps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ldmref.math.arrays import Array
from ldmref.math.guidance import classifier_free_guidance
from ldmref.math.prediction import x0_from_eps, x0_from_v
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.samplers.loop import Interval, IntervalDenoiser

TO_X0: dict[str, Callable[[Array, Array, Array], Array]] = {  # (xt, prediction, alpha_bar)
    "eps": x0_from_eps, "v": x0_from_v, "x0": lambda xt, y, alpha_bar: y,
}  # fmt: skip
Context = TypeVar("Context")  # whatever the network takes for the text: an array, or several


def guided_denoiser(
    network: Callable[[Array, float, Context, Interval | None], Array],
    prediction_type: str,
    cond: Context,
    uncond: Context,
    cfg_scale: float,
    concat: Callable[[list[Any]], Any],
) -> IntervalDenoiser:
    """Return a denoiser with classifier-free guidance, one call of the network per evaluation.

    Args:
        network: (x_t, sigma, context, interval of the step) -> prediction of `prediction_type`;
            x_t is x in variance-preserving scale, x / sqrt(1 + sigma^2).
        prediction_type: `eps`, `v` or `x0`.
        cond, uncond: contexts, (n, l, d).
        cfg_scale: 0 unconditional, 1 conditional (each a single evaluation), otherwise both.
        concat: joins arrays, and contexts, along the first axis.
    """
    convert = TO_X0[prediction_type]
    guided = cfg_scale not in (0.0, 1.0)
    context = concat([uncond, cond]) if guided else cond if cfg_scale else uncond

    def denoise(x: Array, sigma: float, interval: Interval | None) -> Array:
        alpha_bar = float(alpha_bar_from_sigma(sigma))
        xt = x * alpha_bar**0.5
        n = x.shape[0]
        if not guided:
            return convert(xt, network(xt, sigma, context, interval), alpha_bar)
        both = network(concat([xt, xt]), sigma, context, interval)
        return convert(xt, classifier_free_guidance(both[:n], both[n:], cfg_scale), alpha_bar)

    return IntervalDenoiser(denoise)
