"""What a form shows for a model: its choices, the parameters that it has no use for, its advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from ldmref.declare import get_fields
from ldmref.errors import UsageError
from ldmref.io.prompt_notes import prompt_notes
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.modes.guidance_parameter import choose_guidance
from ldmref.modes.plan import plan
from ldmref.modes.upscale_parameters import UpscaleParameters
from ldmref.samplers import GUIDANCES, SAMPLERS, Guidance, get_sampler
from ldmref.samplers.spacings import FLOW_SPACINGS, SPACINGS

CHOICES = {
    "sampler": tuple(SAMPLERS),
    "schedule": (*SPACINGS, *FLOW_SPACINGS),
    "guidance": tuple(GUIDANCES),
}


@lru_cache(maxsize=64)
def choices_of(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return the names of each choice that a model takes, in the order of their lists.

    A name is left out if the plan of an image from words refuses it; all names are there for a
    model that makes no images from words alone.

    Args:
        config: The model's configuration.

    >>> from ldmref.models import preset
    >>> choices_of(preset("sd3-tiny"))["schedule"]
    ('flow', 'flow_table')
    >>> "slg" in choices_of(preset("sd15"))["guidance"]
    False
    """
    if not _takes(config, {}):
        return dict(CHOICES)
    return {field: tuple(_taken(config, field, names)) for field, names in CHOICES.items()}


def _taken(config: ModelConfig, field: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if _takes(config, {field: name})]


def _takes(config: ModelConfig, parameters: dict[str, str]) -> bool:
    known = GUIDANCES.get(parameters.get("guidance", ""))
    more = {"guide": config} if known is not None and known.by_guide else {}
    try:
        plan("txt2img", config, prompt="", **parameters, **more)
    except UsageError:
        return False
    return True


def negative_prompt_uses(config: ModelConfig) -> dict[str, Any]:
    """Return when a model reads a negative prompt, for forms that show one only then.

    Returns:
        `guidances`: for each guidance that the model takes, and "" for its own: `always`, `guided`
        (if the guidance scale is not 1) or `never`. `scales`: the guidance scale of a request
        without one, of guidances that have their own. `samplers`: those that always read it.

    >>> from ldmref.models import preset
    >>> uses = negative_prompt_uses(preset("flux-dev"))
    >>> uses["guidances"][""], uses["guidances"]["nag"]
    ('never', 'always')
    """
    choices = choices_of(config)
    plain = get_sampler("euler")
    used = {"": choose_guidance(config, None, plain)}
    for name in choices["guidance"]:
        with suppress(UsageError):  # a model without words takes every name
            used[name] = choose_guidance(config, name, plain)
    scales = {name: guidance.usual_scale for name, guidance in used.items()}
    return {
        "guidances": {name: negative_prompt_use(guidance) for name, guidance in used.items()},
        "scales": {name: scale for name, scale in scales.items() if scale is not None},
        "samplers": [name for name in choices["sampler"] if get_sampler(name).unconditional],
    }


def negative_prompt_use(guidance: Guidance) -> str:
    """Return when a guidance reads the negative prompt: `always`, `guided` or `never`."""
    if "uncond" in guidance.texts(1.0):
        return "always"
    return "guided" if "uncond" in guidance.texts(2.0) else "never"


def prompts_to_try(config: ModelConfig) -> tuple[str, ...]:
    """Return prompts that a model understands; none for models that read any text."""
    notes = prompt_notes(config)
    return () if notes is None else tuple(notes.examples)


def note_on_prompts(config: ModelConfig) -> str:
    """Return a sentence about the prompts to try, or ""."""
    notes = prompt_notes(config)
    return "" if notes is None else notes.note


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
    names = _unused_words(config)
    return (*names, *get_fields(UpscaleParameters)) if config.defaults.one_size else names


def _unused_words(config: ModelConfig) -> tuple[str, ...]:
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
