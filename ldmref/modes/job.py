"""A request as it is generated: every default is filled in, and each image has an entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.declare import get_fields
from ldmref.errors import short_repr
from ldmref.models.config import ModelConfig
from ldmref.modes.control import Control
from ldmref.modes.control_image import ControlImage
from ldmref.modes.guide import Guide
from ldmref.modes.references import Reference
from ldmref.modes.requests import FromPrompts, Request
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers import Guidance, Sampler, Schedule, make_schedule
from ldmref.samplers.path import PATHS
from ldmref.samplers.schedule import from_strength


@dataclass(frozen=True, kw_only=True, eq=False)
class Job(FromPrompts):
    """The parameters of txt2img as they were resolved, for any mode.

    Every mode is txt2img with another initial state, so all of them have these parameters. Fields
    that None left to the model have their values here, in narrower types; `field()` makes them
    required.

    Args:
        prompts, negative_prompts, seeds: An entry per image.
        schedule: None with `sigmas`.
        eta: None for a sampler without one.
        control_input: The control image, read and at the size of the images.
        reference_inputs: The reference images, read and at the sizes that the family wants.
        strength: Of img2img and inpaint.
        first_step: Steps of the schedule that are skipped; `skip_steps` counts them.
        resample: Of inpaint.
        embeddings: Hidden states and pooled outputs by parameter, with a row per image.
    """

    mode: str
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    cfg_scale: float = field()
    guidance: Guidance = field()
    guide: Guide | None = None
    sampler: Sampler = field()
    steps: int = field()
    width: int = field()
    height: int = field()
    clip_skip: int = field()
    control: tuple[Control, ...] = field()
    control_input: ControlImage | None = None
    reference_inputs: tuple[Reference, ...] = ()
    strength: float | None = None
    first_step: int = 0
    resample: tuple[int, int] | None = None
    embeddings: Mapping[str, np.ndarray] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def make_schedule(self, config: ModelConfig) -> Schedule:
        """Return the schedule of the run.

        Args:
            config: The configuration of the model.
        """
        path = None if self.noise_path is None else PATHS[self.noise_path]
        scheduler = config.scheduler
        tokens = config.count_tokens(self.width, self.height) if scheduler.dynamic_shift else 0
        schedule = make_schedule(
            scheduler, self.sampler, self.schedule, self.steps, self.sigmas, path, tokens
        )
        if self.strength is None or not takes_all_steps(config, self.strength, self.sigmas):
            return schedule
        return from_strength(schedule, self.strength)

    @property
    def prompt_options(self) -> PromptOptions:
        """The options of the tokenizer."""
        return PromptOptions(self.long_prompts, self.prompt_weights, self.strict_prompt)

    @property
    def summary(self) -> str:
        """One line: mode, prompt, number and size of images, steps and sampler."""
        n = len(self.seeds)
        images = "1 image" if n == 1 else f"{n} images"
        prompt = f" {short_repr(self.prompts[0])}," if self.prompts[0] else ""
        size = f"{self.width} x {self.height}"
        steps = f"{self.steps} steps of {self.sampler.name}"
        return f"{self.mode}:{prompt} {images} of {size}, {steps}, seed {self.seeds[0]}"

    def __repr__(self) -> str:
        return f"<Job of {self.summary}>"


def list_asked(request: object, group: type) -> list[str]:
    """Return the parameters of a group that a request asks for: those that are not None."""
    return [name for name in get_fields(group) if getattr(request, name) is not None]


def share_with_txt2img(request: Request, **decided: Any) -> FromPrompts:
    """Return the parameters that a request has in common with txt2img.

    Args:
        request: Of any mode; parameters that the mode does not have get their default.
        decided: Values that the mode decides itself, such as the size of the given image.
    """
    names = [name for name in get_fields(FromPrompts) if hasattr(request, name)]
    shared: dict[str, Any] = {"prompt": ""}
    shared |= {name: getattr(request, name) for name in names}
    return FromPrompts(**shared | decided)


def takes_all_steps(
    config: ModelConfig, strength: float, sigmas: Sequence[float] | None = None
) -> bool:
    """Return whether a run from an image takes all its steps, from the level of the strength on.

    So does a flow map, whose steps lead from any time to any other. Other models, and those with
    given levels, skip whole steps.
    """
    return config.denoiser.is_flow_map and strength > 0.0 and sigmas is None


def skip_steps(
    config: ModelConfig, steps: int, strength: float, sigmas: Sequence[float] | None = None
) -> int:
    """Return how many of n steps img2img skips, with the model's levels or with given ones.

    Models of eps, x0 and v keep floor(n strength) steps, models of flow matching skip
    floor(n - n strength): where n strength is not a whole number, the latter take one step more.
    A flow map skips none.

    Source: `get_timesteps` of diffusers' img2img pipelines for Stable Diffusion and for Flux;
    Stability-AI/sd3.5, sd3_infer.py, cuts its sigmas as the latter do.
    """
    if takes_all_steps(config, strength, sigmas):
        return 0
    if config.scheduler.prediction_type == "flow":
        return int(max(steps - steps * strength, 0))
    return steps - min(int(steps * strength), steps)
