"""The arguments of a PyTorch module's call as data: those that are not tensors, and their order.

A trace has the tensors of a call by role. To call a module again, its other arguments (numbers,
texts, None, lists of sizes) and the lists that held tensors are needed as well: they are an
attribute of the call's entry, `arguments`, a list of `[name, value]`. A value is a number, a text,
a boolean, None, a list, or one of

    {"tensor": ROLE}   {"tuple": [...]}   {"mapping": {...}}   {"dtype": "float32"}
    {"number": "inf"}  {"object": CLASS}, of which nothing else is known
    {"object": CLASS, "attributes": {...}}  and with "named_tuple" or "mapping" instead
"""

from __future__ import annotations

import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from inspect import getattr_static, signature
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch

from ldmref.trace.torch_operations import name_arguments
from ldmref.trace.torch_values import attributes_of_object, replace_tensors

MOST = 2**12  # values of a list
DEEPEST = 32  # lists within each other


NO_CLASSES: Mapping[str, Any] = MappingProxyType({})


class UnknownArgument(Exception):
    """An argument that was not recorded."""


class _TensorRole:
    """The role of a tensor, in its place."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


def under_declared_names(owner: object, name: str, method: Callable[..., Any]) -> Any:
    """Return a method of an object with the signature that its class declares.

    Programs replace methods by functions of `*args, **kwargs`, or with other names of their own,
    that are called as the method was. The names of the class say what the arguments are.

    Args:
        owner: The object.
        name: The name of the method.
        method: The method, which may be a function that was set on the object.

    >>> import inspect
    >>> class Scheduler:
    ...     def step(self, model_output, timestep, sample): ...
    >>> scheduler = Scheduler()
    >>> scheduler.step = lambda *args: args
    >>> inspect.signature(under_declared_names(scheduler, "step", scheduler.step))
    <Signature (model_output, timestep, sample)>
    """
    declared = getattr_static(type(owner), name, None)
    if declared is None or name not in vars(owner):
        return method

    @wraps(method)
    def run(*args: object, **kwargs: object) -> Any:
        return method(*args, **kwargs)

    own = declared.__get__(owner, type(owner))
    run.__signature__ = signature(own)  # type: ignore[attr-defined]
    return run


def describe_arguments(
    module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]
) -> list[list[Any]]:
    """Return the arguments of a module's call as JSON can hold them.

    Args:
        module: The module.
        args: Its arguments by position.
        kwargs: Its arguments by name.

    >>> import torch
    >>> norm = torch.nn.LayerNorm(4)
    >>> describe_arguments(norm, (torch.zeros(2, 4),), {})
    [['input', {'tensor': 'input'}]]
    """
    return describe_named(name_arguments(module, args, kwargs))


def describe_named(arguments: Mapping[str, Any]) -> list[list[Any]]:
    """Return arguments by name as JSON can hold them."""
    named = replace_tensors(dict(arguments), "", lambda role, x: _TensorRole(role))
    return [[name, _describe(value, ())] for name, value in named.items()]


def _describe(value: Any, around: tuple[int, ...]) -> Any:
    if isinstance(value, _TensorRole):
        return {"tensor": value.name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if id(value) in around or len(around) > DEEPEST:
        return {"object": type(value).__name__}
    return _describe_parts(value, (*around, id(value)))


def _describe_parts(value: Any, around: tuple[int, ...]) -> Any:
    """Return the description of what holds other values."""
    kind = type(value)
    if isinstance(value, Mapping | list | tuple) and len(value) > MOST:
        return {"object": kind.__name__}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        parts = {key: _describe(part, around) for key, part in value.items()}
        plain = kind in (dict, OrderedDict, MappingProxyType)
        return {"mapping": parts} if plain else {"object": kind.__name__, "mapping": parts}
    if kind in (list, tuple, torch.Size):
        listed = [_describe(part, around) for part in value]
        return listed if kind is list else {"tuple": listed}
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        fields = {name: _describe(getattr(value, name), around) for name in names}
        return {"object": kind.__name__, "named_tuple": fields}
    attributes = attributes_of_object(value)
    if attributes is None:
        return {"object": kind.__name__}
    parts = {name: _describe(part, around) for name, part in attributes.items()}
    return {"object": kind.__name__, "attributes": parts}


def restore_arguments(
    described: object,
    read: Callable[[str], torch.Tensor | None],
    classes: Mapping[str, Any] = NO_CLASSES,
) -> dict[str, Any]:
    """Return arguments by name from their description.

    Args:
        described: From `describe_arguments`.
        read: Returns the tensor of a role; None if it was not recorded.
        classes: The classes of objects by name, such as those that the module's code names. An
            object of any other class becomes one with the same attributes.

    Raises:
        UnknownArgument: An argument was not recorded, or the description is none.
    """
    if not isinstance(described, list):
        raise UnknownArgument("its arguments are not described as a list")
    found: dict[str, Any] = {}
    for pair in described:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise UnknownArgument("its arguments are not described as pairs of name and value")
        found[pair[0]] = _Restorer(pair[0], read, classes).restore(pair[1])
    return found


class _Restorer:
    """Restores an argument from its description."""

    def __init__(
        self,
        name: str,
        read: Callable[[str], torch.Tensor | None],
        classes: Mapping[str, Any],
    ):
        self.name = name
        self.read = read
        self.classes = classes

    def restore(self, value: object) -> Any:
        """Return the value of a description."""
        if isinstance(value, list):
            return [self.restore(part) for part in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"tensor": str(role)}:
                tensor = self.read(role)
                if tensor is None:
                    raise UnknownArgument(f"its input {role!r} was not recorded")
                return tensor
            case {"tuple": list(parts)}:
                return tuple(self.restore(part) for part in parts)
            case {"object": str(kind)}:
                return self._restore_object(kind, value)
            case {"mapping": dict(parts)}:
                return {key: self.restore(part) for key, part in parts.items()}
            case {"dtype": str(kind)} if isinstance(getattr(torch, kind, None), torch.dtype):
                return getattr(torch, kind)
            case {"number": "inf" | "-inf" | "nan" as number}:
                return float(number)
        raise UnknownArgument(f"its argument {self.name!r} is described by nothing that is known")

    def _restore_object(self, kind: str, value: Mapping[str, Any]) -> Any:
        found = self.classes.get(kind)
        made = found if isinstance(found, type) else None
        match value:
            case {"attributes": dict(parts)}:
                return _with_attributes(made, self._restore_parts(parts))
            case {"named_tuple": dict(parts)}:
                return _with_fields(made, kind, self._restore_parts(parts))
            case {"mapping": dict(parts)}:
                restored = self._restore_parts(parts)
                with suppress(Exception):  # of any class
                    if made is not None and issubclass(made, Mapping):
                        return made(**restored)
                return restored
        raise UnknownArgument(f"its argument {self.name!r} is a {kind}, which is not recorded")

    def _restore_parts(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        return {str(name): self.restore(part) for name, part in parts.items()}


def _with_attributes(kind: type | None, attributes: Mapping[str, Any]) -> Any:
    """Return an object with some attributes, of a class if it can have them."""
    with suppress(TypeError, AttributeError):
        if kind is not None:
            made = object.__new__(kind)
            for name, part in attributes.items():
                object.__setattr__(made, name, part)
            return made
    return SimpleNamespace(**attributes)


def _with_fields(kind: type | None, name: str, fields: Mapping[str, Any]) -> Any:
    """Return a named tuple, of a class if that has the same fields."""
    if kind is not None and issubclass(kind, tuple) and kind.__dict__.get("_fields") == (*fields,):
        return kind(*fields.values())
    try:
        return namedtuple(name, fields)(*fields.values())  # type: ignore[misc]
    except ValueError as error:
        raise UnknownArgument(f"a {name} has no such fields: {error}") from error
