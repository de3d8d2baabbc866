"""`plan` and `plan_inversion` check a request without weights; `schema` describes requests."""

from __future__ import annotations

from typing import Any

from ldmref import declare
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.inversion import InversionPlan
from ldmref.modes.registry import MODES, Mode, naming_parameters, read_request, require_config
from ldmref.modes.run import Plan


def plan(mode: str, config: ModelConfig | LatentDiffusion, /, **parameters: Any) -> Plan:
    """Check all parameters of a mode that generates images, without weights.

    Args:
        mode: `txt2img`, `img2img`, `inpaint`, `interpolate`, `edit`, `superres` or `seg2img`.
        config: The model's configuration, `model.config`; or the model.
        parameters: Those of `modes.<mode>`, all by name.

    Returns:
        The plan; `plan.run(model)` generates the images.

    Raises:
        UsageError, ResourceError, ImageError, InputError: A parameter is wrong; the message says
            what is allowed.

    >>> from ldmref import modes
    >>> from ldmref.models.presets import preset
    >>> modes.plan("txt2img", preset("sd15"), prompt="a red heart", seed=1).params["steps"]
    50
    """
    if mode == "invert":
        raise UsageError(
            "invert finds noise, and generates no image",
            code="E-MODE",
            hint="use modes.plan_inversion, then txt2img with latents=inversion.latents and "
            "**inversion.settings",
        )
    return _plan(mode, config, parameters)


def plan_inversion(config: ModelConfig | LatentDiffusion, /, **parameters: Any) -> InversionPlan:
    """Check all parameters of `modes.invert`, without weights.

    Args:
        config: The model's configuration, `model.config`; or the model.
        parameters: Those of `modes.invert`, all by name.

    Returns:
        The plan; `plan.run(model)` finds the noise.

    Raises:
        UsageError, ResourceError, ImageError, InputError: See `plan`.

    >>> import numpy as np
    >>> from ldmref import modes
    >>> from ldmref.models.presets import preset
    >>> image = np.zeros((64, 64, 3), np.uint8)
    >>> modes.plan_inversion(preset("sd15"), image=image, prompt="a cat", steps=10).calls
    60
    """
    return _plan("invert", config, parameters)


def _plan(mode: str, config: ModelConfig | LatentDiffusion, parameters: dict[str, Any]) -> Any:
    found = find_mode(mode)
    if not isinstance(config, ModelConfig):
        config = require_config(mode, config)
    with naming_parameters(found.parameters):
        return found.plan(config, read_request(mode, parameters))


def schema(mode: str) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a mode's parameters.

    Args:
        mode: The name of the mode.

    Returns:
        The schema, as JSON-able values.

    Raises:
        UsageError: There is no such mode.

    >>> from ldmref import modes
    >>> modes.schema("txt2img")["required"]
    ['prompt']
    """
    found = find_mode(mode)
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": mode}
    return dialect | declare.schema(found.request)


def find_mode(mode: str) -> Mode:
    """Return the mode of a name.

    Raises:
        UsageError: There is no such mode.
    """
    if not isinstance(mode, str) or mode not in MODES:
        message = f"unknown mode {short_repr(mode)}"
        hint = did_you_mean(str(mode), MODES)
        raise UsageError(message, code="E-MODE", hint=hint)
    return MODES[mode]
