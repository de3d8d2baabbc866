"""Functions whose results are changed on their way out, for the tests of `ldmref check`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from ldmref.check.identity import Identity, public


def wrapped_function(function: Any, change: Callable[[Any], Any]) -> Any:
    """Pass every result of the function through `change`: also those of closures and methods.

    `change` is called with the items of tuples and iterators, and with arrays and numbers.
    """

    def outward(value: Any) -> Any:
        if isinstance(value, tuple):
            items = [outward(v) for v in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if hasattr(value, "__next__"):
            return (outward(v) for v in value)
        if callable(value) and not hasattr(value, "dtype"):
            return lambda *args, **kwargs: outward(value(*args, **kwargs))
        return change(value)

    if isinstance(function, type):
        return _subclass(function, outward)
    return lambda *args, **kwargs: outward(function(*args, **kwargs))


def _subclass(kind: type, outward: Callable[[Any], Any]) -> type:
    """Return a subclass whose public methods are wrapped."""
    methods = {
        name: (lambda f: lambda self, *a, **k: outward(f(self, *a, **k)))(value)
        for base in reversed(kind.__mro__[:-1])
        for name, value in vars(base).items()
        if callable(value) and not name.startswith("_")
    }
    return type(kind.__name__, (kind,), methods)


def module_of(functions: dict[str, Any]) -> ModuleType:
    """Return a module with these functions, as `--against` loads it."""
    module = ModuleType("other")
    vars(module).update(functions)
    return module


def functions_of(identity: Identity) -> dict[str, Any]:
    """Return ldmref's own functions that an identity uses."""
    return {name: public(name) for name in (identity.function, *identity.uses)}
