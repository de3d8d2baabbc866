"""Parameters by name, and their values from text, as `record --branch` and `grid` take them."""

from __future__ import annotations

from typing import Any

from ldmref.apps.foreign import flag_aliases, foreign_names
from ldmref.declare import Field, Flag, flag_names
from ldmref.errors import UsageError, short_repr
from ldmref.modes.aliases import suggest_parameter
from ldmref.modes.registry import MODES
from ldmref.support.config import read_number


def find_field(mode: str, name: str, code: str) -> Field:
    """Return the parameter of a name, which may also be that of its flag or another program's.

    Raises:
        UsageError: The mode does not have it; the error has this code.
    """
    fields = MODES[mode].parameters
    spelled = name.lstrip("-").replace("_", "-")
    spelled = flag_aliases(fields).get(spelled, spelled)
    for field in fields.values():
        flags = {flag.lstrip("-") for flag in flag_names(field)}
        flags |= {foreign.replace("_", "-") for foreign in foreign_names(field)}
        if name == field.name or spelled in flags:
            return field
    message = f"{mode} has no parameter {short_repr(name)}"
    hint = suggest_parameter(name, mode, {other: MODES[other].parameters for other in MODES})
    raise UsageError(message, code=code, hint=hint)


def number_type(field: Field) -> type[int] | type[float] | None:
    """Return the type of a parameter that is one number, otherwise None."""
    if field.kind is int or field.name == "seed":
        return int
    return float if field.kind is float else None


def read_value(field: Field, text: str, code: str) -> Any:
    """Return the value of a parameter, written as its flag takes it; a switch is true or false.

    Raises:
        UsageError: It is not a value of the parameter; the error has this code.
    """
    number = number_type(field)
    if number is not None:
        try:
            return read_number(text, number)
        except ValueError:
            message = f"{field.name} must be a number, not {text!r}"
            hint = "write a number after the ="
            raise UsageError(message, code=code, hint=hint) from None
    if field.kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"{field.name} must be true or false, not {text!r}", code=code)
        return text == "true"
    flag = field.get(Flag)
    return flag.parse(text) if flag is not None and flag.parse is not None else text
