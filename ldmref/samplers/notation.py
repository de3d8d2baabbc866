"""Names with parameters, as a request writes them: `rescale:phi=0.7`."""

from __future__ import annotations

from typing import Any

from ldmref.errors import UsageError, short_repr
from ldmref.support.config import read_number

WORDS = {"true": True, "false": False, "none": None}


def read_notation(text: str, what: str, code: str, hint: str) -> tuple[str, dict[str, Any]]:
    """Return a name and its parameters.

    Args:
        text: A name alone, or `name:key=value,...`; values are numbers, true, false, none, whole
            numbers joined by +, or words.
        what: What has the name, for the message.
        code: Code of the error.
        hint: An example.

    Raises:
        UsageError: A parameter is not a key and a value.

    >>> read_notation("slg:layers=7+8,scale=2.5", "guidance", "E-GUIDANCE", "")
    ('slg', {'layers': [7, 8], 'scale': 2.5})
    """
    name, colon, rest = text.partition(":")
    parameters = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = pair.partition("=")
        if not key.strip() or not equals:
            raise UsageError(f"cannot read the {what} {short_repr(text)}", code=code, hint=hint)
        parameters[key.strip()] = _read_value(value.strip())
    return name.strip(), parameters


def _read_value(text: str) -> Any:
    parts = text.split("+")
    if len(parts) > 1 and all(part.strip().isdecimal() for part in parts):
        return [int(part) for part in parts]
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return read_number(text, kind)
        except ValueError:
            continue
    return text
