"""The notation of a grid's axes: `NAME=VALUES`."""

from __future__ import annotations

from typing import Any

from ldmref.config import read_number
from ldmref.declare import Field, Flag, flag_names
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.modes.aliases import flag_aliases
from ldmref.modes.registry import MODES

CODE = "E-GRID"
MAX_VALUES = 100
EXAMPLE = "-x sampler=euler,heun -y steps=5:25:5"


def read_axis_flag(mode: str, text: str, flag: str) -> tuple[str, list[Any]]:
    """Return the parameter and the values of an axis.

    Values are separated by commas, or by `|` if there is one; `5:25:5` is 5, 10, ..., 25.

    Raises:
        UsageError: The text has another form, or the mode does not have the parameter.
    """
    name, equals, values = text.partition("=")
    if not equals or not values.strip():
        message = f"-{flag} must be NAME=VALUES, not {short_repr(text)}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    field = find_field(mode, name.strip())
    parts = values.split("|" if "|" in values else ",")
    read: list[Any] = []
    for part in parts:
        read += read_values(field, part.strip())
    if len(read) > MAX_VALUES:
        message = f"an axis may have {MAX_VALUES} values, not {len(read)}"
        raise UsageError(message, code=CODE)
    return field.name, read


def find_field(mode: str, name: str) -> Field:
    """Return the parameter of a name, which may also be that of its flag or another program's.

    Raises:
        UsageError: The mode does not have it.
    """
    fields = MODES[mode].parameters
    spelled = name.lstrip("-").replace("_", "-")
    spelled = flag_aliases(fields).get(spelled, spelled)
    for field in fields.values():
        flags = {flag.lstrip("-") for flag in flag_names(field)}
        if name == field.name or spelled in flags:
            return field
    message = f"{mode} has no parameter {short_repr(name)}"
    raise UsageError(message, code=CODE, hint=did_you_mean(name, fields))


def read_values(field: Field, text: str) -> list[Any]:
    """Return the value of a text, or the values of a range of numbers.

    Raises:
        UsageError: It is not a value of the parameter.
    """
    if field.kind in (int, float) or field.name == "seed":
        number = int if field.kind is int or field.name == "seed" else float
        try:
            parts = [read_number(part, number) for part in text.split(":")]
        except ValueError:
            parts = []
        if len(parts) == 1:
            return parts
        if len(parts) in (2, 3):
            return list_range(field.name, parts)
        message = f"{field.name} must be a number, or a range such as 5:25:5, not {text!r}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    if field.kind is bool:
        if text not in ("true", "false"):
            message = f"{field.name} must be true or false, not {text!r}"
            raise UsageError(message, code=CODE)
        return [text == "true"]
    flag = field.get(Flag)
    return [flag.parse(text) if flag is not None and flag.parse is not None else text]


def list_range(name: str, parts: list[Any]) -> list[Any]:
    """Return the numbers of a range, with its end.

    Raises:
        UsageError: Its step is 0 or leads away from the end.
    """
    start, stop = parts[:2]
    by = parts[2] if len(parts) == 3 else 1
    count = int((stop - start) / by + 1e-9) + 1 if by else 0
    if count < 1 or count > MAX_VALUES:
        message = f"the range of {name} has no values or more than {MAX_VALUES}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    return [start + i * by for i in range(count)]
