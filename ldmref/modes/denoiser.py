"""A loaded model as a denoiser: `denoise(x, sigma) -> x0`, with guidance and ControlNets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning, join, with_cache
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import input_channels
from ldmref.modes.control import ActiveControl, residuals_of
from ldmref.modes.request import resolve
from ldmref.modes.text import encode_texts
from ldmref.samplers import guided_denoiser
from ldmref.samplers.loop import Denoiser
from ldmref.samplers.schedule import sampling_sigmas, timesteps_at


def model_denoiser(
    model: LatentDiffusion, timestep: Callable[[float], float],
    cond: Conditioning, uncond: Conditioning, cfg_scale: float,
    controls: Sequence[ActiveControl] = (), channels: Array | None = None,
) -> Denoiser:  # fmt: skip
    """The denoiser of a batch.

    Args:
        timestep: sigma -> training timestep.
        cond, uncond: of as many pictures as x has.
        cfg_scale: guidance scale.
        controls: ControlNets, which see the latents alone.
        channels: (n or 1, k, h, w), further input channels of the U-Net.
    """
    ops: Backend = model.backend

    def network(xt: Array, sigma: float, conditioning: Conditioning) -> Array:
        n = xt.shape[0]
        t, x = ops.asarray(np.full(n, timestep(sigma)), ops.state_dtype), ops.cast(xt, ops.dtype)
        acting = [control for control in controls if control.acts_at(sigma)]
        control = {"control": residuals_of(acting, x, t, conditioning)} if acting else {}
        if channels is not None:
            x = ops.xp.concat([x, repeat(ops, channels, n)], axis=1)
        return ops.cast(model.unet(x, t, conditioning, **control), ops.state_dtype)

    def concat(parts: list[Any]) -> Any:
        joins = isinstance(parts[0], Conditioning)
        return join(ops, parts) if joins else ops.xp.concat(parts, axis=0)

    cond, uncond = with_cache(ops, cond), with_cache(ops, uncond)
    prediction_type = model.config.scheduler.prediction_type
    return guided_denoiser(network, prediction_type, cond, uncond, cfg_scale, concat)


def repeat(ops: Backend, x: Array, n: int) -> Array:
    """An array of k examples repeated to n of them."""
    return x if x.shape[0] == n else ops.xp.concat([x] * (n // x.shape[0]), axis=0)


def denoiser(
    model: LatentDiffusion, prompt: str, negative_prompt: str = "", cfg_scale: float | None = None
) -> Denoiser:
    """The model as `denoise(x, sigma) -> x0`, for `samplers.sample` and samplers of your own.

    x = x0 + sigma eps and x0 are latents (n, c, h, w), arrays of the model's backend; the timestep
    is linear in log sigma between the training timesteps.

    Args:
        prompt, negative_prompt: for all n pictures.
        cfg_scale: guidance scale; None is the model's default.

    Raises:
        UsageError: an argument is wrong.
    """
    values = {"prompt": prompt, "negative_prompt": negative_prompt, "cfg_scale": cfg_scale}
    request = resolve(model.config, "txt2img", values)
    training_sigmas = sampling_sigmas(model.config.scheduler)
    text = encode_texts(model, [prompt], [negative_prompt], (0, 0), request.clip_skip)

    @cache
    def for_shape(n: int, h: int, w: int) -> Denoiser:
        f = model.config.vae.factor
        batch = replace(
            text, prompts=[prompt] * n, negative_prompts=[negative_prompt] * n, size=(w * f, h * f)
        )
        channels = input_channels(model, batch.size) if model.config.image_channels else None
        return model_denoiser(
            model,
            lambda sigma: float(timesteps_at(training_sigmas, sigma)),
            *batch.conditioning(slice(0, n)),
            request.cfg_scale,
            channels=channels,
        )

    def denoise(x: Array, sigma: float) -> Array:
        with model.backend.inference():
            n, _, h, w = x.shape
            return for_shape(n, h, w)(x, sigma)

    return denoise
