"""From a request to a job: defaults of the model are filled in, and all values are checked.

This needs the model's configuration but not its weights, so all mistakes are found before anything
is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldmref.errors import ResourceError, UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.family import with_text_length
from ldmref.models.text_kind import kind_of
from ldmref.modes import validation
from ldmref.modes.checks import (
    ASKED,
    COMMON_MODES,
    check_chunks,
    check_classes,
    check_flow_map,
    check_mode,
    check_sigmas,
)
from ldmref.modes.control import fit_control
from ldmref.modes.control_image import read_control_image
from ldmref.modes.embeddings import resolve_embeddings
from ldmref.modes.guidance_parameter import choose_guidance
from ldmref.modes.guide import fit_guide
from ldmref.modes.job import Job, list_asked, share_with_txt2img, skip_steps
from ldmref.modes.prompt_parameters import EmbeddingParameters
from ldmref.modes.references import read_references
from ldmref.modes.requests import Request
from ldmref.modes.sizing import MAX_AREA
from ldmref.modes.validation import MAX_SIDE
from ldmref.samplers import SPACINGS, Sampler, Spacing, get_sampler, get_spacing
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.schedule import default_spacing, sampling_sigmas
from ldmref.samplers.spacings import check_steps


def resolve(
    config: ModelConfig,
    mode: str,
    request: Request,
    *,
    strength: float | None = None,
    resample: tuple[int, int] | None = None,
    **decided: object,
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
    if asked.max_sequence_length is not None:
        config = with_text_length(config, asked.max_sequence_length)
    embeddings = None
    if asked.prompt is None or list_asked(asked, EmbeddingParameters):
        asked, embeddings = resolve_embeddings(config, asked)
    prompts, negative_prompts = validation.assign_prompts(
        asked.prompt, asked.negative_prompt, asked.count
    )
    seeds = validation.assign_seeds(asked.seed, len(prompts))
    sampler, schedule = choose_sampler(asked.sampler, asked.schedule, config.scheduler)
    steps = asked.steps or defaults.steps
    if asked.sigmas is not None:
        steps = count_steps(asked.sigmas, asked.steps, asked.schedule)
        schedule = None
    guidance = choose_guidance(config, asked.guidance, sampler)
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
        "clip_skip": asked.clip_skip or 0,
        "control": tuple(fit_control(config, control, mode) for control in asked.control),
        "strength": strength,
        "first_step": 0 if strength is None else skip_steps(config, steps, strength, asked.sigmas),
        "resample": resample,
        "embeddings": embeddings,
    }
    job = Job(**vars(asked) | resolved)
    check_job(config, job)
    if asked.control_image is not None or config.concat == "control":
        image = read_control_image(config, asked.control_image, job.size)
        job = replace(job, control_input=image)
    if asked.references:
        job = replace(job, reference_inputs=read_references(config, asked.references))
    return job


def check_job(config: ModelConfig, job: Job) -> None:
    """Refuse what the model cannot generate; what a job does not have is not checked."""
    if job.mode not in COMMON_MODES or config.concat:
        check_mode(config, job.mode)
    check_prompts(config, job)
    if config.denoiser.is_flow_map:
        check_flow_map(config, job)
    if job.guide is not None or job.guidance.by_guide:
        check_guide(config, job)
    check_schedule(config, job)
    check_size(config, job)
    for name, check in ASKED.items():
        if getattr(job, name) is not None:
            check(config, job)


def check_prompts(config: ModelConfig, job: Job) -> None:
    """Refuse prompts that a model cannot follow."""
    if job.clip_skip:
        validation.check_integer("clip_skip", job.clip_skip, 0, config.max_clip_skip)
    if job.long_prompts == "chunk":
        check_chunks(config)
    if kind_of(config.text_encoder).reads != "text":
        check_classes(config, job)


def check_guide(config: ModelConfig, job: Job) -> None:
    """Refuse a guide that does not fit, and prompts and ControlNets that it cannot follow."""
    fit_guide(config, job.guide, job.guidance, job.embeddings is not None)
    assert job.guide is not None
    check_prompts(job.guide.config, job)
    for control in job.control:
        fit_control(job.guide.config, control, job.mode)


def count_steps(sigmas: Sequence[float], steps: int | None, schedule: str | Spacing | None) -> int:
    """Return the number of steps of given sigmas; refuse another number, or a schedule."""
    n = len(sigmas) - 1
    if schedule is not None or steps not in (None, n):
        other = f"schedule {str(schedule)!r}" if schedule is not None else f"{steps} steps"
        raise UsageError(
            f"sigmas of {n} steps and {other} exclude each other",
            code="E-SIGMAS",
            hint="give either sigmas, or steps and schedule",
        )
    return n


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
    is_built_in = isinstance(schedule, str) and schedule in SPACINGS
    spacing = schedule if is_built_in else get_spacing(schedule)
    if named and named != spacing:
        message = f"the sampler's name says schedule {named!r}, and schedule is {str(spacing)!r}"
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


def check_schedule(config: ModelConfig, job: Job) -> None:
    """Refuse a number of steps that the schedule does not have, or sigmas that the model lacks."""
    if job.sigmas is not None:
        check_sigmas(config, job)
        return
    check_steps(job.steps, min(validation.MAX_STEPS, len(sampling_sigmas(config.scheduler))))
    sigmas = job.make_schedule(config).sigmas[:-1]
    if len(sigmas) != job.steps or (np.diff(sigmas) >= 0).any():
        raise UsageError(
            f"{job.steps} steps of schedule {str(job.schedule)!r} repeat a noise level",
            code="E-STEPS",
            hint="take another number of steps, or another schedule",
        )


def check_size(config: ModelConfig, job: Job) -> None:
    """Refuse sizes that the networks cannot take."""
    defaults = config.defaults
    most = min(config.max_side or MAX_SIDE, MAX_SIDE)
    for name in ("width", "height"):
        side = getattr(job, name)
        if side % config.size_multiple or side > most:
            raise validation.wrong_side(name, side, config.size_multiple, config.max_side)
    if job.width * job.height > MAX_AREA * defaults.width * defaults.height:
        raise ResourceError(
            f"{job.width} x {job.height} is more than {MAX_AREA} times the area on which "
            "the model was trained",
            code="E-SIZE-LIMIT",
            hint=f"it was trained at {defaults.width} x {defaults.height}",
        )
