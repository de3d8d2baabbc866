"""The dial of evaluations: one image by a flow map in few steps, and by its model in more.

A flow map takes 1, 2 or 4 evaluations of its network, and the model two for each guided step. All
images have the noise of one seed, so their latents can be compared with those of the converged
run (`ldmref.explore.converged`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ldmref.errors import UsageError
from ldmref.explore.format import CODE
from ldmref.explore.record import require_one
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.plan import plan
from ldmref.modes.run import Plan

BY_MAP = (1, 2, 4)  # evaluations, each a step
BY_MODEL = (6, 8, 10, 12, 16, 20, 24, 28, 32, 36, 40)
MODE = "txt2img"
# What a map reads of a request: guidance, sampler and schedule are its own.
SHARED = ("prompt", "prompt_weights", "seed", "width", "height", "rng", "latents", "clip_skip")
STEPPING = ("steps", "sigmas", "count")


@dataclass(frozen=True)
class DialStop:
    """A place of the dial.

    Args:
        evaluations: Evaluations of the network for the image.
        by_map: Whether the flow map generates it.
        plan: The checked request.
    """

    evaluations: int
    by_map: bool
    plan: Plan = field(repr=False)


def plan_dial(
    model: LatentDiffusion, flow_map: ModelConfig, parameters: Mapping[str, Any]
) -> list[DialStop]:
    """Return the places of the dial for a request, in the order of their evaluations.

    Args:
        model: The model.
        flow_map: The configuration of its flow map.
        parameters: Those of `txt2img`, of one image; its number of steps does not count.

    Raises:
        UsageError: A parameter is wrong, there are several images or two passes, or the model has
            no number of steps with so few evaluations.

    >>> import ldmref
    >>> from ldmref.explore.dial import plan_dial
    >>> tiny = ldmref.random_model("tiny")
    >>> stops = plan_dial(tiny, tiny.config, {"prompt": "a cat", "seed": 1, "cfg_scale": 1.0})
    >>> [stop.evaluations for stop in stops][:5]
    [1, 2, 4, 6, 8]
    """
    asked = {name: value for name, value in parameters.items() if name not in STEPPING}
    asked["seed"] = require_one(plan(MODE, model, **asked)).job.seeds[
        0
    ]  # a random one is chosen once
    shared = {name: value for name, value in asked.items() if name in SHARED}
    stops = [
        DialStop(count, True, require_one(plan(MODE, flow_map, **shared, steps=count)))
        for count in BY_MAP
    ]
    stops.extend(plan_model(model, asked))
    if len(stops) == len(BY_MAP):
        message = f"a run of this sampler and guidance takes more than {BY_MODEL[-1]} evaluations"
        raise UsageError(message, code=CODE, hint="choose a sampler of one evaluation per step")
    return stops


def plan_model(model: LatentDiffusion, asked: Mapping[str, Any]) -> Iterator[DialStop]:
    """Yield the places of the model: numbers of steps with about as many evaluations as named."""
    few, many = (count_evaluations(model, asked, steps) for steps in (4, 8))
    per_step = max(1, (many - few) / 4)
    last = BY_MAP[-1]
    for wanted in BY_MODEL:
        steps = round(wanted / per_step)
        if steps < 1:
            continue
        count = count_evaluations(model, asked, steps)
        if last < count <= BY_MODEL[-1]:
            last = count
            yield DialStop(count, False, require_one(plan(MODE, model, **asked, steps=steps)))


def count_evaluations(model: LatentDiffusion, asked: Mapping[str, Any], steps: int) -> int:
    """Return the evaluations of the network that a request takes in so many steps."""
    return require_one(plan(MODE, model, **asked, steps=steps)).estimate(model).evaluations
