"""The guidances by name: those of ldmref, and those of other packages."""

from __future__ import annotations

from collections.abc import Mapping

from ldmref.errors import UsageError, short_repr
from ldmref.samplers.autoguidance import Autoguidance
from ldmref.samplers.guidance import CODE, Guidance, read_guidance
from ldmref.samplers.guidance_attention import NormalizedAttention
from ldmref.samplers.guidance_directions import (
    AdaptiveProjected,
    PerpendicularNegative,
    PerturbedAttention,
    SkipLayers,
)
from ldmref.samplers.guidance_norms import MagnitudeAware, Renormalized, Tangential, ZeroStar
from ldmref.samplers.guidances import ClassifierFree, LimitedInterval, Rescale, Threshold
from ldmref.support.plugins import describe_origin, find_plugin, load_plugin, suggest_names

BUILT_IN = (
    ClassifierFree,
    Rescale,
    Threshold,
    LimitedInterval,
    PerpendicularNegative,
    PerturbedAttention,
    AdaptiveProjected,
    SkipLayers,
    ZeroStar,
    Renormalized,
    Tangential,
    MagnitudeAware,
    NormalizedAttention,
    Autoguidance,
)

GUIDANCES: dict[str, type[Guidance]] = {guidance.name: guidance for guidance in BUILT_IN}
"""The class of each built-in guidance by its name: `GUIDANCES["rescale"](phi=0.5)`."""

GROUP = "ldmref.guidance"


def get_guidance(value: object) -> Guidance:
    """Return a guidance by its name, or by its record.

    Args:
        value: A name in `GUIDANCES` or of a plug-in; a table with a name and parameters, such as
            {"name": "rescale", "phi": 0.7}; or a `Guidance`, which is returned unchanged.

    Returns:
        The guidance; parameters that are not given have their defaults.

    Raises:
        UsageError: An unknown name or parameter, a value that is not as declared, or a plug-in that
            cannot be imported or is not a guidance.

    >>> from ldmref.samplers import get_guidance
    >>> get_guidance({"name": "rescale", "phi": 0.5})
    Rescale(phi=0.5)
    """
    if isinstance(value, Guidance):
        return value
    parameters = dict(value) if isinstance(value, Mapping) else {}
    name = parameters.pop("name", None) if isinstance(value, Mapping) else value
    if not isinstance(name, str):
        raise UsageError(
            f"guidance must be a name, a Guidance, or a table with a name, not {short_repr(value)}",
            code=CODE,
            hint='guidance="rescale", {"name": "rescale", "phi": 0.7} or samplers.Rescale(phi=0.7)',
        )
    return read_guidance(guidance_class(name), parameters)


def guidance_class(name: str) -> type[Guidance]:
    """Return the class of a guidance, built in or a plug-in's.

    Raises:
        UsageError: There is none of that name, or a plug-in is not a guidance of its name.
    """
    lower = name.strip().lower()
    if lower in GUIDANCES:
        return GUIDANCES[lower]
    point = find_plugin(GROUP, lower)
    if point is None:
        hint = suggest_names(GROUP, GUIDANCES, lower)
        raise UsageError(f"unknown guidance {short_repr(name)}", code=CODE, hint=hint)
    cls = load_plugin(point)
    if not (isinstance(cls, type) and issubclass(cls, Guidance)):
        message = f"{describe_origin(point)} is not a subclass of ldmref.samplers.Guidance"
        raise UsageError(message, code="E-PLUGIN", hint="an entry point names a class")
    if cls.name.lower() != lower:
        message = f"{describe_origin(point)} has the name {cls.name!r}"
        raise UsageError(message, code="E-PLUGIN", hint=f"write name = {point.name!r} in the class")
    return cls
