"""Images between two prompts, and between two noises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from ldmref.errors import UsageError
from ldmref.math.interpolation import slerp
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.initial import InitialState
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Interpolate
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.modes.text import Interpolation
from ldmref.modes.validation import assign_seeds
from ldmref.samplers.noise import Streams


def plan_interpolate(config: ModelConfig, request: Interpolate) -> Plan:
    """Check a request; the initial noise is between the noises of two seeds."""
    positions = cast(Sequence[float], request.positions)  # a number was read as a list
    n = len(positions)
    resolve(config, "interpolate", request, prompt=request.prompt_b, seed=0)
    ends = assign_seeds(request.seed, 2 if isinstance(request.seed, Sequence) else 1)
    job = resolve(config, "interpolate", request, prompt=[request.prompt] * n, seed=[ends[0]] * n)
    if job.sampler.draws_noise(job.eta):
        raise UsageError(
            f"interpolate needs a sampler without fresh noise, not {job.sampler.name!r}",
            code="E-SAMPLER",
            hint="use ddim or dpmpp_2m" if job.sampler.eta is None else "use eta=0",
        )

    def start(model: LatentDiffusion) -> InitialState:
        shape = model.latent_shape(*job.size)
        noise = Streams((ends[0], ends[-1]), shape, job.rng)().astype(np.float64)
        a, b = (np.repeat(end[None], n, axis=0) for end in noise)
        between = slerp(a, b, np.asarray(positions)).astype(np.float32)
        interpolation = Interpolation(request.prompt_b, positions, request.path)
        return InitialState(between, interpolation=interpolation, prompts=[request.prompt_b])

    warnings = []
    if request.prompt == request.prompt_b and ends[0] == ends[-1]:
        warnings.append("nothing to interpolate: the same prompt and seed at both ends")
    return Plan(request, job, start, {"seed_b": ends[-1]}, tuple(warnings))


@dataclass(frozen=True, eq=False, repr=False)
class InterpolateArguments(Watched, Interpolate):
    """The arguments of `interpolate` after the model."""


@mode(plan_interpolate, InterpolateArguments)
def interpolate(model: LatentDiffusion, request: Interpolate, watched: Watched) -> Result:
    """Generate a row of images that turns from one prompt into another.

    The initial noise follows the great circle between the noises of two seeds, which keeps its
    length; the hidden states of the prompts follow `path`. The first and last image are txt2img's.
    `seed` may be a pair, for the noise at 0 and at 1; a single seed is used for both. The sampler
    must not add noise.

    Returns:
        A `Result`: the images (RGB), their latents (n, c, h, w) float32 and seeds, the resolved
        parameters, and warnings.

    Raises:
        UsageError, ResourceError: An argument is wrong; nothing was computed.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import ldmref
        >>> model = ldmref.random_model("tiny")
        >>> len(interpolate(model, "a cat", "a dog", 3, sampler="ddim", steps=2, seed=7))
        3
    """
    return plan_interpolate(model.config, request).run(model, watched.callback, watched.cancel)
