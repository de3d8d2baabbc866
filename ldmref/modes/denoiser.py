"""A loaded model as a denoiser: `denoise(x, sigma) -> x0`, with guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from array_api_compat import array_namespace

from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import validation
from ldmref.modes.active_guide import ActiveGuide, encode_guide, load_guide
from ldmref.modes.channels import make_input_channels
from ldmref.modes.guidance_parameter import texts_read
from ldmref.modes.guide import GuideSource
from ldmref.modes.initial import InitialState
from ldmref.modes.model_denoiser import model_denoiser
from ldmref.modes.registry import read_request, require_config
from ldmref.modes.resolve import resolve
from ldmref.modes.start import encode_job
from ldmref.samplers import Guidance, Guided, GuidedDenoiser, History, Interval
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import sampling_sigmas, timestep_at


def denoiser(
    model: LatentDiffusion,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] = "",
    cfg_scale: float | None = None,
    *,
    guidance: str | Mapping[str, Any] | Guidance | None = None,
    guide: GuideSource | None = None,
    clip_skip: int | None = None,
    max_sequence_length: int | None = None,
    long_prompts: str = "truncate",
    prompt_weights: str = "none",
    prompt_embeds: Array | None = None,
    negative_prompt_embeds: Array | None = None,
    pooled_prompt_embeds: Array | None = None,
    negative_pooled_prompt_embeds: Array | None = None,
    prompt_mask: Array | None = None,
    negative_prompt_mask: Array | None = None,
    grad: bool = False,
) -> GuidedDenoiser:
    """Return the model as `denoise(x, sigma) -> x0`, for `samplers.sample` and your own samplers.

    x = x0 + sigma eps and x0 are latents (n, c, h, w), arrays of the model's backend (x may also be
    NumPy's); sigma is a number from 0 to 1e6. The timestep is linear in log sigma between the
    training timesteps. For a model trained with flow matching x = (1 - sigma) x0 + sigma eps, with
    sigma from 0 to 1, and the timestep is T sigma: give `samplers.sample` the path `FLOW`.

    Args:
        model: From `ldmref.load` or `ldmref.random_model`.
        prompt: One text for all n images, or a list with an entry per image. None: allowed with
            `prompt_embeds` only.
        negative_prompt: Content to avoid: one text for all images, or one for each.
        cfg_scale: Guidance scale s in u + s (c - u), from -1000 to 1000. None: the model's setting,
            or 1 with autoguidance.
        guidance: The rule that combines the predictions, as in `modes.txt2img`. A guidance with
            momentum (`apg`) remembers earlier steps within `samplers.sample`; `denoise(x, sigma)`
            starts without memory. None: classifier-free guidance.
        guide: The weaker model of autoguidance, or where it is, as in `modes.txt2img`. None: no
            other guidance has one.
        clip_skip: Number of last layers of the text encoder to leave out. None: 0.
        max_sequence_length: Number of tokens of T5 (SD3, Flux). None: the model's own.
        long_prompts: `truncate` cuts prompts that the text encoder cannot read at once; `chunk`
            reads them in chunks.
        prompt_weights: `none`, or `a1111` for (word:1.3) and [word].
        prompt_embeds: Hidden states (n, l, d), instead of prompts. None: the prompts are encoded.
        negative_prompt_embeds: Hidden states (n, l, d) of the negative prompts. None: the negative
            prompts are encoded.
        pooled_prompt_embeds: Pooled output (n, d) of the prompts (SDXL). None: not given.
        negative_pooled_prompt_embeds: Pooled output (n, d) of the negative prompts (SDXL). None:
            not given.
        prompt_mask, negative_prompt_mask: 1 for hidden states that are read and 0 for padding,
            (n, l), for models that read a mask. None: all are read.
        grad: Let gradients flow from x0 to x, on a backend that differentiates (torch); the
            parameters of the model are constants.

    Returns:
        The denoiser. `denoise(x, sigma)` returns x0 in the shape of x and `backend.state_dtype`,
        float32 at least; `denoise.guided(...)` also returns the prediction without the prompt.

    Raises:
        UsageError: An argument is wrong, or the backend does not differentiate. `denoise` raises it
            for a wrong x or sigma.

    >>> import ldmref
    >>> import numpy as np
    >>> denoise = ldmref.denoiser(ldmref.random_model("tiny"), "a red heart", cfg_scale=2.0)
    >>> denoise(np.ones((1, 4, 8, 8), np.float32), 1.5).shape
    (1, 4, 8, 8)
    """
    values = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "cfg_scale": cfg_scale,
        "guidance": guidance,
        "guide": guide,
        "clip_skip": clip_skip,
        "max_sequence_length": max_sequence_length,
        "long_prompts": long_prompts,
        "prompt_weights": prompt_weights,
        "prompt_embeds": prompt_embeds,
        "negative_prompt_embeds": negative_prompt_embeds,
        "pooled_prompt_embeds": pooled_prompt_embeds,
        "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        "prompt_mask": prompt_mask,
        "negative_prompt_mask": negative_prompt_mask,
    }
    config = require_config("denoiser", model)
    job = resolve(config, "txt2img", read_request("txt2img", values))
    model = model.with_text_length(job.max_sequence_length)
    weaker = None if job.guide is None else load_guide(model, job.guide)
    if validation.check_flag("grad", grad):
        model = model.differentiable()
        weaker = None if weaker is None else weaker.differentiable()
    ops = model.backend
    prompts = len(job.prompts)
    # The step of a sampler may ask for the prediction without the prompt.
    read = texts_read(job.guidance, job.sampler, job.cfg_scale)
    also = set() if config.denoiser.reads_guidance else {"uncond"}
    text = encode_job(model, job, InitialState(), read | also)
    active: ActiveGuide | None = None
    if weaker is not None:
        active = encode_guide(weaker, job, InitialState(), text)
    training_sigmas = sampling_sigmas(config.scheduler)
    path = config.scheduler.path

    def timestep(sigma: float, interval: Interval | None) -> float:
        return float(timestep_at(training_sigmas, path.ratio(sigma), path is FLOW))

    @cache
    def for_shape(n: int, h: int, w: int) -> list[tuple[slice, GuidedDenoiser]]:
        times = n // prompts
        size = (w * config.vae.factor, h * config.vae.factor)
        batch = text.repeated(times, size)
        channels = make_input_channels(model, size) if config.image_channels else None
        second = None if active is None else active.repeated(times, size)
        return [
            (
                part,
                model_denoiser(
                    model,
                    timestep,
                    batch.conditionings(part) | (second.conditioning(part) if second else {}),
                    job.cfg_scale,
                    job.guidance,
                    channels=channels,
                    path=path,
                    guide=weaker,
                ),
            )
            for part in batch.batches(n)
        ]

    def concat(parts: Sequence[Array | None]) -> Any:
        return parts[0] if len(parts) == 1 else ops.xp.concat(parts, axis=0)

    def predict(
        x: Array,
        sigma: float,
        memory: History,
        unconditional: bool,
        interval: Interval | None,
        scale: float | None,
    ) -> Guided:
        most = 1.0 if path is FLOW else validation.MAX_SIGMA
        sigma = validation.check_noise_level("sigma", sigma, most)
        x = check_latents(config, ops.own("x", x, ops.state_dtype), prompts)
        n, _, h, w = x.shape
        with ops.inference():
            parts = for_shape(n, h, w)
            memories = memory or ((),) * len(parts)
            results = [
                denoise.guided(x[rows], sigma, part_memory, unconditional, interval, scale)
                for (rows, denoise), part_memory in zip(parts, memories, strict=True)
            ]
            x0 = concat([result.x0 for result in results])
            uncond = concat([r.uncond for r in results]) if unconditional else None
        memories = tuple(result.memory for result in results)
        return Guided(x0, uncond, memories, job.cfg_scale)

    return GuidedDenoiser(predict, job.guidance.remembers)


# -- latents that callers bring --------------------------------------------------------------------


def check_latents(config: ModelConfig, x: Array, prompts: int) -> Array:
    """Check that a model can denoise the latents, and return them.

    Args:
        config: The model's configuration.
        x: An array.
        prompts: The number of prompts; a single one serves any number of latents.

    Raises:
        UsageError: They are not real numbers, or have another shape.
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
