"""The denoiser of a batch: a model's network, with guidance, ControlNets and a second model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.conditioning import (
    Conditioning,
    add_cache,
    add_next_time,
    add_scale,
    join,
    repeat,
)
from ldmref.models.model import LatentDiffusion
from ldmref.modes.active_control import ActiveControl, sum_residuals
from ldmref.modes.guidance_parameter import PLAIN
from ldmref.samplers import Guidance, GuidedDenoiser, Interval, guided_denoiser
from ldmref.samplers.denoiser import Observer, PredictionExchange
from ldmref.samplers.path import VE, NoisePath
from ldmref.samplers.predictions import GUIDE, Prediction, Steering, calls_of


def model_denoiser(
    model: LatentDiffusion,
    timestep: Callable[[float, Interval | None], float],
    conditionings: Mapping[str, Conditioning],
    cfg_scale: float,
    guidance: Guidance = PLAIN,
    controls: Sequence[ActiveControl] = (),
    channels: Array | None = None,
    observe: Observer | None = None,
    exchange: PredictionExchange | None = None,
    path: NoisePath = VE,
    guide: LatentDiffusion | None = None,
) -> GuidedDenoiser:
    """Return the denoiser of a batch.

    Args:
        model: The model.
        timestep: Maps sigma and the interval of the step to the training timestep.
        conditionings: By the name of the prediction: `uncond`, `cond`, and `empty` and `guide` if
            the guidance needs them; of as many images as x has.
        cfg_scale: The guidance scale.
        guidance: How the predictions become one.
        controls: ControlNets, which read only the latents.
        channels: Further input channels of the network, (n or 1, k, h, w).
        observe, exchange: See every evaluation, and may replace predictions; see
            `samplers.guided_denoiser`.
        path: The path of x and sigma.
        guide: The model of the prediction `guide`; it reads the same x, timesteps and ControlNets.
    """
    ops: Backend = model.backend

    def network_of(names: tuple[str, ...]) -> LatentDiffusion:
        return guide if guide is not None and names == (GUIDE,) else model

    @cache
    def joined(names: tuple[str, ...]) -> Conditioning:
        """Join the conditionings of several predictions, one after the other."""
        parts = [conditionings[name] for name in names]
        used = network_of(names)
        alone = len(parts) == 1
        together = add_cache(used.backend, parts[0]) if alone else join(used.backend, parts)
        if used.config.denoiser.reads_guidance:
            return add_scale(used.backend, together, cfg_scale)
        return together

    def predict(
        xt: Array,
        sigma: float,
        interval: Interval | None,
        names: tuple[str, ...],
        steering: Steering | None,
    ) -> Array:
        """Predict for the conditionings of these names, one after the other in one batch.

        A network that is steered reads all of them for each x.
        """
        several = steering is not None and len(names) > 1
        xt = xt if several else repeat(ops, xt, xt.shape[0] * len(names))
        n = xt.shape[0]
        t = ops.asarray(np.full(n, timestep(sigma, interval)), ops.state_dtype)
        x = ops.cast(xt, ops.dtype)
        conditioning = joined(names)
        acting = [control for control in controls if control.acts_at(sigma, interval)]
        more: dict[str, Any] = {}
        used = network_of(names)
        if steering is not None and not steering.by_guide:
            more["steering"] = (steering,)
        if used.config.denoiser.is_flow_map:
            end = sigma if interval is None else interval.end
            t_next = ops.asarray(np.full(n, timestep(end, interval)), ops.state_dtype)
            conditioning = add_next_time(conditioning, t_next)
        if acting:
            read = joined(("cond",)) if several else conditioning
            more["control"] = sum_residuals(model.config, acting, x, t, read)
        if channels is not None:
            x = ops.xp.concat([x, repeat(ops, channels, n)], axis=1)
        return ops.cast(used.predict(x, t, conditioning, **more), ops.state_dtype)

    def network(
        xt: Array, sigma: float, names: tuple[Prediction, ...], interval: Interval | None
    ) -> list[Array]:
        n = xt.shape[0]
        predictions = {}
        for call in calls_of(names):
            first = call[0]
            steered = first.steering is not None and not first.by_guide
            read = first.texts if steered else call
            together = predict(xt, sigma, interval, read, first.steering)
            predictions |= {name: together[i * n : i * n + n, ...] for i, name in enumerate(call)}
        return [predictions[name] for name in names]

    prediction_type = model.config.scheduler.prediction_type
    return guided_denoiser(network, prediction_type, guidance, cfg_scale, observe, path, exchange)
