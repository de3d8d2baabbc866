"""The part of a definition that leads to an array, as a graph of operations.

A part of a network is computed once with arrays that note what is done to them: not only its layers
but also sums, products and slices. Any operation may then read another array, be left out or be
applied elsewhere (`ldmref.locate.faults.definition`), and only what follows from it is computed
again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall

Read = Callable[[int], np.ndarray]  # the value of an operation by its number
NewValue = Callable[[Read], np.ndarray]
SAME_NUMBERS = ("reshape", "transpose", "astype", "copy", "squeeze", "swapaxes", "expand_dims")
METHODS = (
    *SAME_NUMBERS, "sum", "mean", "max", "min", "repeat", "ravel", "flatten", "clip", "__getitem__",
)  # fmt: skip
INPUT, RECORDED = "an input", "recorded"  # kinds of what no operation of the part made
READER = "reader"  # the kind of what reads the target


@dataclass
class NotedOperation:
    """An operation of a part.

    Attributes:
        kind: What it is: "linear", "add", "getitem", or `INPUT` or `RECORDED`.
        name: The layer, or that around an operation which is none.
        inputs: The numbers of the operations whose results it reads.
        compute: Computes its result from theirs.
        value: Its result.
        fixed: Whether the result is what a port recorded, whatever it reads.
        is_layer: Whether it has a name of its own.
        constants: What it reads beside arrays that are computed: numbers and slices.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    compute: Callable[[Sequence[np.ndarray]], Any] = field(repr=False)
    value: Any = field(repr=False)
    fixed: bool = False
    is_layer: bool = False
    constants: tuple[Any, ...] = ()


class PartGraph:
    """The operations of a part of a network, in the order in which they are computed.

    Attributes:
        operations: All of them; a number is a place in this list.
        ends: By the number of an operation, the layers of several operations that return it.
        target: The number of the operation whose result was recorded. None: it was not reached.
        around: Returns the name of the layer in which operations are computed.
    """

    def __init__(self, around: Callable[[], str]):
        self.operations: list[NotedOperation] = []
        self.ends: dict[int, list[str]] = {}
        self.target: int | None = None
        self.around = around

    # -- noting -----------------------------------------------------------------------------------

    def add(self, operation: NotedOperation) -> Any:
        """Note an operation, and return its result as an array that notes what is done to it."""
        number = len(self.operations)
        self.operations.append(operation)
        value = operation.value
        if isinstance(value, (tuple, list)):
            return type(value)(self._part(number, i, x) for i, x in enumerate(value))
        return self._noted(value, number)

    def _part(self, number: int, part: int, value: object) -> Any:
        compute = lambda arrays: arrays[0][part]  # noqa: E731
        name = self.operations[number].name
        return self.add(NotedOperation("part", name, (number,), compute, value, constants=(part,)))

    def _noted(self, value: object, number: int) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        found = value.view(Noted)
        found.graph, found.number = self, number
        return found

    def constant(self, x: object, kind: str, name: str, inputs: Sequence[int | None] = ()) -> Any:
        """Return an array that no operation of the part makes; others as they are.

        Args:
            x: The array.
            kind: `INPUT` or `RECORDED`.
            name: The role, or the layer of which it was recorded.
            inputs: What the layer reads.
        """
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            return x
        known = tuple(i for i in inputs if i is not None)
        return self.add(NotedOperation(kind, name, known, lambda arrays: plain(x), plain(x), True))

    def close(self, call: LayerCall, role: str) -> None:
        """Add what reads the target, a role of a layer or "" for its output, as the last one."""
        assert self.target is not None
        inputs, value = (self.target,), self.value(self.target)
        constants = (call.kind, role)
        self.operations.append(
            NotedOperation(READER, call.name, inputs, lambda x: x[0], value, constants=constants)
        )
        self.target = len(self.operations) - 1

    def number_of(self, x: object) -> int | None:
        """Return the number of the operation that made an array; None: none of this part did."""
        return x.number if isinstance(x, Noted) and x.graph is self and x.number >= 0 else None

    def note_function(
        self, kind: str, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Compute a function of arrays, and note it."""
        found: list[Noted] = []
        plain_args, plain_kwargs = _replace((args, dict(kwargs)), lambda x: _collect(found, x))
        value = function(*plain_args, **plain_kwargs)
        known = [x for x in found if self.number_of(x) is not None]
        if not known:
            return value
        numbers = {id(x): x.number for x in known}
        order = tuple(dict.fromkeys(numbers.values()))

        def compute(arrays: Sequence[np.ndarray]) -> Any:
            by_number = dict(zip(order, arrays, strict=True))
            take = lambda x: by_number.get(numbers.get(id(x), -1), plain(x))  # noqa: E731
            a, k = _replace((args, dict(kwargs)), take)
            return function(*a, **k)

        constants = tuple(x for x in args if not isinstance(x, Noted))
        return self.add(
            NotedOperation(kind, self.around(), order, compute, value, constants=constants)
        )

    def rewrite(self, x: Noted, key: Any, value: object) -> None:
        """Write into an array: what was read of it before is kept as it was."""
        number = self.number_of(x)
        if number is not None:
            self.operations[number].value = plain(x).copy()
        plain(x)[key] = plain(value) if isinstance(value, np.ndarray) else value
        kept = plain(x).copy()
        name = self.around()
        x.number = len(self.operations)
        self.operations.append(NotedOperation(RECORDED, name, (), lambda arrays: kept, kept, True))

    # -- reading ----------------------------------------------------------------------------------

    @cached_property
    def cone(self) -> tuple[int, ...]:
        """The operations that lead to the target, in the order of computing."""
        return self.before(self.target) if self.target is not None else ()

    def before(self, number: int) -> tuple[int, ...]:
        """Return the operations that lead to one, and it, in the order of computing."""
        found, left = {number}, [number]
        while left:
            operation = self.operations[left.pop()]
            for i in () if operation.fixed else operation.inputs:
                if i not in found:
                    found.add(i)
                    left.append(i)
        return tuple(sorted(found))

    @cached_property
    def readers(self) -> dict[int, list[tuple[int, int]]]:
        """By number, what reads the result of an operation: number and place of its input."""
        found: dict[int, list[tuple[int, int]]] = {}
        for number, operation in enumerate(self.operations):
            for place, i in enumerate(operation.inputs):
                found.setdefault(i, []).append((number, place))
        return found

    def value(self, number: int) -> np.ndarray:
        """Return the result of an operation."""
        return self.operations[number].value

    def shape(self, number: int) -> tuple[int, ...]:
        """Return the shape of the result of an operation; () if it returns several arrays."""
        return shape_of(self.value(number))

    def evaluate(
        self, results: Mapping[int, NewValue], inputs: Mapping[tuple[int, int], NewValue]
    ) -> np.ndarray:
        """Return the target with changes.

        Args:
            results: By the numbers of operations, what they return instead.
            inputs: By the numbers of operations and the places of their inputs, what they read
                instead.

        Raises:
            ValueError: The arrays do not fit each other.
        """
        assert self.target is not None
        changed: dict[int, np.ndarray] = {}

        def read(number: int) -> np.ndarray:
            return changed[number] if number in changed else self.value(number)

        begin = min((*results, *(number for number, _ in inputs)), default=0)
        for number in self.cone[bisect_left(self.cone, begin) :]:
            operation = self.operations[number]
            if number in results:
                changed[number] = results[number](read)
                continue
            own = any((number, place) in inputs for place in range(len(operation.inputs)))
            if own or (not operation.fixed and not changed.keys().isdisjoint(operation.inputs)):
                arrays = [
                    inputs[number, place](read) if (number, place) in inputs else read(i)
                    for place, i in enumerate(operation.inputs)
                ]
                changed[number] = operation.compute(arrays)
        return read(self.target)


class Noted(np.ndarray):
    """An array of which a graph knows what made it."""

    graph: PartGraph | None
    number: int

    def __array_finalize__(self, obj: object) -> None:
        self.graph = getattr(obj, "graph", None)
        self.number = -1

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        graph = _graph_of(args)
        out = kwargs.pop("out", None)
        function = getattr(ufunc, method)
        if graph is None or (out is not None and not isinstance(out[0], Noted)):
            args, kwargs = _replace((args, kwargs), plain)
            more = {} if out is None else {"out": tuple(map(plain, out))}
            return function(*args, **kwargs, **more)
        kind = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        result = graph.note_function(kind, function, args, kwargs)
        if out is None:
            return result
        (into,) = out
        before = graph.number_of(into)
        if before is not None:
            graph.operations[before].value = plain(into).copy()
        plain(into)[...] = plain(result)
        into.graph, into.number = graph, result.number
        return into

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        graph = _graph_of((args, kwargs))
        if graph is None:
            args, kwargs = _replace((args, kwargs), plain)
            return func(*args, **kwargs)
        return graph.note_function(func.__name__, func, args, kwargs)

    def __setitem__(self, key: Any, value: object) -> None:
        if self.graph is None:
            plain(self)[key] = value
        else:
            self.graph.rewrite(self, key, value)

    @property
    def T(self) -> Any:
        """The array with its axes reversed."""
        return self.transpose()

    @property
    def mT(self) -> Any:
        """The array with its last two axes exchanged."""
        return self.swapaxes(-1, -2)


def _method(name: str) -> Callable[..., Any]:
    own = getattr(np.ndarray, name)

    def run(self: Noted, *args: Any, **kwargs: Any) -> Any:
        if self.graph is None:
            return own(plain(self), *args, **kwargs)
        return self.graph.note_function(name.strip("_"), own, (self, *args), kwargs)

    run.__name__ = name
    return run


for _name in METHODS:
    if hasattr(np.ndarray, _name):
        setattr(Noted, _name, _method(_name))


def shape_of(x: object) -> tuple[int, ...]:
    """Return the shape of an array; () for anything else, such as a tuple of arrays."""
    return getattr(x, "shape", ())


def plain(x: Any) -> Any:
    """Return an array as one that notes nothing; other objects as they are."""
    return x.view(np.ndarray) if isinstance(x, Noted) else x


def _collect(found: list[Noted], x: Noted) -> np.ndarray:
    found.append(x)
    return plain(x)


def _graph_of(args: object) -> PartGraph | None:
    return next((x.graph for x in _arrays_in(args) if x.graph is not None), None)


def _arrays_in(x: object) -> Iterator[Noted]:
    if isinstance(x, Noted):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from _arrays_in(part)
    elif isinstance(x, dict):
        yield from _arrays_in([*x.values()])


def _replace(x: Any, take: Callable[[Noted], Any]) -> Any:
    """Return nested arguments with all noted arrays replaced."""
    if isinstance(x, Noted):
        return take(x)
    if isinstance(x, (tuple, list)):
        return type(x)(_replace(part, take) for part in x)
    if isinstance(x, dict):
        return {key: _replace(part, take) for key, part in x.items()}
    return x
