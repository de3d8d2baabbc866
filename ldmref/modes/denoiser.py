"""A loaded model as a denoiser: `denoise(x, sigma) -> x0`, with guidance and ControlNets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning, add_cache, join
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import validation
from ldmref.modes.channels import input_channels
from ldmref.modes.control import ActiveControl, residuals_of
from ldmref.modes.embeddings import with_embeddings
from ldmref.modes.registry import MODES, config_of
from ldmref.modes.request import resolve
from ldmref.modes.text import TextConditioning, encode_texts
from ldmref.samplers import guided_denoiser
from ldmref.samplers.loop import Denoiser
from ldmref.samplers.schedule import sampling_sigmas, timesteps_at


def model_denoiser(
    model: LatentDiffusion,
    timestep: Callable[[float], float],
    cond: Conditioning,
    uncond: Conditioning,
    cfg_scale: float,
    controls: Sequence[ActiveControl] = (),
    channels: Array | None = None,
) -> Denoiser:
    """The denoiser of a batch.

    Args:
        timestep: sigma -> training timestep.
        cond, uncond: of as many images as x has.
        cfg_scale: guidance scale.
        controls: ControlNets, which see the latents alone.
        channels: (n or 1, k, h, w), further input channels of the U-Net.
    """
    ops: Backend = model.backend

    def network(xt: Array, sigma: float, conditioning: Conditioning) -> Array:
        n = xt.shape[0]
        t = ops.asarray(np.full(n, timestep(sigma)), ops.state_dtype)
        x = ops.cast(xt, ops.dtype)
        acting = [control for control in controls if control.acts_at(sigma)]
        control = {"control": residuals_of(acting, x, t, conditioning)} if acting else {}
        if channels is not None:
            x = ops.xp.concat([x, repeat(ops, channels, n)], axis=1)
        return ops.cast(model.unet(x, t, conditioning, **control), ops.state_dtype)

    def concat(parts: list[Any]) -> Any:
        joins = isinstance(parts[0], Conditioning)
        return join(ops, parts) if joins else ops.xp.concat(parts, axis=0)

    cond = add_cache(ops, cond)
    uncond = add_cache(ops, uncond)
    prediction_type = model.config.scheduler.prediction_type
    return guided_denoiser(network, prediction_type, cond, uncond, cfg_scale, concat)


def repeat(ops: Backend, x: Array, n: int) -> Array:
    """An array of k examples repeated to n of them."""
    return x if x.shape[0] == n else ops.xp.concat([x] * (n // x.shape[0]), axis=0)


def denoiser(
    model: LatentDiffusion,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] = "",
    cfg_scale: float | None = None,
    *,
    clip_skip: int | None = None,
    long_prompts: str = "truncate",
    prompt_weights: str = "none",
    prompt_embeds: Array | None = None,
    negative_prompt_embeds: Array | None = None,
    pooled_prompt_embeds: Array | None = None,
    negative_pooled_prompt_embeds: Array | None = None,
    grad: bool = False,
) -> Denoiser:
    """Return the model as `denoise(x, sigma) -> x0`, for `samplers.sample` and your own samplers.

    x = x0 + sigma eps and x0 are latents (n, c, h, w), arrays of the model's backend (x may also be
    NumPy's); sigma is a number from 0 to 1e6. The timestep is linear in log sigma between the
    training timesteps.

    Args:
        prompt, negative_prompt: for all n images; or a list, an entry per image.
        cfg_scale: guidance scale; None is the model's default.
        clip_skip, long_prompts, prompt_weights, prompt_embeds, negative_prompt_embeds,
            pooled_prompt_embeds, negative_pooled_prompt_embeds: as in `modes.txt2img`.
        grad: let gradients flow from x0 to x, on a backend that differentiates (torch); the
            parameters of the model are constants.

    Raises:
        UsageError: an argument is wrong, or the backend does not differentiate; `denoise` raises it
            for an x or sigma that is.

    >>> import ldmref
    >>> denoise = ldmref.denoiser(ldmref.random_model("tiny"), "a red heart", cfg_scale=2.0)
    >>> denoise(np.ones((1, 4, 8, 8), np.float32), 1.5).shape
    (1, 4, 8, 8)
    """
    values = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "cfg_scale": cfg_scale,
        "clip_skip": clip_skip,
        "long_prompts": long_prompts,
        "prompt_weights": prompt_weights,
        "prompt_embeds": prompt_embeds,
        "negative_prompt_embeds": negative_prompt_embeds,
        "pooled_prompt_embeds": pooled_prompt_embeds,
        "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
    }
    config = config_of("denoiser", model)
    declared = MODES["txt2img"].parameters
    valid = {name: validation.validate(declared[name], value) for name, value in values.items()}
    request = resolve(config, "txt2img", valid)
    model = model.differentiable() if validation.flag("grad", grad) else model
    ops = model.backend
    prompts = len(request.prompts)
    text = encode_texts(
        model, request.prompts, request.negative_prompts, (0, 0), request.clip_skip, request.options
    )
    training_sigmas = sampling_sigmas(config.scheduler)

    @cache
    def for_shape(n: int, h: int, w: int) -> list[tuple[slice, Denoiser]]:
        times = n // prompts
        size = (w * config.vae.factor, h * config.vae.factor)
        batch = repeated(text, times, size)
        if request.embeddings:
            rows = {name: np.repeat(x, times, axis=0) for name, x in request.embeddings.items()}
            batch = with_embeddings(batch, rows)
        channels = input_channels(model, size) if config.image_channels else None
        return [
            (
                part,
                model_denoiser(
                    model,
                    lambda sigma: float(timesteps_at(training_sigmas, sigma)),
                    *batch.conditioning(part),
                    request.cfg_scale,
                    channels=channels,
                ),
            )
            for part in batch.batches(n)
        ]

    def denoise(x: Array, sigma: float) -> Array:
        sigma = validation.noise_level("sigma", sigma)
        x = check_latents(config, ops.own("x", x, ops.state_dtype), prompts)
        with ops.inference():
            n, _, h, w = x.shape
            parts = [part(x[rows], sigma) for rows, part in for_shape(n, h, w)]
            return parts[0] if len(parts) == 1 else ops.xp.concat(parts, axis=0)

    return denoise


def repeated(text: TextConditioning, times: int, size: tuple[int, int]) -> TextConditioning:
    """The text of a single prompt for several images, or that of several, at a size."""
    return replace(
        text,
        prompts=[*text.prompts] * times,
        negative_prompts=[*text.negative_prompts] * times,
        chunks=[*text.chunks] * times,
        size=size,
    )


def check_latents(config: ModelConfig, x: Array, prompts: int) -> Array:
    """The latents, if a model can denoise them.

    Args:
        x: an array.
        prompts: how many; one is for any number of latents.

    Raises:
        UsageError: they are not real numbers, or have another shape.
    """
    shape = tuple(x.shape)
    c = config.vae.latent_channels
    multiple = config.size_multiple // config.vae.factor
    fits = len(shape) == 4 and shape[1] == c and min(shape) > 0
    if not fits or shape[2] % multiple or shape[3] % multiple:
        halved = f", h and w multiples of {multiple}" if multiple > 1 else ""
        raise UsageError(
            f"x must have shape (n, {c}, h, w){halved}, not {shape}",
            code="E-LATENTS",
            hint="a batch of latents, not an image: model.encode_image makes them of images",
        )
    if not array_namespace(x).isdtype(x.dtype, "real floating"):
        raise UsageError(f"x must hold floating-point numbers, not {x.dtype}", code="E-LATENTS")
    if prompts not in (1, shape[0]):
        raise UsageError(
            f"{prompts} prompts for {shape[0]} latents",
            code="E-PROMPT",
            hint="one for each, or one",
        )
    return x
