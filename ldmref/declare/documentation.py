"""The documentation of declared fields."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterable

from ldmref.declare.fields import Doc, Field, Range

WIDTH = 88


def describe(field: Field) -> str:
    """Return the description of a field with its range, its choices and its default.

    >>> from typing import Annotated
    >>> from dataclasses import make_dataclass
    >>> from ldmref.declare.fields import get_fields
    >>> steps = Annotated[int | None, Range(1, 1000), Doc("Sampler steps.", "20")]
    >>> describe(get_fields(make_dataclass("Settings", [("steps", steps, None)]))["steps"])
    'Sampler steps. From 1 to 1000. None: 20.'
    """
    doc = field.get(Doc) or Doc("")
    limits = field.get(Range)
    text = doc.text
    if limits is not None:
        text += f" {str(limits)[:1].upper()}{str(limits)[1:]}."
    if field.choices:
        text += f" One of {', '.join(field.choices)}."
    if doc.none and (field.required or field.default is None):
        text += f" None: {doc.none}."
    elif not field.required and field.default not in (None, "", ()):
        text += f" Default: {field.default}."
    return text


def arguments_section(arguments: Iterable[tuple[str, str]]) -> str:
    """Return the `Args:` section of a docstring from names and descriptions."""
    return "Args:\n" + "\n".join(_wrap(name, text) for name, text in arguments)


@functools.cache
def _wrap(name: str, text: str) -> str:
    return textwrap.fill(f"    {name}: {text}", WIDTH, subsequent_indent=" " * 8)
