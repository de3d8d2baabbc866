"""From a request to a job: defaults of the model are filled in, and all values are checked.

This needs the model's configuration but not its weights, so all mistakes are found before anything
is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.errors import ResourceError, UsageError
from ldmref.models.config import BUILT_IN_TOKENIZERS, ModelConfig
from ldmref.modes import validation
from ldmref.modes.control import fit_control
from ldmref.modes.control_image import read_control_image
from ldmref.modes.embeddings import has_embeddings, resolve_embeddings
from ldmref.modes.guidance_parameter import check_embeddings, choose_guidance
from ldmref.modes.guide import fit_guide
from ldmref.modes.job import Job, share_with_txt2img, skip_steps
from ldmref.modes.mode_checks import check_mode
from ldmref.modes.requests import Request
from ldmref.modes.sizing import MAX_AREA
from ldmref.modes.validation import MAX_SIDE
from ldmref.prompts.class_labels import check_prompt
from ldmref.samplers import SPACINGS, Sampler, Spacing, get_sampler, get_spacing
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.own_spacing import SLACK, name_of
from ldmref.samplers.path import PATHS, VE
from ldmref.samplers.schedule import default_spacing, sampling_sigmas
from ldmref.samplers.spacings import check_steps

MIN_TILE = 4  # latent cells


def resolve(
    config: ModelConfig,
    mode: str,
    request: Request,
    *,
    strength: float | None = None,
    resample: tuple[int, int] | None = None,
    **decided: Any,
) -> Job:
    """Return the job of a request: the model's defaults filled in, and all values checked.

    Args:
        config: The model's configuration.
        mode: The name of the mode.
        request: From `read_request`.
        strength: How much of the given image changes; None for a mode without one.
        resample: RePaint's jumps.
        decided: Parameters that the mode decides itself, such as the size of the given image.

    Raises:
        UsageError: A value is wrong; the message says what is allowed and what to do.
        ResourceError: The image is larger than the model can sensibly generate.
    """
    defaults = config.defaults
    asked = share_with_txt2img(request, **decided)
    embeddings = None
    if asked.prompt is None or has_embeddings(asked):
        asked, embeddings = resolve_embeddings(config, asked)
    prompts, negative_prompts = assign_prompts(asked.prompt, asked.negative_prompt, asked.count)
    seeds = validation.assign_seeds(asked.seed, len(prompts))
    sampler, schedule = choose_sampler(asked.sampler, asked.schedule, config.scheduler)
    steps = asked.steps or defaults.steps
    if asked.sigmas is not None:
        steps = count_steps(asked.sigmas, asked.steps, asked.schedule)
        schedule = None
    guidance = choose_guidance(config, asked.guidance, negative_prompts, embeddings, sampler)
    guide = fit_guide(config, asked.guide, guidance, embeddings is not None)
    cfg_scale = guidance.usual_scale if asked.cfg_scale is None else asked.cfg_scale
    if cfg_scale is None:
        usual = (mode == "inpaint" and defaults.inpaint_cfg_scale) or defaults.cfg_scale
        cfg_scale = float(usual)
    resolved = {
        "mode": mode,
        "prompts": prompts,
        "negative_prompts": negative_prompts,
        "seeds": seeds,
        "cfg_scale": cfg_scale,
        "sampler": sampler,
        "schedule": schedule,
        "steps": steps,
        "eta": sampler.eta if asked.eta is None else asked.eta,
        "width": asked.width or defaults.width,
        "height": asked.height or defaults.height,
        "guidance": guidance,
        "weaker": guide,
        "clip_skip": asked.clip_skip or 0,
        "control": tuple(fit_control(config, control) for control in asked.control),
        "control_input": None,
        "strength": strength,
        "first_step": skip_steps(config, steps, strength),
        "resample": resample,
        "embeddings": embeddings,
    }
    job = Job(**vars(asked) | resolved)
    check_mode(config, mode)
    check_text(config, job)
    if guide is not None:
        check_text(guide.config, job)
        for control in job.control:
            fit_control(guide.config, control)
    check_embeddings(config, job.guidance, job.cfg_scale, job.embeddings)
    check_sampling(config, job)
    check_size(config, job)
    control_input = read_control_image(config, asked.control_image, job.size)
    return replace(job, control_input=control_input)


def count_steps(sigmas: Sequence[float], steps: int | None, schedule: str | Spacing | None) -> int:
    """Return the number of steps of given sigmas; refuse another number, or a schedule."""
    n = len(sigmas) - 1
    if schedule is not None or steps not in (None, n):
        other = f"schedule {name_of(schedule)!r}" if schedule is not None else f"{steps} steps"
        raise UsageError(
            f"sigmas of {n} steps and {other} exclude each other",
            code="E-SIGMAS",
            hint="give either sigmas, or steps and schedule",
        )
    return n


def assign_prompts(
    prompt: str | Sequence[str] | None, negative_prompt: str | Sequence[str] | None, count: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return prompts and negative prompts, one of each per image."""
    prompts = [prompt] if isinstance(prompt, str) else prompt or [""]
    negatives = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or [""]
    if len(negatives) not in (1, len(prompts)):
        raise UsageError(
            f"{len(negatives)} negative prompts for {len(prompts)} prompts",
            code="E-PROMPT",
            hint="give one, or as many as prompts",
        )
    validation.check_image_count(len(prompts), count)
    if len(negatives) == 1:
        negatives = [negatives[0]] * len(prompts)
    pairs = zip(prompts, negatives, strict=True)
    prompts, negatives = zip(*(pair for pair in pairs for _ in range(count)), strict=True)
    return prompts, negatives


def choose_sampler(
    sampler: str | Sampler | None, schedule: str | Spacing | None, scheduler: SchedulerConfig
) -> tuple[Sampler, str | Spacing]:
    """Return a sampler and its spacing; "DPM++ 2M Karras" names both at once.

    Args:
        sampler: A sampler or its name; None for the model's.
        schedule: A spacing, its function or its name; None for the sampler's or the model's.
        scheduler: The model's configuration.
    """
    sampler = scheduler.sampler if sampler is None else sampler
    if not isinstance(sampler, str | Sampler):
        error = UsageError("sampler must be a name or a Sampler", code="E-SAMPLER")
        error.parameter = "sampler"
        raise error
    named = find_schedule(sampler)
    if isinstance(sampler, str):
        sampler = get_sampler(sampler.strip()[: -len(named) or None].strip())
    if schedule is None:
        schedule = named or default_spacing(scheduler, sampler)
    spacing = get_spacing(schedule)
    if named and named != spacing:
        message = (
            f"the sampler's name says schedule {named!r}, and schedule is {name_of(spacing)!r}"
        )
        raise UsageError(message, code="E-SCHEDULE", hint=f"sampler {sampler.name!r} takes any")
    return sampler, spacing


def find_schedule(sampler: object) -> str:
    """Return the spacing at the end of a sampler's name, as A1111 writes it, or "".

    >>> find_schedule("DPM++ 2M Karras"), find_schedule("euler")
    ('karras', '')
    """
    if not isinstance(sampler, str):
        return ""
    name, _, spacing = sampler.strip().rpartition(" ")
    return spacing.lower() if name and spacing.lower() in SPACINGS else ""


def check_text(config: ModelConfig, job: Job) -> None:
    """Refuse prompts that the model cannot follow."""
    text = config.text_encoder
    validation.check_integer("clip_skip", job.clip_skip, 0, config.max_clip_skip)
    if job.long_prompts == "chunk" and getattr(config.denoiser, "class_embed_type", ""):
        raise UsageError(
            f"{config.name!r} reads one chunk only: its last token represents the whole prompt",
            code="E-LONG-PROMPTS",
            hint="use long_prompts=truncate",
        )
    if text.model_type in BUILT_IN_TOKENIZERS:
        for prompt in dict.fromkeys(job.prompts + job.negative_prompts):
            classes = 0 if text.model_type == "none" else text.vocab_size
            check_prompt(prompt, classes, text.class_names)
    if text.model_type == "none" and job.cfg_scale != 1.0:
        raise UsageError(
            f"{config.name!r} takes no prompt, so there is nothing to guide",
            code="E-CFG-SCALE",
            hint="leave cfg_scale out, or give 1",
        )


def check_sampling(config: ModelConfig, job: Job) -> None:
    """Refuse numbers that do not fit the sampler or its schedule."""
    steps = job.steps
    sampler = job.sampler
    table = sampling_sigmas(config.scheduler)
    path = config.scheduler.path if job.noise_path is None else PATHS[job.noise_path]
    highest = path.level(float(table[-1]))
    if job.sigmas is None:
        check_steps(steps, min(validation.MAX_STEPS, len(table)))
        sigmas = job.make_schedule(config).sigmas[:-1]
        if len(sigmas) != steps or (np.diff(sigmas) >= 0).any():
            raise UsageError(
                f"{steps} steps of schedule {name_of(job.schedule)!r} repeat a noise level",
                code="E-STEPS",
                hint="take another number of steps, or another schedule",
            )
    elif job.sigmas[0] > highest * (1.0 + SLACK):
        levels = "14.6, 7.1, 2.3, 0" if path is VE else "0.94, 0.88, 0.7, 0"
        raise UsageError(
            f"sigmas begin at {job.sigmas[0]:g}, the model knows noise up to {highest:g}",
            code="E-SIGMAS",
            hint=f"sigmas are noise levels, such as {levels}, not timesteps",
        )
    else:
        job.make_schedule(config)
    if job.eta is not None and sampler.eta is None:
        raise UsageError(
            f"sampler {sampler.name!r} has no eta", code="E-ETA", hint="use ddim or euler_a"
        )
    if job.strength and job.first_step == steps:
        raise UsageError(
            f"strength {job.strength} of {steps} steps is less than one step",
            code="E-STRENGTH",
            hint=f"give at least {math.ceil(1000 / steps) / 1000} (or 0), or more steps",
        )
    if job.resample is not None:
        validation.check_integer("resample jump length", job.resample[0], 1, steps)


def check_size(config: ModelConfig, job: Job) -> None:
    """Refuse sizes that the networks cannot take, and noise of another size."""
    defaults = config.defaults
    f = config.vae.factor
    for name in ("width", "height"):
        validation.check_multiple(name, getattr(job, name), config.size_multiple, config.max_side)
    if job.tile is not None:
        validation.check_integer("tile", job.tile, MIN_TILE * f, MAX_SIDE)
        if job.tile % f:
            raise UsageError(
                f"tile must be a multiple of {f}, not {job.tile}",
                code="E-TILE",
                hint=f"use {job.tile // f * f}",
            )
    if job.width * job.height > MAX_AREA * defaults.width * defaults.height:
        raise ResourceError(
            f"{job.width} x {job.height} is more than {MAX_AREA} times the area on which "
            "the model was trained",
            code="E-SIZE-LIMIT",
            hint=f"it was trained at {defaults.width} x {defaults.height}",
        )
    shape = (
        len(job.seeds),
        config.vae.latent_channels,
        job.height // f,
        job.width // f,
    )
    if job.latents is not None and job.latents.shape != shape:
        raise UsageError(
            f"latents have shape {job.latents.shape}, this request needs {shape}",
            code="E-LATENTS",
            hint="one array for all images: (count, channels, height, width) of the latents",
        )
