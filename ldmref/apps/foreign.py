"""What other programs call our parameters, and what their values mean.

`modes/aliases.py` has the names. A value that was given under one of `MEANINGS` stands in a request
as a `ForeignValue` under our name, until the model is known; then `read_foreign` returns what it
means. Python takes our names alone, and its errors say both meanings (`aliases.NOTES`).

| name                   | program      | its value                                                |
|------------------------|--------------|----------------------------------------------------------|
| `guidance_scale`       | diffusers    | up to 1 no guidance; the family declares what it is else |
| `denoise`              | ComfyUI      | all steps are taken, of a longer schedule                |
| `denoising_strength`   | A1111        | takes a step more, also at 0                             |
| `hr_second_pass_steps` | A1111        | 0: as many as the first pass                             |
| `padding_mask_crop`    | diffusers    | generates the region around the mask alone               |
| `inpainting_fill`, ... | A1111        | numbers instead of names, 0 and 1 instead of flags       |

Sources: diffusers 0.42, `do_classifier_free_guidance` and `padding_mask_crop` of its pipelines;
comfyanonymous/ComfyUI, comfy/samplers.py (`KSampler.set_steps`);
AUTOMATIC1111/stable-diffusion-webui 1.10, modules/sd_samplers_common.py (`setup_img2img_steps`) and
modules/processing.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ldmref.declare import Field, flag_names, long_flag
from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.modes.aliases import ALIASES, OF_PYTHON
from ldmref.modes.job import skip_steps
from ldmref.modes.upscale import steps_before
from ldmref.modes.validation import MAX_STEPS

FILLS = ("fill", "original", "noise", "nothing")  # by A1111's `inpainting_fill`
RESIZES = ("stretch", "crop", "fill", "stretch")  # by A1111's `resize_mode`; 3 enlarges latents
MOST_DENOISED = 0.999  # of A1111's denoising strength
WHOLE_DENOISE = 0.9999  # above it, ComfyUI takes its whole schedule
MOST_SCALE = 1000.0

GivenValues = Mapping[str, Any]
ReadMeaning = Callable[[ModelConfig, Any, GivenValues], dict[str, Any]]


@dataclass(frozen=True)
class ForeignValue:
    """A value that was given under another program's name.

    Args:
        name: That name, one of `FOREIGN`.
        value: The value, not yet checked.
    """

    name: str
    value: Any


def foreign_value(name: str, value: Any) -> Any:
    """Return a value as it was given under a name: a `ForeignValue` if it may mean something else.

    >>> foreign_value("--guidance-scale", 0.0), foreign_value("num_inference_steps", 20)
    (ForeignValue(name='guidance_scale', value=0.0), 20)
    """
    name = name.lstrip("-").replace("-", "_")
    return ForeignValue(name, value) if name in FOREIGN else value


def read_foreign(config: ModelConfig, values: GivenValues) -> dict[str, Any]:
    """Return the values of a request with those of other programs in our terms.

    Args:
        config: The configuration of the model.
        values: Parameters by our names; some values may be a `ForeignValue`.

    Raises:
        UsageError: A value has no meaning for this model.

    >>> from ldmref.models.presets import preset
    >>> asked = {"cfg_scale": ForeignValue("guidance_scale", 0.0), "seed": 1}
    >>> read_foreign(preset("z-image-turbo"), asked)
    {'seed': 1, 'cfg_scale': 1.0}
    """
    read = dict(values)
    for name, value in values.items():
        if isinstance(value, ForeignValue):
            del read[name]
            read |= MEANINGS[value.name](config, value.value, read)
    return read


def strength_of_steps(config: ModelConfig, steps: int, taken: int) -> float:
    """Return the strength that takes the last steps of a schedule, from 0 to 1.

    Args:
        config: The configuration of the model.
        steps: The number of steps of the schedule.
        taken: The number of those that are taken, from 0 to `steps`.

    >>> from ldmref.models.presets import preset
    >>> strength_of_steps(preset("sd15"), 20, 11)
    0.55
    """
    strength = taken / steps
    for toward in (math.inf, -math.inf):  # a quotient may be rounded to the other side
        near = strength
        for _ in range(4):
            if steps - skip_steps(config, steps, near) == taken and 0.0 <= near <= 1.0:
                return near
            near = math.nextafter(near, toward)
    return strength


def _is_number(value: object, low: float, high: float) -> bool:
    """Return whether a value is a number in a range; NaN and flags are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _read_guidance_scale(config: ModelConfig, value: Any, values: GivenValues) -> dict[str, Any]:
    if not _is_number(value, -MOST_SCALE, MOST_SCALE):
        return {"cfg_scale": value}
    return {"cfg_scale": family_of(config).guidance_scale.read(config, value)}


def _count_steps(config: ModelConfig, values: GivenValues) -> int | None:
    """Return the number of steps of a request's schedule; None if it is wrong."""
    if isinstance(sigmas := values.get("sigmas"), list | tuple):
        return len(sigmas) - 1 if len(sigmas) > 1 else None
    steps = values.get("steps") or config.defaults.steps
    return int(steps) if _is_number(steps, 1, MAX_STEPS) else None


def _read_denoise(config: ModelConfig, value: Any, values: GivenValues) -> dict[str, Any]:
    steps = _count_steps(config, values)
    if steps is None or not _is_number(value, 0.0, 1.0) or value == 0 or values.get("sigmas"):
        return {"strength": value}
    total = steps if value > WHOLE_DENOISE else steps_before(steps, value)
    if total > MAX_STEPS:
        raise UsageError(
            f"ComfyUI's denoise {value:g} takes {steps} steps of a schedule of {total}, at most "
            f"{MAX_STEPS} are possible",
            code="E-STRENGTH",
            hint="take fewer steps; or give a strength, which takes a share of the steps",
        )
    return {"steps": total, "strength": strength_of_steps(config, total, steps)}


def _read_denoising_strength(
    config: ModelConfig, value: Any, values: GivenValues
) -> dict[str, Any]:
    steps = _count_steps(config, values)
    if steps is None or not _is_number(value, 0.0, 1.0):
        return {"strength": value}
    return {"strength": noised_strength(config, steps, value)}


def noised_strength(config: ModelConfig, steps: int, strength: float) -> float:
    """Return the strength that takes as many steps as A1111's denoising strength.

    That is int(strength steps) + 1, and all of them from 0.999.

    >>> from ldmref.models.presets import preset
    >>> [noised_strength(preset("sd15"), 20, strength) for strength in (0.0, 0.5, 1.0)]
    [0.05, 0.55, 1.0]
    """
    taken = int(min(strength, MOST_DENOISED) * steps) + 1
    return strength_of_steps(config, steps, min(taken, steps))


def _read_second_steps(config: ModelConfig, value: Any, values: GivenValues) -> dict[str, Any]:
    return {"upscale_steps": None if value == 0 and not isinstance(value, bool) else value}


def _read_mask_crop(config: ModelConfig, value: Any, values: GivenValues) -> dict[str, Any]:
    return {} if value is None else {"padding": value, "only_masked": True}


def _named(parameter: str, names: tuple[str, ...]) -> ReadMeaning:
    """Return the reader of a name that A1111 gives by its number."""
    numbers = {str(number): name for number, name in enumerate(names)}

    def read(config: ModelConfig, value: Any, values: GivenValues) -> dict[str, Any]:
        known = isinstance(value, int | str) and not isinstance(value, bool)
        return {parameter: numbers.get(str(value), value) if known else value}

    return read


def _flag(parameter: str) -> ReadMeaning:
    """Return the reader of a flag that A1111 gives as 0 or 1."""

    def read(config: ModelConfig, value: Any, values: GivenValues) -> dict[str, Any]:
        return {parameter: bool(value) if value in (0, 1) else value}

    return read


MEANINGS: dict[str, ReadMeaning] = {
    "guidance_scale": _read_guidance_scale,
    "denoise": _read_denoise,
    "denoising_strength": _read_denoising_strength,
    "hr_second_pass_steps": _read_second_steps,
    "padding_mask_crop": _read_mask_crop,
    "inpainting_fill": _named("fill", FILLS),
    "resize_mode": _named("resize", RESIZES),
    "inpaint_full_res": _flag("only_masked"),
    "inpainting_mask_invert": _flag("mask_invert"),
}
"""What a value means, by the name under which it was given.

Each returns our parameters of (configuration, value, values of the request). A value that the other
program does not know is returned under our name, where it is refused.
"""
FOREIGN = tuple(MEANINGS)


def flag_aliases(parameters: Mapping[str, Field]) -> dict[str, str]:
    """Return the flags by their names elsewhere and in Python, all without leading hyphens.

    Names whose value may mean something else are flags of their own: see `foreign_names`.

    >>> from ldmref.modes.registry import MODES
    >>> aliases = flag_aliases(MODES["img2img"].parameters)
    >>> aliases["num-inference-steps"], aliases["cfg-scale"], aliases["init-image"]
    ('steps', 'cfg', 'image')
    """
    own = {flag for field in parameters.values() for flag in flag_names(field)}
    apart = {name for field in parameters.values() for name in foreign_names(field)}
    aliases = {}
    for alias, meant in ({name: name for name in parameters} | ALIASES).items():
        if alias in apart or alias in OF_PYTHON:
            continue
        flag = long_flag(parameters[meant]) if meant in parameters else ""
        spelled = alias.replace("_", "-")
        if flag and f"--{spelled}" not in own:
            aliases[spelled] = flag
    return aliases


def foreign_names(field: Field) -> tuple[str, ...]:
    """Return the names in `FOREIGN` of a parameter; none if its flag has no value.

    >>> from ldmref.modes.registry import MODES
    >>> foreign_names(MODES["img2img"].parameters["strength"])
    ('denoise', 'denoising_strength')
    """
    if field.kind is bool:
        return ()
    return tuple(name for name in FOREIGN if ALIASES[name] == field.name)
