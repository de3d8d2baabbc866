"""Flags, completed by the configuration file and the environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ldmref.apps.cli.options import SOURCES, is_set, listed
from ldmref.declare import get_fields
from ldmref.errors import LdmrefError
from ldmref.modes.registry import MODES
from ldmref.modes.resolve import find_schedule
from ldmref.support.config import TABLES, Settings

CODES = {
    f"E-{key.upper().replace('_', '-')}": f"{table}.{key}"
    for table, cls in TABLES.items()
    for key in get_fields(cls)
}
CODES["E-BACKEND-NAME"] = "backend.name"
OF_BOTH_PROMPTS = ("E-PROMPT", "E-PROMPT-LENGTH")


def with_settings(
    mode: str, flags: dict[str, Any], configured: Settings, replays: bool = False
) -> dict[str, Any]:
    """Return the flags, completed by configuration file and environment.

    Without `--count`, a list of seeds determines the number of images. With `replays`, parameters
    that a record leaves out have their default, whatever the settings are.
    """
    flags = dict(flags)
    takes = MODES[mode].parameters
    seed = flags.get("seed")
    if "count" in takes and flags.get("count") is None and isinstance(seed, list):
        flags["count"] = _images_for_each(flags, len(seed))
    for key, value in configured.defaults.items():
        own_size = key in ("width", "height") and mode not in ("txt2img", "interpolate")
        own_guidance = key == "cfg_scale" and mode in ("invert", "edit")
        own_steps = key in ("steps", "schedule") and flags.get("sigmas") is not None
        own_schedule = key == "schedule" and find_schedule(flags.get("sampler"))
        own_count = key == "count" and flags.get("latents") is not None
        own_replay = key in ("count", "rng") and replays
        own = own_size or own_guidance or own_steps or own_schedule or own_count or own_replay
        if (key in takes or key == "output") and not is_set(flags.get(key)) and not own:
            flags[key] = value
    return flags


def _images_for_each(flags: dict[str, Any], seeds: int) -> int | None:
    """Return the number of images that each prompt of each input image gets from a list of seeds.

    None, the default, if they cannot be distributed evenly, which is refused later.
    """
    if flags.get("prompt_embeds") is not None:  # each is a prompt, and has its own seed
        return None
    inputs = max(1, *(len(listed(flags.get(name))) for name in SOURCES))
    each = inputs * max(1, len(listed(flags.get("prompt"))))
    return None if seeds % each else seeds // each


@contextmanager
def naming_settings(configured: Settings, flags: Mapping[str, Any]) -> Iterator[None]:
    """Begin an error about a value that no flag set with its file or variable."""
    try:
        yield
    except LdmrefError as error:
        key = CODES.get(error.code, "")
        if error.code in OF_BOTH_PROMPTS and "negative" in str(error):
            key = "defaults.negative_prompt"
        if f"defaults.{error.parameter}" in configured.origin:
            key = f"defaults.{error.parameter}"
        flag = "backend" if key == "backend.name" else key.rpartition(".")[2]
        if key in configured.origin and not is_set(flags.get(flag)):
            error.args = (f"{configured.origin[key]}: {error}",)
        raise
