"""Watch what the functions under test return, to compare it with what ldmref's return.

Calls within calls are left out: another implementation may call a function that it is given in
another order, or less often. Of made functions, iterators and the methods of classes, each result
is a call, or an item of one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ldmref.check.calls import PARTS
from ldmref.check.comparison import as_numpy
from ldmref.check.identity import Functions
from ldmref.check.made_calls import STEP, STEP_RESULT

NUMBERS = "biufc"
Altered = Callable[[str, Any], Any]


def unchanged(name: str, function: object) -> Any:
    """Return the function."""
    return function


class Leaf(NamedTuple):
    """One number or array of a result, as it was when the function returned.

    Args:
        name: Its name among the values of the result; "" for a single one.
        values: Its values on the host, None for anything that is no number or array.
        library: The package of its type, "builtins" for numbers of Python.
    """

    name: str
    values: np.ndarray | None
    library: str = "builtins"


@dataclass
class WatchedCall:
    """A call of a function under test: its name, and the leaves of each result or item."""

    function: str
    items: list[list[Leaf]] = field(default_factory=list)


class WatchedFunctions(Functions):
    """Functions under test that note in `calls` what the functions called `names` return.

    Args:
        functions: The functions.
        names: Names of the functions to watch.
        change: `change(name, function)` replaces a function before it is watched.
    """

    def __init__(
        self,
        functions: Functions,
        names: list[str],
        change: Altered = unchanged,
    ):
        super().__init__()
        self._functions = functions
        self._names = names
        self._change = change
        self._depth = 0
        self.calls: list[WatchedCall] = []
        self.within: list[WatchedCall] = []  # calls within calls, whose order does not count

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._functions, name)
        if name not in self._names:
            return function
        function = self._change(name, function)
        if isinstance(function, type):
            return self._watched_class(name, function)
        return self._watched(name, function)

    def _watched(
        self, name: str, function: Callable[..., Any], is_made: bool = False
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> Any:
            noted = WatchedCall(name)
            (self.within if self._depth else self.calls).append(noted)
            returned = self._inside(function, *args, **kwargs)
            return self._noted(noted, returned, is_made and len(args) == len(STEP))

        return call

    def _inside(self, function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        self._depth += 1
        try:
            return function(*args, **kwargs)
        finally:
            self._depth -= 1

    def _noted(self, call: WatchedCall, returned: Any, of_step: bool) -> Any:
        """Note a result, and return it with its functions and iterators watched."""
        if hasattr(returned, "__next__"):
            return self._watched_items(call, returned)
        if _is_made(returned):
            return self._watched(call.function, returned, is_made=True)
        if isinstance(returned, tuple | list) and returned and all(map(_is_made, returned)):
            return [self._watched(call.function, made, is_made=True) for made in returned]
        call.items.append([*leaves(call.function, returned, of_step)])
        return returned

    def _watched_items(self, call: WatchedCall, items: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                item = self._inside(next, items)
            except StopIteration:
                return
            call.items.append([*leaves("", item)])
            yield item

    def _watched_class(self, name: str, kind: type) -> type:
        methods = {
            attribute: self._watched(name, value)
            for base in reversed(kind.__mro__[:-1])
            for attribute, value in vars(base).items()
            if callable(value) and not attribute.startswith("_") and not isinstance(value, type)
        }
        return type(kind.__name__, (kind,), methods)


def _is_made(value: object) -> bool:
    return callable(value) and not hasattr(value, "dtype") and not isinstance(value, type)


def leaves(function: str, returned: object, of_step: bool = False) -> Iterator[Leaf]:
    """Yield the numbers and arrays of a result; of a step without its history."""
    if not isinstance(returned, tuple | list):
        yield _leaf("", returned)
        return
    items = returned[:2] if of_step and len(returned) == len(STEP_RESULT) else returned
    names = STEP_RESULT if of_step else getattr(returned, "_fields", PARTS.get(function, ()))
    names = names if len(names) >= len(items) else map(str, itertools.count())
    for name, item in zip(names, items, strict=False):
        yield _leaf(name, item)


def _leaf(name: str, value: object) -> Leaf:
    library = type(value).__module__.partition(".")[0]
    if not hasattr(value, "shape") and not isinstance(value, int | float | complex):
        return Leaf(name, None, library)
    try:
        host = as_numpy(value)
    except Exception:  # another library may raise anything
        return Leaf(name, None, library)
    return Leaf(name, host if host.dtype.kind in NUMBERS else None, library)
