"""Arguments whose axes stand against the wrong ones: a hint, and calls with them reshaped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ldmref.check.axes import Lengths
from ldmref.check.calls import Call, named_arguments, named_parts, per_example
from ldmref.check.comparison import to_host
from ldmref.check.identity import Functions, public
from ldmref.check.made_calls import MadeCall


def shape_hint(call: Call) -> str:
    """Return a hint for arguments whose axes stand against other axes of a larger array.

    These are one number per example, (n,), beside examples, (n, ...), and one row per example,
    (n, d), beside rows of each, (n, l, d).
    """
    numbers = _per_example(call)
    found = numbers or [name for name in call.arguments if reshaped(call.arguments, name)]
    if not found:
        return ""
    name = found[0]
    shape = _shape(call.arguments[name])
    names = " and ".join(found)
    goal, other = reshaped(call.arguments, name) or ((), "")
    there = f"{other} {_shape(call.arguments[other])}" if other else ""
    against = (
        f"without a reshape its axis 0 stands against axis {len(goal) - len(shape)}, not axis 0"
    )
    if not numbers:
        each = f"{names} {'is' if len(found) == 1 else 'are'} {shape}, one row per example"
        return f"hint: {each}, beside {there}; {against}: reshape to {goal}"
    beside = f" beside {there}; {against}" if other else ""
    here = f", here {goal}," if other else ""
    return (
        f"hint: {names} may be (n,), one number per example, as well as a scalar; "
        f"here {shape}{beside}: reshape to (n, 1, ...){here} to multiply an example's axes"
    )


def _per_example(call: Call) -> list[str]:
    """Return the arguments that are one number per example."""
    allowed = per_example(call.function)
    return [
        name
        for name, value in call.arguments.items()
        if len(_shape(value)) == 1 and (name in allowed or name in ("t", "sigma"))
    ]


def reshaped(arguments: dict[str, Any], name: str) -> tuple[Lengths, str] | None:
    """Return the shape in which an argument meets a larger one's axes, and the larger one's name.

    >>> import numpy as np
    >>> reshaped({"x": np.zeros((3, 2, 4)), "s": np.zeros(3)}, "s")
    ((3, 1, 1), 'x')
    >>> reshaped({"x": np.zeros((3, 2, 4)), "scale": np.zeros((3, 4))}, "scale")
    ((3, 1, 4), 'x')
    """
    shape = _shape(arguments[name])
    for other, value in arguments.items():
        full = _shape(value)
        more = len(full) - len(shape)
        if not shape or more < 1 or full[0] != shape[0] or full[more:] == shape:
            continue
        if shape[1:] == full[more + 1 :]:
            return (shape[0], *(1,) * more, *shape[1:]), other
    return None


def _shape(value: Any) -> Lengths:
    return tuple(int(length) for length in getattr(value, "shape", ()))


def is_cured_by_a_reshape(call: Call, function: Callable[..., Any]) -> bool:
    """Return whether a function that fails by shape returns the right shapes for other arguments.

    These are reshaped, or for one number per example a single number. A function that was made by
    another one cannot be called again: True.
    """
    if isinstance(call, MadeCall):
        return True
    numbers = {name: call.arguments[name].reshape(-1)[0] for name in _per_example(call)}
    right = _shapes(call.function, public(call.function), call.arguments)
    reshaping = _reshaping(call.function, function)
    return right is not None and right in (
        _shapes(call.function, reshaping, call.arguments),
        _shapes(call.function, function, call.arguments | numbers),
    )


def _shapes(
    name: str, function: Callable[..., Any], arguments: dict[str, Any]
) -> dict[str, Lengths] | None:
    """Return the shapes of a function's results by name; None if it raises."""
    try:
        parts = named_parts(name, function(*arguments.values()))
        return {part: np.shape(to_host(value)) for part, value in parts.items()}
    except Exception:  # a function under test may fail in any way
        return None


def with_reshaped_arguments(functions: Functions, names: list[str]) -> Functions:
    """Return functions that get their arguments in shapes whose axes fit."""

    class Reshaping(Functions):
        def __getattr__(self, name: str) -> Any:
            function = getattr(functions, name)
            return _reshaping(name, function) if name in names else function

    return Reshaping()


def _reshaping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> Any:
        named = named_arguments(name, args, kwargs)
        found = {argument: reshaped(named, argument) for argument in named}
        values: dict[str, Any] = {
            argument: named[argument].reshape(goal[0]) if goal else named[argument]
            for argument, goal in found.items()
        }
        return function(*values.values())

    return call
