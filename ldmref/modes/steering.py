"""What steers a walk: prompts and ControlNets, as one denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from ldmref.math.arrays import Array
from ldmref.math.interpolation import lerp, slerp
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Guide
from ldmref.modes.networks import concat, network_of
from ldmref.modes.request import Request
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers.denoiser import guided_denoiser
from ldmref.samplers.loop import Denoise
from ldmref.samplers.walk import Walk

PATHS = {"lerp": lerp, "slerp": slerp}


class Towards(NamedTuple):
    """A second prompt, and how far each picture is on the `path` to it: (n,) in [0, 1]."""

    prompt: str
    positions: np.ndarray
    path: str


def steered_denoiser(
    model: LatentDiffusion,
    request: Request,
    way: Walk,
    sigmas: Sequence[float],
    chosen: slice,
    reading: PromptOptions,
    guides: Sequence[Guide] = (),
    extra: Array | None = None,
    towards: Towards | None = None,
) -> Denoise:
    """The denoiser of the chosen pictures of a request.

    Args:
        sigmas: the levels that are walked, decreasing; the guides' part of the steps is of these.
        extra: further channels for U-Nets that have them.
    """
    ops = model.backend
    told = request.clip_skip, request.width, request.height
    cond = model.condition(request.prompts[chosen], *told, reading=reading)
    if towards is not None:
        cond = _blend(model, cond, towards, chosen, request, reading)
    negative_prompts = request.negative_prompts[chosen]
    uncond = model.condition(negative_prompts, *told, negative=True, reading=reading)
    acting = [guide.acts(sigmas) for guide in guides]

    @cache  # one for each set of guides that act together, not for each step
    def guided_by(acting: tuple[int, ...]) -> Denoise:
        return guided_denoiser(
            network_of(model, extra, [guides[i] for i in acting]),
            way.timestep,
            model.config.scheduler.prediction_type,
            cond,
            uncond,
            request.cfg_scale,
            concat=lambda parts: concat(ops, parts),
        )

    def denoise(x: Array, sigma: float) -> Array:
        return guided_by(tuple(i for i, acts in enumerate(acting) if acts(sigma)))(x, sigma)

    return denoise


def _blend(
    model: LatentDiffusion,
    cond: Conditioning,
    towards: Towards,
    chosen: slice,
    request: Request,
    reading: PromptOptions,
) -> Conditioning:
    told = request.clip_skip, request.width, request.height
    n = len(request.prompts[chosen])
    other = model.condition([towards.prompt] * n, *told, reading=reading)
    t, path = model.backend.asarray(towards.positions[chosen]), PATHS[towards.path]

    def between(a: Array | None, b: Array | None) -> Array | None:
        return None if a is None or b is None else path(a, b, t)

    context = between(cond.context, other.context)
    return Conditioning(context, between(cond.pooled, other.pooled), cond.sizes)
