"""The one loop that serves all modes: encode the prompt, walk the grid, decode.

txt2img starts it from noise, img2img further down from a noised picture, inpaint adds a constraint
that puts the known part back after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from PIL import Image

import ldmref
from ldmref.backends.base import Array, Backend
from ldmref.errors import Cancelled, NumericError, UsageError
from ldmref.io.images import to_array, to_images
from ldmref.models.model import LatentDiffusion
from ldmref.modes.request import Request
from ldmref.modes.result import Result
from ldmref.samplers import get_sampler, sample
from ldmref.samplers.denoiser import Timesteps, guided_denoiser
from ldmref.samplers.grids import sampling_alphas_cumprod, sigma_grid
from ldmref.samplers.noise import Streams


class CancelFlag(Protocol):
    """What `cancel` must offer: a `threading.Event` does."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Event:
    """What a callback gets after each step: where the sampler stands, and what it expects to draw.

    `latents` is the noisy state in the coordinates x = x0 + sigma eps, `x0` the predicted clean
    latents, both (n, c, h, w) float32 copies; `first` is the index of the batch's first picture.
    """

    model: LatentDiffusion
    step: int
    steps: int
    sigma: float
    first: int
    pictures: int
    _x: Array
    _x0: Array

    @cached_property
    def latents(self) -> np.ndarray:
        return np.array(self.model.backend.to_numpy(self._x), np.float32)

    @cached_property
    def x0(self) -> np.ndarray:
        return np.array(self.model.backend.to_numpy(self._x0), np.float32)

    def preview(self) -> list[Image.Image]:
        """The predicted pictures, decoded (costs about as much as a step)."""
        return decode_images(self.model, self.x0)


Callback = Callable[[Event], None]


@dataclass(frozen=True)
class Start:
    """Where the loop begins: the known clean latents (or none), and what must stay as it is.

    `known`: (n or 1, c, h, w) float32 latents of the given picture; `from_noise`: start from pure
    noise all the same; `keep`: (1, 1, h, w) float32, 1 where the known latents are put back.
    """

    known: np.ndarray | None = None
    from_noise: bool = True
    keep: np.ndarray | None = None


def generate(
    model: LatentDiffusion,
    request: Request,
    start: Start,
    *,
    latents: np.ndarray | None = None,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    warnings: list[str] | None = None,
) -> Result:
    """Draw all pictures of a request, `batch_size` at a time.

    Raises:
        Cancelled: `cancel` was set; its `partial` is the `Result` of the finished pictures.
        NumericError: the latents hold NaN or infinity.
    """
    shape = model.latent_shape(request.width, request.height)
    noise = _check_latents(latents, (len(request.seeds), *shape))
    messages = list(warnings or [])
    messages += model.tokenize(list(dict.fromkeys(request.prompts + request.negative_prompts)))[1]
    images: list[Image.Image] = []
    finals: list[np.ndarray] = []

    def result() -> Result:
        n = len(images)
        params = request.params() | {
            "seed": list(request.seeds[:n]) if n > 1 else request.seeds[0],
            "model": {"name": model.config.name, "sha256": model.sha256},
            "backend": model.backend.describe(),
            "ldmref": ldmref.__version__,
        }
        stack = np.concatenate(finals) if finals else np.zeros((0, *shape), np.float32)
        return Result(images, stack, list(request.seeds[:n]), params, messages)

    try:
        for first in range(0, len(request.seeds), request.batch_size):
            chosen = slice(first, first + request.batch_size)
            given = None if noise is None else noise[chosen]
            final = _draw(model, request, start, chosen, given, callback, cancel)
            images += decode_images(model, final)
            finals.append(final)
    except Cancelled as stop:
        stop.partial = result()
        raise
    return result()


def _draw(
    model: LatentDiffusion,
    request: Request,
    start: Start,
    chosen: slice,
    given: np.ndarray | None,
    callback: Callback | None,
    cancel: CancelFlag | None,
) -> np.ndarray:
    """The sampler loop for one batch; returns the final latents, (n, c, h, w) float32."""
    ops, config = model.backend, model.config
    sampler = get_sampler(request.sampler)
    alpha_bar = sampling_alphas_cumprod(config.scheduler)
    spacing = (request.schedule, request.steps, config.scheduler.final_sigma)
    sigmas = sigma_grid(alpha_bar, *spacing, offset=config.scheduler.steps_offset)
    sigmas = sigmas[request.first_step :]

    prompts = request.prompts[chosen]
    negative_prompts = request.negative_prompts[chosen]
    denoise = guided_denoiser(
        network_of(model),
        Timesteps(alpha_bar),
        config.scheduler.prediction_type,
        cond=model.encode_text(prompts, request.clip_skip),
        uncond=model.encode_text(negative_prompts, request.clip_skip),
        cfg_scale=request.cfg_scale,
        concat=lambda arrays: ops.xp.concat(arrays, axis=0),
    )

    def wide(x: np.ndarray) -> Array:  # the sampler's state is float32 at least
        return ops.asarray(np.ascontiguousarray(x), ops.wide)

    shape = model.latent_shape(request.width, request.height)
    streams = Streams(list(request.seeds[chosen]), shape)
    eps = streams() if given is None else given
    sigma = float(sigmas[0])
    if start.known is None or start.from_noise:
        x = wide(eps * math.sqrt(1.0 + sigma * sigma))  # the prior N(0, 1) in these coordinates
    else:
        x = wide(start.known + sigma * eps)

    constrain = None
    if start.keep is not None and start.known is not None:
        constrain = _keep_known(wide(start.keep), wide(start.known), wide(eps))
    step = sampler.make() if request.eta is None else sampler.make(eta=request.eta)
    with ops.inference():
        walk = sample(
            denoise, x, sigmas.tolist(), step, noise=lambda: wide(streams()), constrain=constrain
        )
        while True:
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped between two steps", code="E-CANCELLED")
            state = next(walk, None)
            if state is None:
                break
            x = state.x
            if callback is not None:
                total, pictures = len(sigmas) - 1, len(request.seeds)
                callback(
                    Event(model, state.i, total, state.sigma, chosen.start, pictures, x, state.x0)
                )
    final = np.array(ops.to_numpy(x), np.float32)
    if not np.isfinite(final).all():
        raise NumericError(
            f"the latents became NaN or infinite ({ops!r}, sampler {request.sampler})",
            code="E-NAN",
            hint="try --dtype float32" if ops.dtype in ("float16", "bfloat16") else "",
        )
    return final


def _keep_known(keep: Array, known: Array, eps: Array) -> Callable[[Array, float], Array]:
    """Where `keep` is 1, the known latents at the sampler's noise level, always with one noise."""
    return lambda x, sigma: (1.0 - keep) * x + keep * (known + sigma * eps)


def network_of(model: LatentDiffusion) -> Callable[[Array, float, Array], Array]:
    """The U-Net as `(x_t, t, context) -> prediction`, in and out in the sampler's precision."""
    ops: Backend = model.backend

    def network(xt: Array, t: float, context: Array) -> Array:
        time = ops.asarray(np.full(xt.shape[0], t), ops.wide)
        return ops.cast(model.unet(ops.cast(xt, ops.dtype), time, context), ops.wide)

    return network


def decode_images(model: LatentDiffusion, latents: np.ndarray) -> list[Image.Image]:
    """Pictures of host latents (n, c, h, w)."""
    pixels = model.backend.to_numpy(model.decode(model.backend.asarray(latents)))
    if not np.isfinite(pixels).all():
        raise NumericError(
            "the decoder gave NaN or infinity", code="E-NAN", hint="try --dtype float32"
        )
    return to_images(pixels)


def encode_picture(model: LatentDiffusion, image: Image.Image) -> np.ndarray:
    """Scaled latents (1, c, h, w) float32 of an RGB picture: the posterior's mean."""
    x = model.backend.asarray(to_array([image]))
    return np.array(model.backend.to_numpy(model.encode_image(x)), np.float32)


def _check_latents(latents: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if latents is None:
        return None
    array = np.array(latents, np.float32)
    if array.shape != shape:
        raise UsageError(
            f"latents have shape {array.shape}, this request needs {shape}", code="E-LATENTS"
        )
    if not np.isfinite(array).all():
        raise UsageError("latents hold NaN or infinity", code="E-LATENTS")
    return array
