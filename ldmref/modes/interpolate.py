"""Pictures on the way from one prompt, and one noise, to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import UsageError
from ldmref.math.interpolation import slerp
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import checks
from ldmref.modes.control import Control
from ldmref.modes.event import Callback, CancelFlag
from ldmref.modes.generate import Start, generate
from ldmref.modes.request import Request, resolve
from ldmref.modes.result import Result
from ldmref.modes.steering import PATHS, Towards
from ldmref.samplers import get_sampler
from ldmref.samplers.noise import Streams


def interpolate(
    model: LatentDiffusion,
    prompt: str,
    prompt_b: str,
    positions: int | Sequence[float] = 8,
    *,
    path: str = "lerp",
    negative_prompt: str = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    seed: int | Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    eta: float | None = None,
    clip_skip: int | None = None,
    rng: str = "philox",
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    batch_size: int = 1,
    long_prompts: str = "truncate",
    prompt_weights: str = "none",
    control: Sequence[Control] = (),
    tile: int | None = None,
) -> Result:
    """Draw a row of pictures that turns from one prompt into another.

    The start noise goes along the great circle between the noises of two seeds, which keeps its
    length; what the text encoder says goes along `path`. The ends are txt2img's pictures.

    Args:
        prompt, prompt_b: at 0 and at 1.
        positions: how many pictures, evenly spaced from 0 to 1, at least 2; or their positions.
        path: of the prompts' hidden states: `lerp`, the straight line, or `slerp`.
        seed: of the noise at 0 and at 1; one seed, or None for a random one, serves both.
        sampler, eta: such that no fresh noise is drawn on the way.

    The other arguments, the result and the errors are those of `txt2img`.
    """
    request, ends, where = planned(
        model.config, prompt, prompt_b, positions, path, seed, negative_prompt=negative_prompt,
        steps=steps, cfg_scale=cfg_scale, sampler=sampler, schedule=schedule, width=width,
        height=height, eta=eta, clip_skip=clip_skip, rng=rng, batch_size=batch_size,
        long_prompts=long_prompts, prompt_weights=prompt_weights, control=control, tile=tile,
    )  # fmt: skip
    shape = model.latent_shape(request.width, request.height)
    noise = Streams(ends, shape, rng)().astype(np.float64)
    a, b = (np.repeat(part, len(where), axis=0) for part in (noise[:1], noise[1:]))
    latents = slerp(a, b, where).astype(np.float32)
    facts = {"prompt_b": prompt_b, "positions": where.tolist(), "path": path, "seed_b": ends[1]}
    start = Start(towards=Towards(prompt_b, where, path), facts=facts)
    return generate(model, request, start, latents=latents, callback=callback, cancel=cancel)


class Plan(NamedTuple):
    """The request, the seeds at both ends, and the places of the pictures, (n,) in [0, 1]."""

    request: Request
    seeds: tuple[int, ...]
    where: np.ndarray


def planned(
    config: ModelConfig,
    prompt: str,
    prompt_b: str,
    positions: Any,
    path: str,
    seed: Any,
    **asked: Any,
) -> Plan:
    """Every argument of `interpolate` checked; weights are not needed.

    Raises:
        UsageError, ResourceError: as `interpolate`.
    """
    texts = prompt, prompt_b, asked.get("negative_prompt", "")
    if not all(isinstance(text, str) for text in texts):
        raise UsageError("interpolate takes single prompts, not lists", code="E-PROMPT")
    resolve(config, "interpolate", prompt_b, cfg_scale=asked.get("cfg_scale"))
    checks.choice("path", path, tuple(PATHS))
    where = checks.positions(positions)
    several = isinstance(seed, Sequence) and not isinstance(seed, str | bytes)
    ends = checks.seeds(seed, 2) if several else checks.seeds(seed, 1) * 2
    request = resolve(
        config, "interpolate", [prompt] * len(where), seed=[ends[0]] * len(where), **asked
    )
    entry = get_sampler(request.sampler)
    fresh = entry.stochastic if entry.eta is None else request.eta != 0.0
    if fresh:
        raise UsageError(
            f"interpolate needs a sampler without fresh noise, not {request.sampler!r}",
            code="E-SAMPLER",
            hint="use ddim or dpmpp_2m" if entry.eta is None else "use eta=0",
        )
    return Plan(request, ends, where)
