"""Flags, completed by the configuration file and the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ldmref.config import TABLES, Settings
from ldmref.errors import LdmrefError
from ldmref.modes.registry import MODES
from ldmref.modes.request import named_schedule

CODES = {
    f"E-{key.upper().replace('_', '-')}": f"{table}.{key}"
    for table, keys in TABLES.items()
    for key in keys
}
CODES["E-BACKEND-NAME"] = "backend.name"


def with_settings(mode: str, flags: dict[str, Any], configured: Settings) -> dict[str, Any]:
    """The flags, completed by configuration file and environment."""
    flags = dict(flags)
    takes = MODES[mode].parameters
    for key, value in configured.defaults.items():
        own_size = key in ("width", "height") and mode not in ("txt2img", "interpolate")
        own_guidance = key == "cfg_scale" and mode == "invert"
        own_steps = key in ("steps", "schedule") and flags.get("sigmas") is not None
        own_schedule = key == "schedule" and named_schedule(flags.get("sampler"))
        own = own_size or own_guidance or own_steps or own_schedule
        if key in takes and flags.get(key) is None and not own:
            flags[key] = value
    seed = flags.get("seed")
    rows = flags.get("prompt_embeds") is not None  # each is a prompt, and has a seed of its own
    if "count" in takes and flags.get("count") is None and isinstance(seed, list) and not rows:
        flags["count"] = len(seed)
    return flags


@contextmanager
def naming_settings(configured: Settings, flags: dict[str, Any]) -> Iterator[None]:
    """Let an error about a value that no flag set begin with its file or variable."""
    try:
        yield
    except LdmrefError as error:
        key = CODES.get(error.code, "")
        flag = "backend" if key == "backend.name" else key.rpartition(".")[2]
        if key in configured.origin and flags.get(flag) is None:
            error.args = (f"{configured.origin[key]}: {error}",)
        raise
