"""Warnings about requests that are allowed but unusual, or of which a part changes nothing.

A parameter acts, is refused, or is named in a warning; tests/modes/test_every_option.py goes over
all that are declared. What no model of a kind can use is refused where it is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldmref.backends.base import Backend
from ldmref.declare import get_fields
from ldmref.errors import short_repr
from ldmref.io.prompt_notes import prompt_notes
from ldmref.models.config import ModelConfig
from ldmref.models.text_kind import kind_of
from ldmref.modes.edit import choose_published
from ldmref.modes.guidance_parameter import find_unperturbed, is_asked, texts_read
from ldmref.modes.job import Job, takes_all_steps
from ldmref.modes.levels import begins_low, first_ratio
from ldmref.modes.requests import Request
from ldmref.modes.run import Run
from ldmref.samplers import repaint_visits
from ldmref.samplers.guidance_attention import NormalizedAttention
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import sampling_sigmas

USUAL_CFG_SCALE = 50.0
USUAL_CFGPP_SCALE = 2.0
SHARE = 0.2  # of the data in a state, from which pure noise is no such state
ROUNDED = 0.05 + 1e-9  # of a strength: half a step of 10, or a whole one of 20


def list_warnings(run: Run) -> list[str]:
    """Return a line for each part of a run's request that changes nothing, or is unusual.

    Args:
        run: The prepared run.

    Returns:
        The lines, without those about the model's files, the inputs and the prompts.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", cfg_scale=0)
    >>> list_warnings(plan.prepare(model))
    ['cfg_scale 0 draws the empty (negative) prompt; 1 means without guidance']
    """
    model, plan = run.model, run.plan
    unused = note_ineffective(model.config, run.job, plan.request, plan.passes[-1])
    return [*unused, *advise(model.config, run.job, model.backend, run.initial.scales)]


# -- what is unusual -------------------------------------------------------------------------------


def advise(config: ModelConfig, job: Job, ops: Backend, scales: Sequence[float] = ()) -> list[str]:
    """Return a line for each number or prompt for which the model is not suited, or slow.

    Args:
        config: The configuration of the model.
        job: The resolved parameters.
        ops: The backend.
        scales: Guidance scales that the run uses besides that of the job.
    """
    lines = []
    is_cfgpp = job.sampler.unconditional and not job.sampler.own_guidance
    if abs(job.cfg_scale) > USUAL_CFG_SCALE:
        lines.append(f"cfg_scale {job.cfg_scale:g} is far from the usual range of 1 to 20")
    elif is_cfgpp and abs(job.cfg_scale) > USUAL_CFGPP_SCALE:
        lines.append(
            f"cfg_scale {job.cfg_scale:g} is far from the usual range of 0 to 1 of CFG++ "
            f"({job.sampler.name})"
        )
    if job.cfg_scale == 0.0:
        lines.append(undrawn_prompt(config, job))
    if any(job.negative_prompts) or "negative_prompt_embeds" in (job.embeddings or {}):
        lines.append(unread_negative(config, job, scales))
    if job.sigmas is not None:
        lines.append(low_levels(config, job))
    if job.strength:
        lines.append(rounded_strength(config, job))
    if job.strength == 0.0:
        lines.append("strength 0 returns the image: nothing is generated")
    elif not config.defaults.is_near(*job.size):
        trained = f"{config.defaults.width} x {config.defaults.height}"
        size = f"{job.width} x {job.height}"
        lines.append(f"{size} is far from the {trained} on which the model was trained")
    if ops.name == "numpy" and ops.dtype == "float16":
        lines.append("float16 on NumPy is slower than float32, and less accurate")
    notes = None if job.embeddings else prompt_notes(config)
    if notes is not None:
        lines += [notes.compositions.unseen(prompt) for prompt in dict.fromkeys(job.prompts)]
    return [line for line in lines if line]


def undrawn_prompt(config: ModelConfig, job: Job) -> str:
    """Return a line about the guidance scale 0, at which nothing is left of the prompt, or ""."""
    guides = job.sampler.unconditional or config.denoiser.reads_guidance  # 0 is usual for CFG++
    without = {"uncond", "empty"} & {*job.guidance.texts(0.0)}
    reads = kind_of(config.text_encoder).reads
    if guides or not without or reads == "nothing":
        return ""
    what = "the negative prompt" if any(job.negative_prompts) else "the empty (negative) prompt"
    return f"cfg_scale 0 draws {what}; 1 means without guidance"


def unread_negative(config: ModelConfig, job: Job, scales: Sequence[float]) -> str:
    """Return a line about a negative prompt if nothing reads it, and what would; otherwise ""."""
    if "uncond" in texts_read(job.guidance, job.sampler, job.cfg_scale, *scales):
        return ""
    nag = job.guidance.name != NormalizedAttention.name and not any(
        find_unperturbed(config, NormalizedAttention())
    )
    ways = ["take guidance nag"] if nag else []
    if config.denoiser.reads_guidance:
        reason = f"{config.name!r} reads the guidance scale itself"
    elif "uncond" in texts_read(job.guidance, job.sampler, USUAL_CFG_SCALE):
        reason = f"cfg_scale is {job.cfg_scale:g}"
        ways.insert(0, "give a cfg_scale above 1")
    else:
        reason = f"guidance {job.guidance.name!r} does not use it"
    then = f"; {' or '.join(ways)} for it to count" if ways else ""
    return f"nothing reads the negative prompt, because {reason}{then}"


def low_levels(config: ModelConfig, job: Job) -> str:
    """Return a line if given levels begin so low that the image, or its lack, shows, or ""."""
    assert job.sigmas is not None
    if job.first_step or not begins_low(config, job):
        return ""
    own = config.scheduler.path
    largest = own.level(float(sampling_sigmas(config.scheduler)[-1]))
    first = own.level(first_ratio(config, job))
    begin = f"sigmas begin at {job.sigmas[0]:g}, far below the model's {largest:.4g}"
    if own.alpha(first) / own.spread(first) <= SHARE:
        return ""
    if job.strength is not None:
        return f"{begin}: the image shows through, also at strength {job.strength:g}"
    if job.latents is not None:
        return ""
    other = ", or take img2img" if job.mode == "txt2img" else ""
    return f"{begin}, where pure noise has no image to uncover: begin higher{other}"


def rounded_strength(config: ModelConfig, job: Job) -> str:
    """Return a line if whole steps are far from the strength that was asked for, or ""."""
    assert job.strength is not None
    taken = job.steps - job.first_step
    share = taken / job.steps
    exact = takes_all_steps(config, job.strength, job.sigmas)
    if exact or abs(share - job.strength) <= ROUNDED:
        return ""
    return (
        f"strength {job.strength:g} of {job.steps} steps is rounded to {taken}, as strength "
        f"{share:.3g} is; with more steps it is nearer"
    )


# -- what changes nothing --------------------------------------------------------------------------

Reason = Callable[[ModelConfig, Job, Any], str]


def note_ineffective(
    config: ModelConfig, job: Job, request: Request, last: Job | None = None
) -> Iterator[str]:
    """Yield a line for each parameter that was asked for and changes nothing.

    Args:
        config: The configuration of the model.
        job: The resolved parameters.
        request: The request, with the parameters that only its mode has.
        last: The job of the last pass, whose latents are decoded. None: `job`.
    """
    fields = get_fields(type(request))
    for name, find_reason in REASONS.items():
        value = getattr(request, name, None)
        if name not in fields or value is None or value == fields[name].default:
            continue
        decoded = last if name == "tile" and last is not None else job
        if reason := find_reason(config, decoded, request):
            shown = job.guidance.name if name == "guidance" else _write(value)
            yield f"{name}={shown} changes nothing{reason}"


def _write(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(str(part) for part in value)
    return value if isinstance(value, str) else short_repr(value)


def _path(config: ModelConfig, job: Job, request: Any) -> str:
    sampler = job.sampler
    if config.scheduler.path is FLOW or config.scheduler.convention == "diffusers":
        return ""
    if sampler.straight and sampler.name not in SAME_ON_PATHS:
        return ""
    return f": steps of {sampler.name} are the same on every path"


def _guidance(config: ModelConfig, job: Job, request: Any) -> str:
    guidance = job.guidance
    if guidance.perturbed or guidance.by_guide or not is_asked(guidance):
        return ""
    if job.sampler.own_guidance or tuple(guidance.texts(job.cfg_scale)) != ("cond",):
        return ""
    return f" at cfg_scale {job.cfg_scale:g}, where only one prediction is made"


def _tile(config: ModelConfig, job: Job, request: Any) -> str:
    assert job.tile is not None
    if max(job.size) > job.tile:
        return ""
    return f": an image of {job.width} x {job.height} is a single tile"


def _resample(config: ModelConfig, job: Job, request: Any) -> str:
    assert job.resample is not None
    taken = job.steps - job.first_step
    visits = repaint_visits(taken, *job.resample, first=job.first_step)
    if list(visits) != [*range(job.first_step, job.steps + 1)]:
        return ""
    return f": no jump fits into {taken} steps, or every stretch is taken once"


def _padding(config: ModelConfig, job: Job, request: Any) -> str:
    return "" if request.only_masked else ": the whole image is generated, without only_masked"


def _upscale_steps(config: ModelConfig, job: Job, request: Any) -> str:
    return " at upscale_strength 0, which takes none" if request.upscale_strength == 0.0 else ""


def _source_scale(config: ModelConfig, job: Job, request: Any) -> str:
    if config.denoiser.reads_guidance or request.source_prompt or any(job.negative_prompts):
        return ""
    published = choose_published(config, replace(request, source_cfg_scale=None))
    if request.source_cfg_scale == published["source_cfg_scale"]:  # nobody asked for it
        return ""
    return ": the source prompt is empty, as the negative prompt is"


SAME_ON_PATHS = ("euler", "euler_churn")  # of the straight samplers; others run on `VE` as well
REASONS: Mapping[str, Reason] = {
    "noise_path": _path,
    "guidance": _guidance,
    "tile": _tile,
    "resample": _resample,
    "padding": _padding,
    "upscale_steps": _upscale_steps,
    "source_cfg_scale": _source_scale,
}
"""Why a parameter changes nothing in a job, or "": by its name."""
