"""A loaded model as a denoiser: `denoise(x, sigma) -> x0`, with guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from array_api_compat import array_namespace

from ldmref.backends.base import Backend
from ldmref.errors import UsageError, did_you_mean
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import validation
from ldmref.modes.active_guide import ActiveGuide, encode_guide, load_guide
from ldmref.modes.batch_network import BatchNetwork
from ldmref.modes.channels import make_input_channels
from ldmref.modes.guidance_parameter import texts_read
from ldmref.modes.guide import GuideSource
from ldmref.modes.initial import InitialState
from ldmref.modes.job import Job
from ldmref.modes.registry import read_request, require_config
from ldmref.modes.resolve import resolve
from ldmref.modes.start import encode_job
from ldmref.modes.text import TextConditioning
from ldmref.samplers import Guidance, Guided, GuidedDenoiser, History, Interval
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import sampling_sigmas, timestep_at


class DenoiserOptions(TypedDict, total=False):
    """What a denoiser takes of a request besides its prompts and scale, as `modes.txt2img` does."""

    guidance: str | Mapping[str, Any] | Guidance | None
    guide: GuideSource | None
    clip_skip: int | None
    max_sequence_length: int | None
    long_prompts: str
    prompt_weights: str
    prompt_embeds: Array | None
    negative_prompt_embeds: Array | None
    pooled_prompt_embeds: Array | None
    negative_pooled_prompt_embeds: Array | None
    prompt_mask: Array | None
    negative_prompt_mask: Array | None


def denoiser(
    model: LatentDiffusion,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] = "",
    cfg_scale: float | None = None,
    *,
    grad: bool = False,
    **request: Unpack[DenoiserOptions],
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
        grad: Let gradients flow from x0 to x, on a backend that differentiates (torch); the
            parameters of the model are constants.
        request: What `modes.txt2img` reads of prompts and guidance, by the same names: `guidance`
            and `guide`; `clip_skip`, `max_sequence_length`, `long_prompts` and `prompt_weights`;
            hidden states (n, l, d) instead of prompts as `prompt_embeds` and
            `negative_prompt_embeds`, pooled outputs (n, d) as `pooled_prompt_embeds` and
            `negative_pooled_prompt_embeds`, and masks (n, l) as `prompt_mask` and
            `negative_prompt_mask`. A guidance with momentum (`apg`) remembers earlier steps within
            `samplers.sample`; `denoise(x, sigma)` starts without memory.

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
    config = require_config("denoiser", model)
    for name in request:
        if name not in DenoiserOptions.__annotations__:
            known = (*DenoiserOptions.__annotations__, "grad")
            hint = did_you_mean(name, known)
            raise UsageError(f"denoiser has no parameter {name!r}", code="E-USAGE", hint=hint)
    texts = {"prompt": prompt, "negative_prompt": negative_prompt, "cfg_scale": cfg_scale}
    job = resolve(config, "txt2img", read_request("txt2img", {**texts, **request}))
    model = model.with_text_length(job.max_sequence_length)
    weaker = None if job.guide is None else load_guide(model, job.guide)
    if validation.check_flag("grad", grad):
        model = model.differentiable()
        weaker = None if weaker is None else weaker.differentiable()
    # The step of a sampler may ask for the prediction without the prompt.
    read = texts_read(job.guidance, job.sampler, job.cfg_scale)
    also = set() if config.denoiser.reads_guidance else {"uncond"}
    text = encode_job(model, job, InitialState(), read | also)
    guide = None if weaker is None else encode_guide(weaker, job, InitialState(), text)
    return GuidedDenoiser(PromptedModel(model, job, text, guide).predict, job.guidance.remembers)


@dataclass(frozen=True, eq=False)
class PromptedModel:
    """A model with encoded prompts, which denoises latents of any number and size.

    Args:
        model: The model.
        job: The resolved prompts and guidance.
        text: The encoded prompts.
        guide: The weaker model of autoguidance. None: there is none.
    """

    model: LatentDiffusion
    job: Job
    text: TextConditioning
    guide: ActiveGuide | None
    _parts: dict[tuple[int, ...], list[tuple[slice, GuidedDenoiser]]] = field(
        default_factory=dict, init=False
    )

    def timestep(self, sigma: float, interval: Interval | None) -> float:
        """Return the timestep of a level of the model's path."""
        scheduler = self.model.config.scheduler
        ratio = scheduler.path.ratio(sigma)
        return float(timestep_at(sampling_sigmas(scheduler), ratio, scheduler.path is FLOW))

    def parts(self, shape: tuple[int, ...]) -> list[tuple[slice, GuidedDenoiser]]:
        """Return the rows of latents (n, c, h, w) that are denoised together, with their denoiser.

        Args:
            shape: That of the latents.
        """
        if shape not in self._parts:
            n, _, h, w = shape
            model, guide = self.model, self.guide
            factor = model.config.vae.factor
            times, size = n // len(self.job.prompts), (w * factor, h * factor)
            text = self.text.repeated(times, size)
            weaker = None if guide is None else guide.repeated(times, size)
            channels = make_input_channels(model, size) if model.config.image_channels else None
            self._parts[shape] = found = []
            for rows in text.batches(n):
                conditionings = text.conditionings(rows)
                if weaker is not None:
                    conditionings |= weaker.conditioning(rows)
                network = BatchNetwork(
                    model,
                    self.timestep,
                    conditionings,
                    self.job.cfg_scale,
                    channels=channels,
                    guide=None if guide is None else guide.model,
                )
                found.append((rows, network.guided(self.job.guidance, model.config.scheduler.path)))
        return self._parts[shape]

    def predict(
        self,
        x: Array,
        sigma: float,
        memory: History,
        unconditional: bool,
        interval: Interval | None,
        scale: float | None,
    ) -> Guided:
        """Return x0 of latents x (n, c, h, w) at a level; see `GuidedDenoiser.guided`."""
        config, ops = self.model.config, self.model.backend
        most = 1.0 if config.scheduler.path is FLOW else validation.MAX_SIGMA
        sigma = validation.check_noise_level("sigma", sigma, most)
        x = check_latents(config, ops.own("x", x, ops.state_dtype), len(self.job.prompts))
        with ops.inference():
            parts = self.parts(tuple(x.shape))
            memories = memory or ((),) * len(parts)
            results = [
                denoise.guided(x[rows], sigma, part_memory, unconditional, interval, scale)
                for (rows, denoise), part_memory in zip(parts, memories, strict=True)
            ]
            x0 = _concat(ops, [result.x0 for result in results])
            uncond = _concat(ops, [r.uncond for r in results]) if unconditional else None
        memories = tuple(result.memory for result in results)
        return Guided(x0, uncond, memories, self.job.cfg_scale)


def _concat(ops: Backend, parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else ops.xp.concat(parts, axis=0)


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
