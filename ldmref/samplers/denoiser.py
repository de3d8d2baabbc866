"""From a network to a denoiser: `denoise(x, sigma) -> x0` in the coordinates x = x0 + sigma eps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.math.arrays import Array
from ldmref.math.guidance import classifier_free_guidance
from ldmref.math.prediction import x0_from_eps, x0_from_v
from ldmref.math.schedules import alpha_bar_from_sigma, sigma_from_alpha_bar
from ldmref.samplers.loop import Denoise

Network = Callable[[Array, float, Array], Array]  # (x_t, t, context) -> prediction


class Timesteps:
    """sigma -> training timestep, by linear interpolation in log sigma (exact on the table)."""

    def __init__(self, alpha_bar: np.ndarray):
        self.log_sigma = np.log(sigma_from_alpha_bar(alpha_bar))

    def __call__(self, sigma: float) -> float:
        table = self.log_sigma
        return float(np.interp(np.log(sigma), table, np.arange(len(table))))


def guided_denoiser(
    network: Network,
    timestep: Callable[[float], float],
    prediction_type: str,
    cond: Array,
    uncond: Array,
    cfg_scale: float,
    concat: Callable[[list[Array]], Array],
) -> Denoise:
    """A denoiser with classifier-free guidance, both predictions in one call of the network.

    Args:
        network: predicts `prediction_type` from variance-preserving input x_t.
        timestep: sigma -> t.
        prediction_type: `eps`, `v` or `x0`.
        cond, uncond: contexts, (n, l, d).
        cfg_scale: 0 unconditional, 1 conditional (each a single evaluation), else both.
        concat: joins arrays along the first axis.
    """
    convert = {"eps": x0_from_eps, "v": x0_from_v, "x0": lambda xt, y, alpha_bar: y}[
        prediction_type
    ]

    if cfg_scale in (0.0, 1.0):
        told = cond if cfg_scale else uncond
    else:
        told = concat([uncond, cond])

    def denoise(x: Array, sigma: float) -> Array:
        alpha_bar = float(alpha_bar_from_sigma(sigma))
        xt, t = x * alpha_bar**0.5, timestep(sigma)
        if cfg_scale in (0.0, 1.0):
            return convert(xt, network(xt, t, told), alpha_bar)
        both = network(concat([xt, xt]), t, told)
        n = xt.shape[0]
        guided = classifier_free_guidance(both[:n], both[n:], cfg_scale)
        return convert(xt, guided, alpha_bar)

    return denoise
