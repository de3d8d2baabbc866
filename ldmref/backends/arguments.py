"""The contract of `Backend.compile`, and the arguments of a compiled network split in two.

`ops.compile(network, params)` returns a function of the arguments of `network(ops, params, ...)`
after the parameters. A model calls each of its networks through such a function.

The caller gives, by position or by name:

- arrays of the backend, None, and tuples and NamedTuples of these, also nested;
- static arguments, which select the graph to compile: numbers, strings, frozen dataclasses such as
  `UNetConfig`, and tuples of these. They are hashable and compare by value.

While `ops.compiles` is true, the caller never gives a `CachedContext`. It does not change the
parameters; other parameters are compiled again.

The function returns what `network` returns: an array, or a tuple or NamedTuple of arrays, which
later calls do not change and the caller does not write to. It may compile at the first call of each
combination of static arguments and shapes; a run uses few combinations many times. It is called
from several threads, inside `ops.inference()`. It need not be picklable: models forget their
compiled networks when they are pickled or copied.

`split_arrays` separates the two kinds of arguments, and `fill` joins them again:

    arrays, template = split_arrays(args, kwargs)   # template is hashable
    args, kwargs = fill(template, other_arrays)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import Any

from ldmref.math.arrays import Array


class ArraySlot(Enum):
    """The place of an array in a template."""

    ARRAY = "array"


@dataclass(frozen=True)
class Template:
    """The arguments of a call with `ArraySlot.ARRAY` instead of each array; hashable.

    Args:
        args: The positional arguments.
        kwargs: The names and values of the other arguments, sorted by name.
    """

    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()


def map_leaves(function: Callable[[Any], Any], value: object) -> Any:
    """Apply `function` to everything in nested tuples and NamedTuples that is not a tuple."""
    if isinstance(value, tuple):
        items = [map_leaves(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return function(value)


def map_arrays(function: Callable[[Array], Any], value: object) -> Any:
    """Apply `function` to every array in nested tuples and NamedTuples; keep everything else."""

    def apply(leaf: Any) -> Any:
        return function(leaf) if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else leaf

    return map_leaves(apply, value)


def split_arrays(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> tuple[list[Array], Template]:
    """Return all arrays of a call in order, and the template that remains.

    Args:
        args: Positional arguments: arrays of any shape, None, static values, and tuples of these.
        kwargs: Arguments by name. None: there are none.

    Returns:
        (the arrays, the template); templates of calls that differ only in their arrays are equal.

    Raises:
        TypeError: An argument is neither an array, nor None, nor a static value (a number, a
            string, a frozen dataclass), nor a tuple of these.

    >>> import numpy as np
    >>> from ldmref.backends import split_arrays
    >>> arrays, template = split_arrays((3, np.zeros(2)), {"control": (np.ones(1), None)})
    >>> len(arrays), template == split_arrays((3, np.ones(5)), {"control": (np.zeros(1), None)})[1]
    (2, True)
    """
    arrays: list[Array] = []

    def take(array: Array) -> ArraySlot:
        arrays.append(array)
        return ArraySlot.ARRAY

    template = Template(
        map_arrays(take, tuple(args)),
        tuple((name, map_arrays(take, value)) for name, value in sorted((kwargs or {}).items())),
    )
    _require_static((template.args, tuple(value for _, value in template.kwargs)))
    return arrays, template


def fill(template: Template, arrays: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `(args, kwargs)` of a template, with its slots filled in order.

    Args:
        template: The template of a call, from `split_arrays`.
        arrays: The arrays, or other values, in the order of `split_arrays`.

    Returns:
        (args, kwargs) of the call.

    >>> from ldmref.backends import fill
    >>> from ldmref.backends.arguments import ArraySlot, Template
    >>> fill(Template((2, ArraySlot.ARRAY), (("t", ArraySlot.ARRAY),)), ["x", "y"])
    ((2, 'x'), {'t': 'y'})
    """
    rest = iter(arrays)

    def put(leaf: object) -> Any:
        return next(rest) if leaf is ArraySlot.ARRAY else leaf

    args = map_leaves(put, template.args)
    return args, {name: map_leaves(put, value) for name, value in template.kwargs}


def _require_static(value: object) -> None:
    if isinstance(value, tuple):
        for item in value:
            _require_static(item)
        return
    known = value is None or isinstance(value, bool | int | float | str | Enum)
    if not known and not (is_dataclass(value) and isinstance(value, Hashable)):
        kind = type(value).__name__
        raise TypeError(
            f"a compiled network takes arrays, None, numbers, strings, frozen dataclasses and "
            f"tuples of these, not {kind}"
        )
