"""Read, verify and write instances of declared dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ldmref.declare.fields import Check, Field, Formerly, Length, Names, Range, get_fields
from ldmref.errors import LdmrefError, did_you_mean, short_repr

T = TypeVar("T")


class Invalid(ValueError):
    """A key or value that is not as declared.

    Args:
        message: The problem.
        path: The field, such as "unet.in_channels".
        hint: The closest known name, or "".

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Invalid, Range, read
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> try:
    ...     read(Settings, {"step": 30})
    ... except Invalid as error:
    ...     print(error, "|", error.hint)
    unknown key step | did you mean 'steps'? Known: steps
    """

    def __init__(self, message: str, path: str, hint: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.hint = hint


def read(cls: type[T], data: object, path: str = "", base: T | None = None) -> T:
    """Return an instance of a dataclass with the values of a mapping.

    Args:
        cls: The dataclass.
        data: Keys and values; nested dataclasses are nested mappings.
        path: Prefix of the fields' names in messages.
        base: Supplies the values that `data` does not have, also in nested mappings; its None
            stands for the default of an optional field. None: the defaults of the fields do.

    Returns:
        The instance, with every value checked.

    Raises:
        Invalid: An unknown or missing key, or a value that is not as declared. Keys are checked
            before values.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Range, read
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> read(Settings, {"steps": 30})
    Settings(steps=30)
    """
    if not isinstance(data, Mapping):
        raise Invalid(f"{path or 'it'} must be a table, not {short_repr(data)}", path)
    fields = get_fields(cls)
    prefix = f"{path}." if path else ""
    if renamed := _renamed_fields(cls):
        data = _current_names(renamed, data, prefix)
    for key in data:
        if key not in fields:
            name = f"{prefix}{key}"
            raise Invalid(f"unknown key {name}", name, did_you_mean(str(key), fields))
    if base is None:
        for name, field in fields.items():
            if field.required and name not in data:
                raise Invalid(f"missing key {prefix}{name}", f"{prefix}{name}")
    values = {}
    for key, value in data.items():
        default = fields[key].default if base is None else getattr(base, key)
        values[key] = _check(fields[key], value, prefix + key, default)
    if base is None:
        for name, field in fields.items():
            if field.default not in (None, ()) and name not in values and field.get(Check):
                values[name] = _check(field, field.default, prefix + name)
        return cls(**values)
    return dataclasses.replace(base, **values)  # type: ignore[type-var]


@functools.cache
def _renamed_fields(cls: type) -> Mapping[str, str]:
    """Return the fields of a dataclass that had another name, by that name."""
    marks = {name: field.get(Formerly) for name, field in get_fields(cls).items()}
    return {mark.name: name for name, mark in marks.items() if mark is not None}


def _current_names(
    renamed: Mapping[str, str], data: Mapping[str, Any], prefix: str
) -> Mapping[str, Any]:
    """Return the mapping with the present names of renamed fields."""
    for old, new in renamed.items():
        if old in data and new in data:
            message = f"{prefix}{old} and {prefix}{new} are one key: keep {prefix}{new}"
            raise Invalid(message, f"{prefix}{old}")
    return {renamed.get(key, key): value for key, value in data.items()}


def verify(instance: object, path: str = "") -> None:
    """Check an instance of a dataclass that was built without `read`.

    Args:
        instance: An instance of a dataclass.
        path: Prefix of the fields' names in messages.

    Raises:
        Invalid: A value is not as declared.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Invalid, Range, verify
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> try:
    ...     verify(Settings(steps=0))
    ... except Invalid as error:
    ...     print(error)
    steps must be a whole number from 1 to 1000, not 0
    """
    prefix = f"{path}." if path else ""
    for name, field in get_fields(type(instance)).items():
        _check(field, getattr(instance, name), prefix + name)


def _check(field: Field, value: object, path: str, base: object = None) -> Any:
    """Return the value in its declared type."""
    if value is None and field.optional:
        value = None if field.required else field.default
        if value is None:
            return None
    kind = field.kind
    custom = field.get(Check)
    if custom is not None:
        try:
            return custom.function(path, value)
        except LdmrefError as error:
            error.parameter = error.parameter or path
            raise
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            verify(value, path)
            return value
        return read(kind, value, path, base if isinstance(base, kind) else None)  # type: ignore
    if kind is tuple:
        return _check_tuple(field, value, path)
    if field.choices:
        if not isinstance(value, str) or value not in field.choices:
            known = [choice or '""' for choice in field.choices]
            hint = did_you_mean(value if isinstance(value, str) else "", known)
            raise Invalid(f"unknown {path} {short_repr(value)}", path, hint)
        return value
    if kind in (int, float):  # NumPy's numbers are numbers, booleans are not
        limits = field.get(Range) or Range()
        expected = numbers.Integral if kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, expected) or not limits.holds(value):  # type: ignore[arg-type]
            article = "a whole number" if kind is int else "a number"
            allowed = article if limits == Range() else f"{article} {limits}"
            raise Invalid(f"{path} must be {allowed}, not {short_repr(value)}", path)
        return kind(value)  # type: ignore[arg-type]
    if kind is bool and isinstance(value, np.bool_):
        return bool(value)
    if not isinstance(value, kind):
        allowed = {bool: "true or false", str: "a text"}[kind]
        raise Invalid(f"{path} must be {allowed}, not {short_repr(value)}", path)
    return value


def _check_tuple(field: Field, value: object, path: str) -> tuple[Any, ...]:
    names = field.get(Names)
    length = field.get(Length)
    entries = {bool: "booleans", int: "whole numbers", float: "numbers", str: "texts"}
    allowed = names or f"a list of {entries[field.element]}"
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise Invalid(f"{path} must be {allowed}, not {short_repr(value)}", path)
    if length is not None and not length.low <= len(value) <= length.high:
        message = f"{path} must have from {length.low} to {length.high} entries, not {len(value)}"
        raise Invalid(message, path)
    if names is not None and not names.holds(tuple(value)):
        raise Invalid(f"{path} must be {names}, not {short_repr(value)}", path)
    entry = field._replace(kind=field.element, element=None, optional=False)
    return tuple(_check(entry, x, f"{path}[{i}]") for i, x in enumerate(value))


def write(instance: object) -> Any:
    """Return an instance as nested dictionaries that JSON and TOML can hold, without None.

    Args:
        instance: An instance of a dataclass, or the value of a field.

    Returns:
        Nested dictionaries, lists, numbers and texts, from which `read` makes the instance.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Range, write
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> write(Settings(steps=30))
    {'steps': 30}
    """
    if dataclasses.is_dataclass(instance):
        values = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}
        return {name: write(value) for name, value in values.items() if value is not None}
    if isinstance(instance, tuple | list):
        return [write(value) for value in instance]
    return instance
