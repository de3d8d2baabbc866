"""The arrays in the arguments and results of functions and modules of any framework.

Programs pass arrays by themselves, in lists, tuples and mappings, and in objects: dataclasses,
named tuples, results of transformers and diffusers, and plain objects with attributes. All of these
are searched. What is neither one of them nor a plain value is named by `find_unread`.
"""

from __future__ import annotations

import copy
import enum
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

DEEPEST = 32  # objects within each other
CACHE = "Cache"  # the ending of classes of transformers that keep keys and values between calls
# Values without arrays, and objects whose arrays are no arguments or results.
PLAIN = (
    type(None), bool, int, float, complex, str, bytes, slice, range, enum.Enum, np.generic, type,
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
    functools.partial,
)  # fmt: skip

ArrayChange = Callable[[str, Any], Any]


class ArraySearch:
    """Finds the arrays of a framework in values.

    Args:
        arrays: The classes of its arrays.
        plain: Its classes that hold no arrays which are arguments or results: number formats,
            devices, modules.
    """

    def __init__(self, arrays: tuple[type, ...], plain: tuple[type, ...] = ()):
        self.arrays = arrays
        self.plain = (*PLAIN, *plain)

    def find(self, value: object, role: str) -> Iterator[tuple[str, Any]]:
        """Yield the arrays in an argument or a result, with a role for each.

        The parts of a mapping, such as arguments by name, are called by their keys, those of an
        object by its attributes, those of a tuple `ROLE.0`, `ROLE.1`. A second array of one role is
        called by its path, as in `ROLE.1.KEY`. A list or an object that holds itself is searched
        once.

        Args:
            value: The argument or result.
            role: Its role.
        """
        found: list[tuple[str, Any]] = []

        def keep(name: str, x: Any) -> Any:
            found.append((name, x))
            return x

        _Walk(self, keep).visit(value, role, role, ())
        yield from found

    def replace(self, value: object, role: str, change: ArrayChange) -> Any:
        """Return an argument or a result with other arrays; what holds none stays the same object.

        Args:
            value: The argument or result.
            role: Its role.
            change: Returns another array, or the same, from the role of each as `find` has it.
        """
        return _Walk(self, change).visit(value, role, role, ())

    def find_unread(self, value: object, role: str) -> Iterator[tuple[str, str]]:
        """Yield the path and the class of each part of a value in which no array can be found.

        Numbers, texts, functions and the like hold no arrays and are not named, nor are the caches
        of transformers, which hold what recorded layers returned.

        Args:
            value: The argument or result.
            role: Its role.
        """
        search = _Walk(self, lambda name, x: x)
        search.visit(value, role, role, ())
        yield from search.unread

    def attributes_of(self, value: object) -> dict[str, Any] | None:
        """Return the attributes of an object that may hold arrays; None for any other value.

        Those of `__dict__` and `__slots__` are read; no property is computed.
        """
        kind = type(value)
        package = kind.__module__.partition(".")[0]
        standard = package in sys.stdlib_module_names and package not in ("__main__", "types")
        known = (*self.plain, *self.arrays, np.ndarray)
        if standard or isinstance(value, known) or _is_cache(value):
            return None
        slots: list[str] = []
        for base in kind.__mro__:
            own = vars(base).get("__slots__", ())
            slots += [own] if isinstance(own, str) else own
        names = [_mangled(kind, name) for name in slots if name not in ("__dict__", "__weakref__")]
        found = {name: getattr(value, name) for name in names if hasattr(value, name)}
        own = getattr(value, "__dict__", None)
        if own is None and not names:
            return None
        found |= dict(own or {})
        return found or None  # all that it has may be its class's, which a copy would not have


def _mangled(kind: type, name: str) -> str:
    """Return the name under which a slot is stored: that of `__x` has the class in front."""
    if not name.startswith("__") or name.endswith("__"):
        return name
    owner = next(base for base in kind.__mro__ if name in vars(base).get("__slots__", ()))
    return f"_{owner.__name__.lstrip('_')}{name}"


def _is_cache(value: object) -> bool:
    kinds = type(value).__mro__
    ours = [kind for kind in kinds if kind.__module__.partition(".")[0] == "transformers"]
    return any(kind.__name__.endswith(CACHE) for kind in ours)


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


class _Walk:
    """Visits the arrays in a value in order, and returns the value with what becomes of them."""

    def __init__(self, search: ArraySearch, change: ArrayChange):
        self.search = search
        self.change = change
        self.unread: list[tuple[str, str]] = []
        self._taken: set[str] = set()
        self._opened: dict[int, tuple[object, Any]] = {}  # objects, and what becomes of them

    def visit(self, value: Any, role: str, path: str, around: tuple[int, ...]) -> Any:
        """Return a part of the value.

        Args:
            value: The part.
            role: Its role.
            path: Its path, with the names of all that it is in.
            around: The ids of what it is in.
        """
        if isinstance(value, self.search.arrays):
            return self.change(self._name(role, path), value)
        if isinstance(value, self.search.plain) or _is_cache(value) or id(value) in around:
            return value
        if len(around) > DEEPEST:
            self.unread.append((path, type(value).__name__))
            return value
        inside = (*around, id(value))
        if isinstance(value, Mapping):
            return self._visit_mapping(value, path, inside)
        if isinstance(value, list | tuple):
            return self._visit_list(value, role, path, inside)
        return self._visit_object(value, path, inside)

    def _name(self, role: str, path: str) -> str:
        """Return the name of an array: its role, or its path where the role is taken."""
        name = role if role not in self._taken else path
        number = 1
        while name in self._taken:
            number += 1
            name = f"{path}.{number}"
        self._taken.add(name)
        return name

    def _visit_mapping(self, value: Mapping[Any, Any], path: str, inside: tuple[int, ...]) -> Any:
        parts = {k: self.visit(x, str(k), _join(path, k), inside) for k, x in value.items()}
        other = {key: part for key, part in parts.items() if part is not value[key]}
        if not other:
            return value
        if isinstance(value, types.MappingProxyType):
            return types.MappingProxyType(parts)
        changed: Any = copy.copy(value)
        for key, part in other.items():
            changed[key] = part
        return changed

    def _visit_list(self, value: Any, role: str, path: str, inside: tuple[int, ...]) -> Any:
        listed = [
            self.visit(part, f"{role}.{i}", _join(path, i), inside) for i, part in enumerate(value)
        ]
        if all(new is old for new, old in zip(listed, value, strict=True)):
            return value
        return type(value)(*listed) if hasattr(value, "_fields") else type(value)(listed)

    def _visit_object(self, value: Any, path: str, inside: tuple[int, ...]) -> Any:
        if id(value) in self._opened:
            return self._opened[id(value)][1]
        attributes = self.search.attributes_of(value)
        if attributes is None:
            self.unread.append((path, type(value).__name__))
            return value
        self._opened[id(value)] = value, value
        parts = {k: self.visit(x, k, _join(path, k), inside) for k, x in attributes.items()}
        other = {key: part for key, part in parts.items() if part is not attributes[key]}
        if not other:
            return value
        changed = copy.copy(value)
        for name, part in other.items():
            object.__setattr__(changed, name, part)  # also of a frozen dataclass
        self._opened[id(value)] = value, changed
        return changed
