"""Parameters that a request asks for and that change nothing: each is named in a warning.

A parameter acts, is refused, or is named here; tests/modes/test_every_option.py goes over all that
are declared. What no model of a kind can use is refused where it is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ldmref.declare import get_fields
from ldmref.errors import short_repr
from ldmref.models.config import ModelConfig
from ldmref.modes.guidance_parameter import is_asked
from ldmref.modes.job import Job
from ldmref.modes.requests import Request
from ldmref.samplers import repaint_visits
from ldmref.samplers.path import FLOW

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
    if job.sampler.guides or tuple(guidance.texts(job.cfg_scale)) != ("cond",):
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
