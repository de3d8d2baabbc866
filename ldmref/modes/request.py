"""What an image is asked for, every default filled in.

A `Request` needs the model's configuration but not its weights, so that all mistakes are found
before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ldmref.errors import ResourceError, UsageError, short_repr
from ldmref.models.config import ModelConfig
from ldmref.modes import validation
from ldmref.modes.control import Control, fit_control
from ldmref.modes.declaration import keys_of
from ldmref.modes.embeddings import NAMES, resolve_embeddings
from ldmref.modes.guidance import PLAIN, check_embeddings
from ldmref.modes.parameters import Txt2ImgParameters
from ldmref.modes.sizing import MAX_AREA
from ldmref.modes.validation import MAX_SIDE
from ldmref.prompts.class_labels import check_prompt
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers import SPACINGS, Guidance, Sampler, get_sampler, make_schedule
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.schedule import (
    check_name,
    check_steps,
    default_spacing,
    sampling_sigmas,
    spacing_name,
)

DEFAULTS = {name: parameter.default for name, parameter in keys_of(Txt2ImgParameters).items()}
MODE_OF = {"low_resolution": "superres", "segmentation": "seg2img"}  # by `ModelConfig.concat`
MIN_TILE = 4  # latent cells
SLACK = 0.01  # by which other programs' largest sigma may differ from ours


@dataclass(frozen=True)
class Request:
    """A fully resolved request.

    `prompts`, `negative_prompts` and `seeds` have an entry per image; `values` holds every value
    by the name of its parameter.
    """

    mode: str
    values: Mapping[str, Any]
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    options: PromptOptions
    clip_skip: int
    cfg_scale: float
    guidance: Guidance
    sampler: Sampler
    schedule: str | None  # None with sigmas
    steps: int
    eta: float | None
    rng: str
    width: int
    height: int
    batch_size: int
    control: tuple[Control, ...] = ()
    latents: np.ndarray | None = None
    tile: int | None = None
    strength: float | None = None
    resample: tuple[int, int] | None = None
    sigmas: tuple[float, ...] | None = None
    embeddings: Mapping[str, np.ndarray] | None = None  # in place of prompts, by parameter

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
        return f"<Request of {self.summary}>"

    @property
    def first_step(self) -> int:
        """Steps of the schedule that are skipped: n - min(int(n strength), n), as in diffusers."""
        if self.strength is None:
            return 0
        return self.steps - min(int(self.steps * self.strength), self.steps)


def resolve(config: ModelConfig, mode: str, values: Mapping[str, Any]) -> Request:
    """The request of a mode: the model's defaults filled in, and what depends on it checked.

    Args:
        values: validated one by one (`Parameter.validated`), by name; None for the default.

    Raises:
        UsageError: says what was wrong, what is allowed and what to do.
        ResourceError: the image is larger than the model can sensibly draw.
    """
    defaults = config.defaults
    v: dict[str, Any] = DEFAULTS | {"prompt": ""} | dict(values)
    if v["prompt"] is None or any(v[name] is not None for name in NAMES):
        v |= resolve_embeddings(config, v)
    v["prompts"], v["negative_prompts"] = per_image(v["prompt"], v["negative_prompt"], v["count"])
    v["seeds"] = validation.seed_per_image(v["seed"], len(v["prompts"]))
    v["options"] = PromptOptions(v["long_prompts"], v["prompt_weights"], v["strict_prompt"])
    sampler = v["sampler"]
    spacing = v["schedule"]
    v["sampler"], v["schedule"] = sampler_and_schedule(
        config.scheduler.sampler if sampler is None else sampler, spacing, config.scheduler
    )
    if v["sigmas"] is not None:
        v["steps"] = explicit_steps(v["sigmas"], v["steps"], spacing)
        v["schedule"] = None
    v["steps"] = v["steps"] or defaults.steps
    v["width"], v["height"] = v["width"] or defaults.width, v["height"] or defaults.height
    if v["cfg_scale"] is None:
        usual = (mode == "inpaint" and defaults.inpaint_cfg_scale) or defaults.cfg_scale
        v["cfg_scale"] = float(usual)
    v["guidance"] = PLAIN if v["guidance"] is None else v["guidance"]
    if v["eta"] is None:
        v["eta"] = v["sampler"].eta
    v["control"] = tuple(fit_control(config, control) for control in v["control"])
    names = [field.name for field in fields(Request) if field.name in v]
    request = Request(mode=mode, values=v, **{name: v[name] for name in names})
    check_mode(config, mode)
    check_text(config, request)
    check_embeddings(config, request.guidance, request.cfg_scale, request.embeddings)
    check_sampling(config, request)
    check_size(config, request)
    return request


def explicit_steps(sigmas: Sequence[float], steps: int | None, schedule: str | None) -> int:
    """The number of steps that given sigmas make; refuses others beside them."""
    n = len(sigmas) - 1
    if schedule is not None or steps not in (None, n):
        other = f"schedule {schedule!r}" if schedule is not None else f"{steps} steps"
        raise UsageError(
            f"sigmas of {n} steps and {other} exclude each other",
            code="E-SIGMAS",
            hint="give either sigmas, or steps and schedule",
        )
    return n


def per_image(
    prompt: Sequence[str], negative_prompt: Sequence[str], count: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts and negative prompts, one of each per image."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    negatives = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt
    if len(negatives) not in (1, len(prompts)):
        raise UsageError(
            f"{len(negatives)} negative prompts for {len(prompts)} prompts",
            code="E-PROMPT",
            hint="give one, or as many as prompts",
        )
    validation.images(len(prompts), count)
    if len(negatives) == 1:
        negatives = [negatives[0]] * len(prompts)
    pairs = zip(prompts, negatives, strict=True)
    prompts, negatives = zip(*(pair for pair in pairs for _ in range(count)), strict=True)
    return prompts, negatives


def sampler_and_schedule(
    sampler: str | Sampler, schedule: str | None, scheduler: SchedulerConfig
) -> tuple[Sampler, str]:
    """A sampler and the name of its spacing; "DPM++ 2M Karras" names both at once."""
    if not isinstance(sampler, str | Sampler) or not isinstance(schedule, str | None):
        raise UsageError("sampler and schedule must be names", code="E-SAMPLER")
    named = named_schedule(sampler)
    if isinstance(sampler, str):
        sampler = get_sampler(sampler.strip()[: -len(named) or None].strip())
    spacing = spacing_name(schedule or named or default_spacing(scheduler, sampler))
    check_name("schedule", spacing, SPACINGS)
    if named and named != spacing:
        message = f"the sampler's name says schedule {named!r}, and schedule is {spacing!r}"
        raise UsageError(message, code="E-SCHEDULE", hint=f"sampler {sampler.name!r} takes any")
    return sampler, spacing


def named_schedule(sampler: object) -> str:
    """The spacing at the end of a sampler's name, as A1111 writes it, in lower case; else "".

    >>> named_schedule("DPM++ 2M Karras"), named_schedule("euler")
    ('karras', '')
    """
    if not isinstance(sampler, str):
        return ""
    name, _, spacing = sampler.strip().rpartition(" ")
    return spacing.lower() if name and spacing.lower() in SPACINGS else ""


def check_mode(config: ModelConfig, mode: str) -> None:
    """Refuse a mode that needs another model."""
    needed = MODE_OF.get(config.concat)
    if mode in MODE_OF.values() and mode != needed:
        kind = next(concat for concat, its_mode in MODE_OF.items() if its_mode == mode)
        raise UsageError(
            f"{mode} needs a model with concat {kind!r}, which {config.name!r} is not",
            code="E-MODE",
            hint=f"use {needed}" if needed else "use txt2img, img2img or inpaint",
        )
    if needed and mode != needed:
        raise UsageError(
            f"{config.name!r} draws only from a given image",
            code="E-MODE",
            hint=f"use {needed}",
        )


def check_text(config: ModelConfig, request: Request) -> None:
    """Refuse prompts that the model cannot follow."""
    text = config.text_encoder
    validation.integer("clip_skip", request.clip_skip, 0, config.max_clip_skip)
    if request.options.long_prompts == "chunk" and config.unet.class_embed_type:
        raise UsageError(
            f"{config.name!r} reads one chunk only: its last token stands for the whole prompt",
            code="E-LONG-PROMPTS",
            hint="use long_prompts=truncate",
        )
    if text.model_type in ("class", "none"):
        for prompt in dict.fromkeys(request.prompts + request.negative_prompts):
            classes = text.vocab_size if text.model_type == "class" else 0
            check_prompt(prompt, classes, text.class_names)
    if text.model_type == "none" and request.cfg_scale != 1.0:
        raise UsageError(
            f"{config.name!r} takes no prompt, so there is nothing to guide",
            code="E-CFG-SCALE",
            hint="leave cfg_scale out, or give 1",
        )


def check_sampling(config: ModelConfig, request: Request) -> None:
    """Refuse numbers that do not fit the sampler or its schedule."""
    steps = request.steps
    sampler = request.sampler
    table = sampling_sigmas(config.scheduler)
    if request.sigmas is None:
        check_steps(steps, min(validation.MAX_STEPS, len(table)))
        sigmas = make_schedule(config.scheduler, sampler, request.schedule, steps).sigmas[:-1]
        if len(sigmas) != steps or (np.diff(sigmas) >= 0).any():
            raise UsageError(
                f"{steps} steps of schedule {request.schedule!r} repeat a noise level",
                code="E-STEPS",
                hint="take another number of steps, or another schedule",
            )
    elif request.sigmas[0] > table[-1] * (1.0 + SLACK):
        raise UsageError(
            f"sigmas begin at {request.sigmas[0]:g}, the model knows noise up to {table[-1]:g}",
            code="E-SIGMAS",
        )
    if request.eta is not None and sampler.eta is None:
        raise UsageError(
            f"sampler {sampler.name!r} has no eta", code="E-ETA", hint="use ddim or euler_a"
        )
    if request.strength and request.first_step == steps:
        raise UsageError(
            f"strength {request.strength} of {steps} steps is less than one step",
            code="E-STRENGTH",
            hint=f"give at least {math.ceil(1000 / steps) / 1000} (or 0), or more steps",
        )
    if request.resample is not None:
        validation.integer("resample jump length", request.resample[0], 1, steps)


def check_size(config: ModelConfig, request: Request) -> None:
    """Refuse sizes that the networks cannot take, and noise of another size."""
    defaults = config.defaults
    f = config.vae.factor
    for name in ("width", "height"):
        validation.multiple_of(name, getattr(request, name), config.size_multiple)
    if request.tile is not None:
        validation.integer("tile", request.tile, MIN_TILE * f, MAX_SIDE)
        if request.tile % f:
            raise UsageError(
                f"tile must be a multiple of {f}, not {request.tile}",
                code="E-TILE",
                hint=f"use {request.tile // f * f}",
            )
    if request.width * request.height > MAX_AREA * defaults.width * defaults.height:
        raise ResourceError(
            f"{request.width} x {request.height} is more than {MAX_AREA} times the area that this "
            f"model draws",
            code="E-SIZE-LIMIT",
            hint=f"the model was trained at {defaults.width} x {defaults.height}",
        )
    shape = (
        len(request.seeds),
        config.vae.latent_channels,
        request.height // f,
        request.width // f,
    )
    if request.latents is not None and request.latents.shape != shape:
        raise UsageError(
            f"latents have shape {request.latents.shape}, this request needs {shape}",
            code="E-LATENTS",
            hint="one array for all images: (count, channels, height, width) of the latents",
        )
