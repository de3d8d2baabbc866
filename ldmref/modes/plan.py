"""`plan` checks a request without weights; `schema` describes requests.

The package of modes imports this module, whichever of them is used.
"""

from __future__ import annotations

from typing import Any, Literal, overload

from ldmref import advice, declare
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.inversion import InversionPlan
from ldmref.modes.registry import MODES, Mode, naming_parameters, read_request, require_config
from ldmref.modes.run import Plan

Plan.adviser = advice  # which is built on plans and runs, so they cannot import it


@overload
def plan(
    mode: Literal["invert"], config: ModelConfig | LatentDiffusion, /, **parameters: object
) -> InversionPlan: ...


@overload
def plan(mode: str, config: ModelConfig | LatentDiffusion, /, **parameters: object) -> Plan: ...


def plan(mode: str, config: ModelConfig | LatentDiffusion, /, **parameters: object) -> Plan:
    """Check all parameters of a mode, without weights.

    Args:
        mode: `txt2img`, `img2img`, `inpaint`, `interpolate`, `invert`, `edit`, `superres` or
            `seg2img`.
        config: The model's configuration, `model.config`; or the model.
        parameters: Those of `modes.<mode>`, all by name.

    Returns:
        The plan; `plan.run(model)` generates the images, or for `invert` finds the noise.

    Raises:
        UsageError, ResourceError, ImageError, InputError: A parameter is wrong; the message says
            what is allowed.

    >>> from ldmref import modes
    >>> from ldmref.models.presets import preset
    >>> modes.plan("txt2img", preset("sd15"), prompt="a red heart", seed=1).params["steps"]
    50
    """
    found = find_mode(mode)
    if not isinstance(config, ModelConfig):
        config = require_config(mode, config)
    with naming_parameters(found.parameters):
        return found.plan(config, read_request(mode, parameters))


def require_images(planned: Plan, what: str) -> None:
    """Refuse a plan whose run gives noise, where images are needed.

    Args:
        planned: The plan.
        what: What needs images, for the message.

    Raises:
        UsageError: It is the plan of an inversion.
    """
    if isinstance(planned, InversionPlan):
        raise UsageError(
            f"{what} needs images: invert finds noise, and generates no image",
            code="E-MODE",
            hint="use txt2img with latents=inversion.latents and **inversion.settings",
        )


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
