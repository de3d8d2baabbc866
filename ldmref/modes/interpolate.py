"""Images between two prompts, and between two noises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from ldmref.errors import UsageError
from ldmref.math.interpolation import slerp
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import InterpolateParameters, Positions, SinglePrompt
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.start import Start
from ldmref.modes.text import Interpolation
from ldmref.modes.validation import seed_per_image
from ldmref.samplers.noise import Streams


def plan_interpolate(config: ModelConfig, values: dict[str, Any]) -> Plan:
    prompt = values["prompt"]
    prompt_b = values["prompt_b"]
    resolve(config, "interpolate", values | {"prompt": prompt_b, "seed": 0})
    positions = values["positions"]
    seed = values["seed"]
    ends = seed_per_image(seed, 2 if isinstance(seed, Sequence) else 1)
    prompts = {"prompt": [prompt] * len(positions)}
    seeds = {"seed": [ends[0]] * len(positions)}
    request = resolve(config, "interpolate", values | prompts | seeds)
    if request.sampler.draws_noise(request.eta):
        raise UsageError(
            f"interpolate needs a sampler without fresh noise, not {request.sampler.name!r}",
            code="E-SAMPLER",
            hint="use ddim or dpmpp_2m" if request.sampler.eta is None else "use eta=0",
        )

    def start(model: LatentDiffusion) -> Start:
        shape = model.latent_shape(request.width, request.height)
        noise = Streams((ends[0], ends[-1]), shape, request.rng)().astype(np.float64)
        a, b = (np.repeat(end[None], len(positions), axis=0) for end in noise)
        between = slerp(a, b, np.asarray(positions)).astype(np.float32)
        return Start(between, interpolation=Interpolation(prompt_b, positions, values["path"]))

    warnings = []
    if prompt == prompt_b and ends[0] == ends[-1]:
        warnings.append("nothing to interpolate: the same prompt and seed at both ends")
    return Plan(request, start, {"seed_b": ends[-1]}, tuple(warnings))


@mode(plan_interpolate)
def interpolate(
    model: LatentDiffusion,
    prompt: SinglePrompt,
    prompt_b: SinglePrompt,
    positions: Positions = 8,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[InterpolateParameters],
) -> Result:
    """Draw a row of images that turns from one prompt into another.

    The initial noise follows the great circle between the noises of two seeds, which keeps its
    length; the hidden states of the prompts follow `path`. The ends are txt2img's images. `seed`
    may be a pair, of the noise at 0 and at 1; one seed serves both. The sampler must not draw fresh
    noise.

    Raises:
        UsageError, ResourceError: an argument is wrong; nothing was computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    checked = plan(
        "interpolate",
        model,
        prompt=prompt,
        prompt_b=prompt_b,
        positions=positions,
        **parameters,
    )
    return checked.run(model, callback, cancel)
