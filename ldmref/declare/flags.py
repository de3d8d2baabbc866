"""The names of declared fields on the command line."""

from __future__ import annotations

from ldmref.declare.fields import Field, Flag


def flag_names(field: Field) -> tuple[str, ...]:
    """Return the flags of a field; () if a command declares its own."""
    mark = field.get(Flag) or Flag()
    return (f"--{field.name.replace('_', '-')}",) if mark.names is None else mark.names


def long_flag(field: Field) -> str:
    """Return the first long flag without its hyphens, or ""."""
    return next((flag[2:] for flag in flag_names(field) if flag.startswith("--")), "")
