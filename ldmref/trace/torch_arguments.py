"""The arguments of a PyTorch module's call as data: those that are not tensors, and their order.

A trace has the tensors of a call by role. To call a module again, its other arguments (numbers,
texts, None, lists of sizes) and the lists that held tensors are needed as well: they are an
attribute of the call's entry, `arguments`, a list of `[name, value]`. A value is a number, a text,
a boolean, None, a list, or one of

    {"tensor": ROLE}   {"tuple": [...]}   {"mapping": {...}}   {"dtype": "float32"}
    {"number": "inf"}  {"object": CLASS}, of which nothing else is known
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ldmref.trace.torch_operations import name_arguments

MOST = 2**12  # values of a list
DEEPEST = 32  # lists within each other


class UnknownArgument(Exception):
    """An argument that was not recorded."""


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
    return [[name, _describe(value, name, ())] for name, value in arguments.items()]


def _describe(value: object, role: str, around: tuple[int, ...]) -> Any:
    if isinstance(value, torch.Tensor):
        return {"tensor": role}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    within = id(value) in around or len(around) > DEEPEST
    if within or not isinstance(value, Mapping | list | tuple) or len(value) > MOST:
        return {"object": type(value).__name__}
    around = (*around, id(value))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"mapping": {key: _describe(part, key, around) for key, part in value.items()}}
    if type(value) in (list, tuple, torch.Size):
        parts = [_describe(part, f"{role}.{i}", around) for i, part in enumerate(value)]
        return parts if type(value) is list else {"tuple": parts}
    return {"object": type(value).__name__}


def restore_arguments(
    described: object, read: Callable[[str], torch.Tensor | None]
) -> dict[str, Any]:
    """Return arguments by name from their description.

    Args:
        described: From `describe_arguments`.
        read: Returns the tensor of a role; None if it was not recorded.

    Raises:
        UnknownArgument: An argument was not recorded, or the description is none.
    """
    if not isinstance(described, list):
        raise UnknownArgument("its arguments are not described as a list")
    found: dict[str, Any] = {}
    for pair in described:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise UnknownArgument("its arguments are not described as pairs of name and value")
        found[pair[0]] = _restore(pair[1], pair[0], read)
    return found


def _restore(value: object, name: str, read: Callable[[str], torch.Tensor | None]) -> Any:
    if isinstance(value, list):
        return [_restore(part, name, read) for part in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"tensor": str(role)}:
            tensor = read(role)
            if tensor is None:
                raise UnknownArgument(f"its input {role!r} was not recorded")
            return tensor
        case {"tuple": list(parts)}:
            return tuple(_restore(part, name, read) for part in parts)
        case {"mapping": dict(parts)}:
            return {key: _restore(part, name, read) for key, part in parts.items()}
        case {"dtype": str(kind)} if isinstance(getattr(torch, kind, None), torch.dtype):
            return getattr(torch, kind)
        case {"number": "inf" | "-inf" | "nan" as number}:
            return float(number)
        case {"object": str(kind)}:
            raise UnknownArgument(f"its argument {name!r} is a {kind}, which is not recorded")
    raise UnknownArgument(f"its argument {name!r} is described by nothing that is known")
