"""The notation of a grid's axes: `NAME=VALUES`."""

from __future__ import annotations

from typing import Any

from ldmref.apps.cli.parameter_text import find_field, number_type, read_value
from ldmref.declare import Field
from ldmref.errors import UsageError, short_repr
from ldmref.support.config import read_number

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
    field = find_field(mode, name.strip(), CODE)
    parts = values.split("|" if "|" in values else ",")
    read: list[Any] = []
    for part in parts:
        read += read_values(field, part.strip())
    if len(read) > MAX_VALUES:
        message = f"an axis may have {MAX_VALUES} values, not {len(read)}"
        raise UsageError(message, code=CODE)
    return field.name, read


def read_values(field: Field, text: str) -> list[Any]:
    """Return the value of a text, or the values of a range of numbers.

    Raises:
        UsageError: It is not a value of the parameter.
    """
    number = number_type(field)
    if number is None or ":" not in text:
        return [read_value(field, text, CODE)]
    try:
        parts = [read_number(part, number) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) not in (2, 3):
        message = f"{field.name} must be a number, or a range such as 5:25:5, not {text!r}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    return list_range(field.name, parts)


def list_range(name: str, parts: list[Any]) -> list[Any]:
    """Return the numbers of a range, with its end.

    Raises:
        UsageError: Its step is 0 or leads away from the end.
    """
    start, stop = parts[:2]
    by = parts[2] if len(parts) == 3 else 1
    try:
        count = int((stop - start) / by + 1e-9) + 1 if by else 0
    except (ValueError, OverflowError):  # NaN, infinity, or a number of hundreds of digits
        count = 0
    if count < 1 or count > MAX_VALUES:
        message = f"the range of {name} has no values or more than {MAX_VALUES}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    return [start + i * by for i in range(count)]
