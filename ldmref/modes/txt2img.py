"""Text to picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Control
from ldmref.modes.event import Callback, CancelFlag
from ldmref.modes.generate import Start, generate
from ldmref.modes.request import resolve
from ldmref.modes.result import Result


def txt2img(
    model: LatentDiffusion,
    prompt: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    seed: int | Sequence[int] | None = None,
    count: int = 1,
    width: int | None = None,
    height: int | None = None,
    eta: float | None = None,
    clip_skip: int | None = None,
    rng: str = "philox",
    latents: np.ndarray | None = None,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    batch_size: int = 1,
    long_prompts: str = "truncate",
    prompt_weights: str = "none",
    control: Sequence[Control] = (),
    tile: int | None = None,
) -> Result:
    """Draw pictures from words.

    Args:
        model: from `ldmref.load` or `ldmref.random_model`.
        prompt: what to draw; a list draws each.
        negative_prompt: what to keep away from; one, or as many as prompts.
        steps: sampler steps, 1 to 1000. None here and below: as the model says.
        cfg_scale: guidance s in u + s (c - u); 0 ignores the prompt, 1 is no guidance.
        sampler: a name in `ldmref.samplers.SAMPLERS`.
        schedule: spacing of the noise levels: leading, linspace, trailing, karras, exponential.
        seed: picture i of the call has seed + i (modulo 2^64); a list gives each its own; None or
            -1 is random, and recorded in the result.
        count: pictures per prompt.
        width, height: pixels.
        eta: fresh noise of `ddim` and `euler_a`, 0 to 1.
        clip_skip: leave out that many last layers of the text encoder.
        rng: the source of noise: `philox`; `torch`, with which a seed gives diffusers' picture; or
            `a1111-gpu`, with which it gives A1111's (docs/random.md).
        latents: unit-variance start noise (n, c, h, w) in place of the seeds' first draw.
        callback: called after every step with an `Event`.
        cancel: a `threading.Event`; when set, `Cancelled` is raised before the next step.
        batch_size: pictures that go through the networks together; more than one may change the
            last bits of a picture, and is faster on a GPU.
        long_prompts: `truncate` to what the text encoder reads at once, or `chunk`.
        prompt_weights: `none`, or `a1111` for (word:1.3) and [word] (docs/prompts.md).
        control: ControlNets, each with a picture that it reads; what they say is added up.
        tile: decode in overlapping tiles of that many pixels a side, for pictures that do not fit
            into memory as a whole; seams are blended, but colours may drift from tile to tile.

    Returns:
        `Result` with images, latents, seeds, params, warnings.

    Raises:
        UsageError, ResourceError: an argument is wrong; nothing was computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    request = resolve(
        model.config, "txt2img", prompt, negative_prompt=negative_prompt, steps=steps,
        cfg_scale=cfg_scale, sampler=sampler, schedule=schedule, seed=seed, count=count,
        width=width, height=height, eta=eta, clip_skip=clip_skip, rng=rng, batch_size=batch_size,
        long_prompts=long_prompts, prompt_weights=prompt_weights,
        control=control, tile=tile,
    )  # fmt: skip
    return generate(model, request, Start(), latents=latents, callback=callback, cancel=cancel)
