"""The samplers, schedules and guidances that a model takes: what a form offers for it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.modes.plan import plan
from ldmref.samplers import GUIDANCES, SAMPLERS
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
