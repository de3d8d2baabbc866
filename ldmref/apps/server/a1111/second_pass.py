"""The second pass (`enable_hr`) of A1111's txt2img."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ldmref.apps.a1111.levels import Options
from ldmref.apps.a1111.second_pass import LATENT, STRENGTH, UPSCALERS, second_pass_levels
from ldmref.apps.server.a1111.fields import Fields, is_neutral
from ldmref.apps.server.a1111.names import read_method
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.models.config import ModelConfig

SCALE = 2.0  # A1111's default
FROM_FIRST = ("Use same sampler", "Use same scheduler", "Use same checkpoint")
# Of the second pass alone, which here has those of the first one
OTHERS = """
    hr_prompt hr_negative_prompt hr_sampler_name hr_scheduler hr_checkpoint_name hr_cfg
""".split()
LATENT_MODES = [{"name": LATENT}]
IMAGE_UPSCALERS = [
    {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}
    for name in UPSCALERS
    if name != LATENT
]


def read_second_pass(
    fields: Fields, config: ModelConfig, values: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Return the parameters of the second pass; none if the request has none.

    Args:
        fields: Those of the request.
        config: Configuration of the model that generates.
        values: The parameters of the first pass, with its size.
        notes: Gets a line for everything that differs.

    Raises:
        UsageError: An upscaler that is not here, or a value is wrong.
    """
    if not fields.flag("enable_hr"):
        return {}
    if config.defaults.one_size:
        notes.append("enable_hr: the model generates one size, so the image keeps it")
        return {}
    label = fields.text("hr_upscaler") or LATENT
    if label not in UPSCALERS:
        message = f"could not find upscaler named {short_repr(label)}"
        raise UsageError(message, code="E-UPSCALER", hint=did_you_mean(label, UPSCALERS))
    notes += [
        f"{name}: the second pass has that of the first"
        for name in OTHERS
        if not is_neutral(name, fields.other(name)) and fields.other(name) not in FROM_FIRST
    ]
    strength = fields.number("denoising_strength")
    strength = STRENGTH if strength is None else strength
    steps = fields.integer("hr_second_pass_steps") or None
    second = {"upscale": read_factor(fields, values), "upscaler": UPSCALERS[label]}
    levels = None
    if "sigmas" in values:
        name = fields.text("sampler_name") or fields.text("sampler_index")
        method = read_method(name, fields.text("scheduler"))
        levels = second_pass_levels(
            config,
            method.sampler or config.scheduler.sampler,
            method.levels,
            steps or fields.integer("steps"),
            strength,
            Options(sdxl=config.text_encoder_2 is not None),
        )
    if levels is not None:
        return second | {"upscale_sigmas": levels.taken}
    return second | {"upscale_strength": strength, "upscale_steps": steps}


def read_factor(fields: Fields, values: Mapping[str, Any]) -> float:
    """Return the factor of both sides: `hr_scale`, or that of `hr_resize_x` and `hr_resize_y`.

    Raises:
        UsageError: They give the image another shape, for which A1111 cuts latents off.
    """
    sides = {"hr_resize_x": values["width"], "hr_resize_y": values["height"]}
    asked = {name: fields.integer(name) or 0 for name in sides}
    factors = {asked[name] / side for name, side in sides.items() if asked[name]}
    if not factors:
        scale = fields.number("hr_scale")
        return SCALE if scale is None else scale
    if len(factors) > 1:
        raise UsageError(
            "hr_resize_x and hr_resize_y have another shape than the image",
            code="E-UPSCALE",
            hint="give one of them, or hr_scale",
        )
    [factor] = factors
    for name, side in sides.items():
        while int(side * factor) < asked[name]:
            factor = math.nextafter(factor, math.inf)
    return factor
