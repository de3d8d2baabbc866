"""Warnings about requests that are allowed but unusual."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ldmref.backends.base import Backend
from ldmref.declare import get_fields
from ldmref.errors import UsageError
from ldmref.io.embedded import BASES, EMBEDDED
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.modes.checks import check_mode
from ldmref.modes.compositions import Compositions
from ldmref.modes.guidance_parameter import find_unperturbed, texts_read
from ldmref.modes.job import Job
from ldmref.modes.levels import note_levels, note_strength
from ldmref.modes.upscale_parameters import UpscaleParameters
from ldmref.samplers.guidance_attention import NormalizedAttention
from ldmref.support.assets import read_asset

USUAL_CFG_SCALE = 50.0
USUAL_CFGPP_SCALE = 2.0


@dataclass(frozen=True)
class PromptNotes:
    """What to know about the prompts of a bundled model: `prompts.json` beside its weights.

    Args:
        models: The names of the models, as in their configurations.
        description: A sentence about what they know.
        examples: Prompts that they understand.
        note: A sentence about the prompts to try.
        parameters: What to know about a parameter: {mode: {parameter: a line}}.
        compositions: The words by which a prompt joins things.
    """

    models: Sequence[str]
    description: str
    examples: Sequence[str]
    note: str
    parameters: Mapping[str, Mapping[str, str]]
    compositions: Compositions


def prompt_notes(config: ModelConfig) -> PromptNotes | None:
    """Return what to know about a model's prompts; None for models that read any text."""
    return next((notes for notes in _all_notes() if config.name in notes.models), None)


@cache
def _all_notes() -> tuple[PromptNotes, ...]:
    found = []
    for name in (name for name in EMBEDDED if name not in BASES):
        read: dict[str, Any] = json.loads(read_asset(name, "prompts.json"))
        read["compositions"] = Compositions(**read["compositions"])
        found.append(PromptNotes(**read))
    return tuple(found)


def prompts_to_try(config: ModelConfig) -> tuple[str, ...]:
    """Return prompts that a model understands; none for models that read any text."""
    notes = prompt_notes(config)
    return () if notes is None else tuple(notes.examples)


def note_on_prompts(config: ModelConfig) -> str:
    """Return a sentence about the prompts to try, or ""."""
    notes = prompt_notes(config)
    return "" if notes is None else notes.note


def can_generate(config: ModelConfig, mode: str) -> bool:
    """Return whether a model has a mode.

    >>> from ldmref.models import preset
    >>> can_generate(preset("sd15"), "img2img"), can_generate(preset("sd15"), "superres")
    (True, False)
    """
    try:
        check_mode(config, mode)
    except UsageError:
        return False
    return True


def parameter_advice(config: ModelConfig) -> Mapping[str, Mapping[str, str]]:
    """Return what to know about a parameter of a mode for a model: {mode: {parameter: a line}}."""
    notes = prompt_notes(config)
    return {} if notes is None else notes.parameters


def unused_parameters(config: ModelConfig) -> tuple[str, ...]:
    """Return the parameters that a model has no use for, such as weights of words without words.

    >>> from ldmref.models import preset
    >>> unused_parameters(preset("qwen-image-2.1"))
    ('control_image', 'references')
    """
    names = unused_words(config)
    return (*names, *get_fields(UpscaleParameters)) if config.defaults.one_size else names


def unused_words(config: ModelConfig) -> tuple[str, ...]:
    """Return the parameters about prompts that a model has no use for."""
    words = ("long_prompts", "prompt_weights", "strict_prompt", "clip_skip")
    family = family_of(config)
    control = () if config.concat == "control" else ("control_image",)
    if family.references is None:
        control = (*control, "references")
    if family.text.together is None:
        control = ("longest_prompt", "longest_negative_prompt", *control)
    if family.text.with_length is None:
        control = ("max_sequence_length", *control)
    reads = kind_of(config.text_encoder).reads
    if reads == "nothing":
        return (*words, "negative_prompt", "cfg_scale", "guidance", *control)
    return (*words, *control) if reads == "class" else control


def advise(config: ModelConfig, job: Job, ops: Backend, scales: Sequence[float] = ()) -> list[str]:
    """Return a line for each number or prompt for which the model is not suited, or slow.

    Args:
        config: The configuration of the model.
        job: The resolved parameters.
        ops: The backend.
        scales: Guidance scales that the run uses besides that of the job.
    """
    lines = []
    width, height = job.size
    is_cfgpp = job.sampler.unconditional and not job.sampler.guides
    if abs(job.cfg_scale) > USUAL_CFG_SCALE:
        lines.append(f"cfg_scale {job.cfg_scale:g} is far from the usual range of 1 to 20")
    elif is_cfgpp and abs(job.cfg_scale) > USUAL_CFGPP_SCALE:
        lines.append(
            f"cfg_scale {job.cfg_scale:g} is far from the usual range of 0 to 1 of CFG++ "
            f"({job.sampler.name})"
        )
    lines.append(undrawn_prompt(config, job))
    if any(job.negative_prompts) or "negative_prompt_embeds" in (job.embeddings or {}):
        lines.append(unread_negative(config, job, scales))
    lines += [*note_levels(config, job), *note_strength(config, job)]
    if job.strength == 0.0:
        lines.append("strength 0 returns the image: nothing is generated")
    elif not config.defaults.is_near(width, height):
        trained = f"{config.defaults.width} x {config.defaults.height}"
        lines.append(f"{width} x {height} is far from the {trained} on which the model was trained")
    if ops.name == "numpy" and ops.dtype == "float16":
        lines.append("float16 on NumPy is slower than float32, and less accurate")
    notes = prompt_notes(config)
    if notes is not None and not job.embeddings:
        lines += [notes.compositions.unseen(prompt) for prompt in dict.fromkeys(job.prompts)]
    return [line for line in lines if line]


def undrawn_prompt(config: ModelConfig, job: Job) -> str:
    """Return a line about a guidance scale of 0, at which nothing is left of the prompt, or ""."""
    guides = job.sampler.unconditional or config.denoiser.reads_guidance  # 0 is usual for CFG++
    without = {"uncond", "empty"} & {*job.guidance.texts(0.0)}
    reads = kind_of(config.text_encoder).reads
    if job.cfg_scale != 0.0 or guides or not without or reads == "nothing":
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
