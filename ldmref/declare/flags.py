"""The names of declared fields on the command line."""

from __future__ import annotations

from ldmref.declare.fields import Field, Flag


def flag_names(field: Field) -> tuple[str, ...]:
    """Return the flags of a field; () if a command declares its own.

    Args:
        field: From `get_fields`.

    Returns:
        The flags, such as ("--clip-skip",).

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Range, flag_names, get_fields
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> flag_names(get_fields(Settings)["steps"])
    ('--steps',)
    """
    mark = field.get(Flag) or Flag()
    return (f"--{field.name.replace('_', '-')}",) if mark.names is None else mark.names


def long_flag(field: Field) -> str:
    """Return the first long flag without its hyphens, or "".

    Args:
        field: From `get_fields`.

    Returns:
        The name of the flag.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Range, get_fields, long_flag
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> long_flag(get_fields(Settings)["steps"])
    'steps'
    """
    return next((flag[2:] for flag in flag_names(field) if flag.startswith("--")), "")
