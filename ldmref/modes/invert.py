"""From a picture to the noise that draws it, to draw it again with other words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import Cancelled, NumericError, UsageError
from ldmref.math.schedules import sigma_from_alpha_bar
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import checks
from ldmref.modes.event import Callback, CancelFlag, Event
from ldmref.modes.networks import encode_picture, image_channels
from ldmref.modes.picture import Source, sized_picture
from ldmref.modes.request import Request, resolve
from ldmref.modes.steering import steered_denoiser
from ldmref.samplers import sample
from ldmref.samplers.grids import sampling_alphas_cumprod
from ldmref.samplers.inversion import implicit
from ldmref.samplers.walk import walk


@dataclass(frozen=True)
class Inversion:
    """`txt2img(model, prompt, latents=inversion.latents, **inversion.settings)` draws the picture.

    latents: (1, c, h, w) float32, start noise; settings: the arguments that belong to it;
    prompt: with which the picture was inverted; warnings: one line each.
    """

    latents: np.ndarray
    settings: dict[str, Any]
    prompt: str
    warnings: list[str] = field(default_factory=list)


def invert(
    model: LatentDiffusion,
    prompt: str,
    image: Source,
    *,
    resize: str = "crop",
    negative_prompt: str = "",
    steps: int | None = None,
    cfg_scale: float = 1.0,
    schedule: str | None = None,
    width: int | None = None,
    height: int | None = None,
    clip_skip: int | None = None,
    long_prompts: str = "truncate",
    prompt_weights: str = "none",
    iterations: int = 5,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
) -> Inversion:
    """Walk a picture up to noise with DDIM, told what it shows.

    `txt2img` from these latents with the same prompt gives the picture back, but for what the
    autoencoder loses and an error of the walk; with another prompt it gives the picture as it would
    be with those words, as far as the noise holds the layout (Hertz et al. 2022, arXiv:2208.01626,
    section 4, without its attention maps).

    Args:
        prompt: what the picture shows; "" works, and edits less well.
        image, resize, width, height: as for `img2img`.
        cfg_scale: 1, no guidance, is what inverts well (Mokady et al. 2022, arXiv:2211.09794,
            section 3); edit with more: `settings | {"cfg_scale": 3.0}`.
        iterations: of the fixed-point iteration that makes a step up the inverse of the step down,
            0 to 100; 0 is plain DDIM inversion, and its error falls with the number of steps only.
        callback: called after every step up with an `Event`.
        cancel: a `threading.Event`; when set, `Cancelled` is raised before the next step.

    The other arguments are those of `txt2img`.

    Raises:
        UsageError, ImageError: an argument or the picture is wrong; nothing was computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    request, picture, warnings = planned(
        model.config, prompt, image, resize, iterations, width, height,
        negative_prompt=negative_prompt, steps=steps, cfg_scale=cfg_scale, schedule=schedule,
        clip_skip=clip_skip, long_prompts=long_prompts, prompt_weights=prompt_weights,
    )  # fmt: skip
    ops, config = model.backend, model.config.scheduler
    way = walk(config, "ddim", request.schedule, request.steps)
    levels = way.sigmas.tolist()
    tokens = model.tokenize([prompt, negative_prompt], request.reading)
    reading = replace(request.reading, chunks=max(tokens.counts))
    shape = model.latent_shape(request.width, request.height)
    extra = image_channels(model, None, None, shape)
    one = slice(0, 1)
    denoise = steered_denoiser(model, request, way, levels, one, reading, extra=extra)
    up = levels[::-1]
    if up[0] == 0.0 and not iterations:  # there is no slope at 0
        up[0] = min(up[1] / 2.0, float(sigma_from_alpha_bar(sampling_alphas_cumprod(config))[0]))
    known = encode_picture(model, picture).mean * math.hypot(1.0, levels[-1])
    x = ops.asarray(known, ops.state_dtype)
    with ops.inference():
        states = sample(denoise, x, up, implicit(iterations))
        for _ in range(request.steps):
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped between two steps", code="E-CANCELLED")
            state = next(states)
            x = state.x
            if callback is not None:
                callback(Event(model, state.i, request.steps, state.sigma, 0, 1, x, state.x0))
    latents = np.array(ops.to_numpy(x / way.start), np.float32)
    if not np.isfinite(latents).all():
        raise NumericError(
            "the inversion became NaN or infinite", code="E-NAN", hint="use fewer iterations"
        )
    names = ("steps", "cfg_scale", "sampler", "schedule", "width", "height", "eta", "clip_skip")
    settings = {name: getattr(request, name) for name in names}
    settings |= {"negative_prompt": negative_prompt, "long_prompts": long_prompts,
                 "prompt_weights": prompt_weights}  # fmt: skip
    return Inversion(latents, settings, prompt, warnings + tokens.warnings)


def planned(
    config: ModelConfig,
    prompt: str,
    image: Source,
    resize: str = "crop",
    iterations: int = 5,
    width: int | None = None,
    height: int | None = None,
    *,
    negative_prompt: str = "",
    **asked: Any,
) -> tuple[Request, Image.Image, list[str]]:
    """Every argument of `invert` checked, the picture at its size; weights are not needed.

    Raises:
        UsageError, ResourceError, ImageError: as `invert`.
    """
    if not isinstance(prompt, str) or not isinstance(negative_prompt, str):
        raise UsageError("invert takes one prompt", code="E-PROMPT")
    checks.integer("iterations", iterations, 0, 100)
    picture, _, warnings = sized_picture(config, image, width, height, resize)
    request = resolve(
        config, "invert", prompt, negative_prompt=negative_prompt, sampler="ddim", eta=0.0, seed=0,
        width=picture.width, height=picture.height, **asked,
    )  # fmt: skip
    return request, picture, warnings
