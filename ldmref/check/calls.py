"""The calls of a failing case, as text: `q_sample(x0=[0.126, ...] (3, 4), alpha_bar=0.3, ...)`."""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable
from typing import Any

from ldmref.check.comparison import to_host
from ldmref.check.identity import Functions, public


class RecordedFunctions(Functions):
    """Functions under test that note, in `calls`, how those called `names` are called."""

    def __init__(self, functions: Functions, names: list[str]):
        super().__init__()
        self._functions, self._names = functions, names
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._functions, name)
        if name not in self._names:
            return function

        def record(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(call_text(name, args, kwargs))
            return function(*args, **kwargs)

        return record if isinstance(function, type) else functools.wraps(function)(record)


def call_text(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """One call, each argument named as in ldmref's function."""
    names = list(inspect.signature(public(name)).parameters)
    named = [*zip(names, args, strict=False), *kwargs.items()]
    return f"{name}({', '.join(f'{key}={value_text(value)}' for key, value in named)})"


def value_text(value: Any) -> str:
    """A number as it is; the first numbers of an array, and its shape; the name of a function.

    >>> import numpy as np
    >>> value_text(0.1), value_text(np.asarray([0.5, 2.0])), value_text(np.ones((2, 3)))
    ('0.1', '[0.5, 2]', '[1, 1, 1, 1, ...] (2, 3)')
    """
    if hasattr(value, "shape") and value.shape != ():
        flat = to_host(value).ravel()
        numbers = ", ".join(f"{x:.6g}" for x in flat[:4])
        if len(value.shape) == 1 and flat.size <= 4:
            return f"[{numbers}]"
        return f"[{numbers}{', ...' if flat.size > 4 else ''}] {tuple(value.shape)}"
    if isinstance(value, Callable):
        return getattr(value, "__name__", type(value).__name__)
    return repr(float(value)) if hasattr(value, "shape") else reprlib.repr(value)
