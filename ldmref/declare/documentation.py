"""The documentation of declared fields."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Iterable
from typing import TypeVar

from ldmref.declare.fields import Doc, Field, Range, get_fields

Class = TypeVar("Class", bound=type)

WIDTH = 88


def describe(field: Field) -> str:
    """Return the description of a field with its range, its choices and its default.

    Args:
        field: From `get_fields`.

    Returns:
        One or more sentences.

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
    """Return the `Args:` section of a docstring from names and descriptions.

    Args:
        arguments: Names and descriptions.

    Returns:
        The section without a last line end, wrapped at 88 columns.

    >>> from ldmref.declare import arguments_section
    >>> print(arguments_section([("steps", "Sampler steps."), ("seed", "Seed of the noise.")]))
    Args:
        steps: Sampler steps.
        seed: Seed of the noise.
    """
    return "Args:\n" + "\n".join(_wrap(name, text) for name, text in arguments)


def document_fields(cls: Class) -> Class:
    """Insert an `Args:` section, made from the declared fields, into the docstring of a dataclass.

    The section precedes errors, source and example.

    Args:
        cls: A dataclass with a docstring, whose fields have `Doc` marks. It is changed in place.

    Returns:
        The class; the function is a decorator, above that of the dataclass.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, document_fields
    >>> steps = Annotated[int, Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> Settings.__doc__ = "Settings of a run."
    >>> Settings = document_fields(Settings)
    >>> print(Settings.__doc__)
    Settings of a run.
    <BLANKLINE>
    Args:
        steps: Sampler steps. Default: 20.
    """
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    ends = ("Raises:", "Source:", ">>>")
    at = next((i for i, line in enumerate(lines) if line.startswith(ends)), len(lines))
    section = arguments_section((name, describe(f)) for name, f in get_fields(cls).items())
    before = "\n".join(lines[:at]).rstrip()
    cls.__doc__ = f"{before}\n\n{section}\n\n" + "\n".join(lines[at:])
    cls.__doc__ = cls.__doc__.rstrip()
    return cls


@functools.cache
def _wrap(name: str, text: str) -> str:
    return textwrap.fill(f"    {name}: {text}", WIDTH, subsequent_indent=" " * 8)
