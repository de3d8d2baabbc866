"""The notation of requests on the command line and in Python.

The page copies them as text. The names of the flags come from the declarations of the parameters.
"""

from __future__ import annotations

from pathlib import PurePath

from ldmref.backends import get_backend
from ldmref.declare import flag_names, get_fields
from ldmref.models.model import LatentDiffusion
from ldmref.modes.plan import find_mode

# The commands declare these themselves, because they take several prompts, or another notation.
OWN_FLAGS = {
    "prompt": {"name": "-p"},
    "prompt_b": {"name": "--to"},
    "positions": {"name": "--frames", "list": "--positions"},
}
EMBEDDED = "emoji"


def command_flags(mode: str) -> dict[str, dict[str, str]]:
    """Return the flag of each parameter of a mode: its `name`, and `off` if it can be switched off.

    >>> command_flags("txt2img")["cfg_scale"]
    {'name': '--cfg'}
    """
    flags = {}
    for name, field in get_fields(find_mode(mode).request).items():
        names = flag_names(field)
        flags[name] = OWN_FLAGS.get(name, {}) if not names else {"name": names[-1]}
        if field.kind is bool and field.optional:
            flags[name] = {"name": names[0], "off": f"--no-{names[0].removeprefix('--')}"}
    return flags


def load_arguments(model: LatentDiffusion, source: str | None, local: bool) -> dict[str, str]:
    """Return the arguments with which `ldmref.load` opens a served model.

    Args:
        model: The model.
        source: The name or path by which the server opened it; None if it was not opened by one.
        local: Whether only this machine reaches the server. Other machines get a path's last part.

    Returns:
        `source`, left out for the embedded model, and `backend`, `device`, `dtype` and `speed`,
        left out if they are those of NumPy in float32.
    """
    arguments = {}
    if source not in (None, EMBEDDED):
        arguments["source"] = source if local else PurePath(source).name
    described = model.backend.describe()
    usual = get_backend("numpy", dtype="float32").describe()
    computed = {name: described[name] for name in ("device", "dtype", "speed")}
    if described["name"] != "numpy" or any(usual[name] != computed[name] for name in computed):
        arguments |= {"backend": described["name"], **computed}
    return arguments
