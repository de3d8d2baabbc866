"""The network of a batch: with its texts, ControlNets and a second model, ready for guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

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
from ldmref.samplers import Guidance, GuidedDenoiser, Interval, guided_denoiser
from ldmref.samplers.denoiser import Evaluation, PredictionExchange
from ldmref.samplers.path import VE, NoisePath
from ldmref.samplers.predictions import GUIDE, Prediction, Steering, calls_of


class Watching(PredictionExchange, Protocol):
    """What sees the evaluations of a denoiser, and may replace its predictions."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """See an evaluation of the guided denoiser."""
        ...


@dataclass(frozen=True, eq=False)
class BatchNetwork:
    """The network of a batch, with all that it reads besides x and sigma.

    Calling it returns predictions by their names, as `samplers.guided_denoiser` asks for them.

    Args:
        model: The model.
        timestep: Maps sigma and the interval of the step to the training timestep.
        conditionings: By the name of the prediction: `uncond`, `cond`, and `empty` and `guide` if
            the guidance needs them; of as many images as x has.
        cfg_scale: The guidance scale, for a network that reads it.
        controls: ControlNets, which read only the latents.
        channels: Further input channels of the network, (n or 1, k, h, w).
        guide: The model of the prediction `guide`; it reads the same x, timesteps and ControlNets.
    """

    model: LatentDiffusion
    timestep: Callable[[float, Interval | None], float]
    conditionings: Mapping[str, Conditioning]
    cfg_scale: float
    controls: Sequence[ActiveControl] = ()
    channels: Array | None = None
    guide: LatentDiffusion | None = None
    _joined: dict[tuple[str, ...], Conditioning] = field(default_factory=dict, init=False)

    def __call__(
        self, xt: Array, sigma: float, names: tuple[Prediction, ...], interval: Interval | None
    ) -> list[Array]:
        """Return the predictions of these names, each (n, c, h, w), for xt (n, c, h, w)."""
        n = xt.shape[0]
        predictions = {}
        for call in calls_of(names):
            steering = None if call[0].by_guide else call[0].steering
            read = call if steering is None else call[0].texts
            together = self.predict(xt, sigma, interval, read, steering)
            predictions |= {name: together[i * n : i * n + n, ...] for i, name in enumerate(call)}
        return [predictions[name] for name in names]

    def predict(
        self,
        xt: Array,
        sigma: float,
        interval: Interval | None,
        names: tuple[str, ...],
        steering: Steering | None = None,
    ) -> Array:
        """Predict for the conditionings of these names, one after the other in one batch.

        A network that is steered reads all of them for each x.
        """
        model = self.guide if self.guide is not None and names == (GUIDE,) else self.model
        ops = self.model.backend
        several = steering is not None and len(names) > 1
        xt = xt if several else repeat(ops, xt, xt.shape[0] * len(names))
        n = xt.shape[0]
        t = ops.asarray(np.full(n, self.timestep(sigma, interval)), ops.state_dtype)
        x = ops.cast(xt, ops.dtype)
        conditioning = self.joined(model, names)
        if model.config.denoiser.is_flow_map:
            end = sigma if interval is None else interval.end
            t_next = ops.asarray(np.full(n, self.timestep(end, interval)), ops.state_dtype)
            conditioning = add_next_time(conditioning, t_next)
        more: dict[str, Any] = {} if steering is None else {"steering": (steering,)}
        acting = [control for control in self.controls if control.acts_at(sigma, interval)]
        if acting:
            read = self.joined(model, ("cond",)) if several else conditioning
            more["control"] = sum_residuals(self.model.config, acting, x, t, read)
        if self.channels is not None:
            x = ops.xp.concat([x, repeat(ops, self.channels, n)], axis=1)
        return ops.cast(model.predict(x, t, conditioning, **more), ops.state_dtype)

    def joined(self, model: LatentDiffusion, names: tuple[str, ...]) -> Conditioning:
        """Return the conditionings of several predictions, one after the other, for all steps."""
        if names not in self._joined:
            parts = [self.conditionings[name] for name in names]
            ops = model.backend
            joined = add_cache(ops, parts[0]) if len(parts) == 1 else join(ops, parts)
            if model.config.denoiser.reads_guidance:
                joined = add_scale(ops, joined, self.cfg_scale)
            self._joined[names] = joined
        return self._joined[names]

    def guided(
        self, guidance: Guidance, path: NoisePath = VE, watching: Watching | None = None
    ) -> GuidedDenoiser:
        """Return the network as a denoiser, `denoise(x, sigma) -> x0`.

        Args:
            guidance: How the predictions become one.
            path: The path of x and sigma.
            watching: Sees every evaluation, and may replace predictions. None: nothing does.
        """
        observe = None if watching is None else watching.evaluated
        kind = self.model.config.scheduler.prediction_type
        return guided_denoiser(self, kind, guidance, self.cfg_scale, observe, path, watching)
