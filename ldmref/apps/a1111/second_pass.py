"""A1111's second pass (hires fix): its text, and its noise levels.

It takes all of its steps, unlike img2img: the last ones of a schedule of int(steps / min(strength,
0.999)).

Source: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/processing.py (`sample_hr_pass`) and
modules/sd_samplers_common.py (`setup_img2img_steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldmref.apps.a1111.levels import MOST, Levels, Options, encoded_levels
from ldmref.io.images.infotext import A1111_UPSCALERS
from ldmref.models.config import ModelConfig
from ldmref.modes import validation
from ldmref.modes.upscale import steps_before
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import sampling_sigmas

UPSCALERS = {label: name for name, label in A1111_UPSCALERS.items()}  # ours by A1111's name
LATENT = "Latent"  # the default
STRENGTH = 0.75  # the default
VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {  # in A1111's text
    "Hires upscale": ("upscale", float),
    "Hires steps": ("upscale_steps", int),
    "Denoising strength": ("upscale_strength", float),
}


def read_second_pass(
    pairs: dict[str, Any], convert: Callable[[str, str, Callable[[str], Any]], Any]
) -> dict[str, Any]:
    """Take the pairs of a second pass out of a text, and return our parameters.

    There are none if it enlarged by an upscaler that is not here, or to a size.

    Args:
        pairs: All pairs of the text.
        convert: `convert(key, text, kind)` returns a value of a kind, or refuses it.
    """
    label = pairs.get("Hires upscaler", LATENT)
    if "Hires upscale" not in pairs or label not in UPSCALERS:
        return {}
    pairs.pop("Hires upscaler", None)
    read: dict[str, Any] = {"upscaler": UPSCALERS[label]}
    for key, (name, kind) in VALUES.items():
        if key in pairs:
            read[name] = convert(key, pairs.pop(key), kind)
    return read


def second_pass_levels(
    config: ModelConfig,
    sampler: str,
    schedule: str,
    steps: int | None,
    strength: float,
    options: Options | None = None,
) -> Levels | None:
    """Return A1111's noise levels of a second pass; None if it has none, or too many.

    Args:
        config: Configuration of the model that generates.
        sampler, schedule: As for `a1111_levels`.
        steps: Number of steps that are taken; None: the model's.
        strength: Denoising strength, above 0.
        options: Further options; None: the defaults of `Options`.
    """
    if config.scheduler.path is FLOW:
        return None
    table = sampling_sigmas(config.scheduler)
    steps = config.defaults.steps if steps is None else steps
    if not 0.0 < strength <= 1.0 or steps < 1:
        return None
    total = steps_before(steps, min(strength, MOST))
    if total > min(validation.MAX_STEPS, len(table)):
        return None
    return encoded_levels(table, sampler, schedule, total, steps - 1, options or Options())
