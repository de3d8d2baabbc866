"""The one loop that serves all modes: encode the prompt, walk the grid, decode.

txt2img starts it from noise, img2img further down from a noised picture, inpaint adds a constraint
that puts the known part back after every step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

import ldmref
from ldmref.errors import Cancelled, NumericError, UsageError
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Guide, guides_of
from ldmref.modes.draws import Posterior, first_draws
from ldmref.modes.event import Callback, CancelFlag, Event
from ldmref.modes.networks import decode_images, image_channels
from ldmref.modes.request import Request
from ldmref.modes.result import Result
from ldmref.modes.steering import Towards, steered_denoiser
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers.course import course
from ldmref.samplers.noise import Streams
from ldmref.samplers.repaint import resample, resampling
from ldmref.samplers.walk import walk


@dataclass(frozen=True)
class Start:
    """Where the loop begins: the known clean latents (or none), and what must stay as it is.

    `known`: latents of the given picture; `from_noise`: start from pure noise all the same;
    `keep`: (1, 1, h, w) float32, 1 where the known latents are put back. For U-Nets with channels
    for it, `mask`: (1, 1, h, w) float32, 1 where to repaint, and `masked`: latents of the picture
    without that; None: everything is repainted; or `channels`: (1, k, h, w) float32, joined to the
    latents as they are. `noisy`: (1, 1, h, w) float32, 1 where the known
    latents are replaced by the noise that the picture starts from. `towards`: a second prompt, and
    how far each picture is on the way to it; `facts`: what `params` tells besides.
    """

    known: Posterior | None = None
    from_noise: bool = True
    keep: np.ndarray | None = None
    mask: np.ndarray | None = None
    masked: Posterior | None = None
    channels: np.ndarray | None = None
    noisy: np.ndarray | None = None
    towards: Towards | None = None
    facts: dict[str, Any] = field(default_factory=dict)


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
    model.make_room(request.width, request.height, request.batch_size, request.tile)
    messages = [*model.notes, *(warnings or [])]
    other = () if start.towards is None else (start.towards.prompt,)
    texts = list(dict.fromkeys(request.prompts + request.negative_prompts + other))
    tokens = model.tokenize(texts, request.reading)
    messages += tokens.warnings
    chunks = dict(zip(texts, tokens.counts, strict=True))
    pairs = zip(request.prompts, request.negative_prompts, strict=True)
    guides, said = guides_of(model, request.control, request.width, request.height)
    messages += said
    counts = [max(chunks[text] for text in (*pair, *other)) for pair in pairs]
    images: list[Image.Image] = []
    finals: list[np.ndarray] = []

    def result() -> Result:
        n = len(images)
        params = (
            request.params()
            | start.facts
            | {
                "seed": list(request.seeds[:n]) if n > 1 else request.seeds[0],
                "model": {"name": model.config.name, "sha256": model.sha256}
                | ({"embeddings": model.embeddings} if model.embeddings else {})
                | model.additions,
                **({} if noise is None or start.towards else {"latents": digests(noise)}),
                **({"control": [guide.record for guide in guides]} if guides else {}),
                "backend": model.backend.describe(),
                "ldmref": ldmref.__version__,
            }
        )
        stack = np.concatenate(finals) if finals else np.zeros((0, *shape), np.float32)
        return Result(images, stack, list(request.seeds[:n]), params, messages)

    try:
        for chosen in batches(counts, request.batch_size):
            given = None if noise is None else noise[chosen]
            reading = replace(request.reading, chunks=counts[chosen.start])
            final = _draw(model, request, start, guides, chosen, reading, given, callback, cancel)
            images += decode_images(model, final, request.tile)
            finals.append(final)
    except Cancelled as stop:
        stop.partial = result()
        raise
    return result()


def _draw(
    model: LatentDiffusion,
    request: Request,
    start: Start,
    guides: list[Guide],
    chosen: slice,
    reading: PromptOptions,
    given: np.ndarray | None,
    callback: Callback | None,
    cancel: CancelFlag | None,
) -> np.ndarray:
    """The sampler loop for one batch; returns the final latents, (n, c, h, w) float32."""
    ops, config = model.backend, model.config
    names = config.scheduler, request.sampler, request.schedule
    way = walk(*names, request.steps)
    # RePaint is not diffusers'
    exact = request.rng == "torch" and request.resample is None
    levels, step_with = course(*names, way, request.first_step, request.eta, exact)

    def wide(x: np.ndarray) -> Array:  # the sampler's state is float32 at least
        return ops.asarray(np.ascontiguousarray(x), ops.state_dtype)

    shape = model.latent_shape(request.width, request.height)
    streams = Streams(request.seeds[chosen], shape, request.rng)
    eps, known, masked = first_draws(request, start.known, streams, given, start.masked)
    if start.noisy is not None and known is not None:
        known = (1.0 - start.noisy) * known + start.noisy * eps
    sigma = levels[0]
    if known is None or start.from_noise:
        x = wide(eps * way.start)
    else:
        x = wide(known + sigma * eps)

    extra = image_channels(model, start.mask, masked, shape, start.channels)
    denoise = steered_denoiser(
        model, request, way, levels, chosen, reading, guides, extra, start.towards
    )

    model.prompts_are_read()

    constrain = None
    if start.keep is not None and known is not None:
        constrain = _keep_known(wide(start.keep), wide(known), wide(eps), levels[-1])
    step = step_with(constrain)
    places = resampling(len(levels) - 1, *(request.resample or (len(levels), 1)))
    total = sum(there > here for here, there in pairwise(places))
    drawn = {"noise": lambda: wide(streams()), "constrain": constrain}
    with ops.inference():
        states = resample(denoise, x, levels, step, places, **drawn)
        while True:
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped between two steps", code="E-CANCELLED")
            state = next(states, None)
            if state is None:
                break
            x = state.x
            if callback is not None:
                first, pictures = chosen.start, len(request.seeds)
                callback(Event(model, state.i, total, state.sigma, first, pictures, x, state.x0))
    # where the grid ends above 0, the state is decoded in variance-preserving scale
    final = np.array(ops.to_numpy(x / math.hypot(1.0, levels[-1])), np.float32)
    if not np.isfinite(final).all():
        raise NumericError(
            f"the latents became NaN or infinite ({ops!r}, sampler {request.sampler})",
            code="E-NAN",
            hint="try --dtype float32" if ops.dtype in ("float16", "bfloat16") else "",
        )
    return final


def batches(counts: Sequence[int], size: int) -> Iterator[slice]:
    """Pictures that go through the networks together: at most `size`, with equally long prompts."""
    first = 0
    while first < len(counts):
        last = first + 1
        while last < min(len(counts), first + size) and counts[last] == counts[first]:
            last += 1
        yield slice(first, last)
        first = last


def _keep_known(
    keep: Array, known: Array, eps: Array, last: float
) -> Callable[[Array, float], Array]:
    """Where `keep` is 1, the known latents at the sampler's noise level, always with one noise.

    At the last level they are put back clean, whatever noise the grid leaves.
    """

    def constrain(x: Array, sigma: float) -> Array:
        there = known * math.hypot(1.0, sigma) if sigma == last else known + sigma * eps
        return (1.0 - keep) * x + keep * there

    return constrain


def digests(noise: np.ndarray) -> list[str]:
    """SHA-256 of each picture's given start noise, (n, c, h, w)."""
    return [hashlib.sha256(one.tobytes()).hexdigest() for one in noise]


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
