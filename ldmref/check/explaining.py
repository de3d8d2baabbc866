"""Name the cause of a failing identity from the calls of the function under test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ldmref.check import causes
from ldmref.check.calls import Call, named_parts
from ldmref.check.comparison import to_host
from ldmref.check.identity import Functions, public
from ldmref.check.made_calls import MadeCall

Arguments = dict[str, Any]


def explain(functions: Functions, calls: Sequence[Call]) -> str:
    """Return the cause of wrong results of one function, as in "this is the result if ..."; or "".

    All calls with wrong results must have the same cause, and a result that is right must be right
    with it: a root that is missing shows nothing where it is 1.
    """
    finished = [call for call in calls if call.finished and not isinstance(call, MadeCall)]
    for name in dict.fromkeys(call.function for call in finished):
        if isinstance(public(name), type):
            continue
        own = [call for call in finished if call.function == name]
        # a function that may do anything is called again: without a cause the report is whole
        with np.errstate(all="ignore"), suppress(Exception):
            if text := _explain(name, getattr(functions, name), own):
                return text
    return ""


def _explain(name: str, theirs: Callable[..., Any], calls: list[Call]) -> str:
    ours = public(name)

    def compute(change: Callable[[Arguments], Arguments]) -> causes.Parts:
        return _parts([(name, ours(**change(call.arguments))) for call in calls])

    got = _parts([(name, call.returned) for call in calls])
    right = compute(dict)
    again = compute(dict)
    if set(got) != set(right) or not all(
        np.array_equal(again[n], y, True) for n, y in right.items()
    ):
        return ""  # a result of another structure, or an argument that has a state
    numbers = [n for n in calls[0].arguments if all(_is_number(c.arguments.get(n)) for c in calls)]
    mistakes = _mistakes(name, calls, numbers, got, right, compute)
    return causes.named(got, right, mistakes) or _of_terms(ours, theirs, calls, numbers)


def _mistakes(
    name: str,
    calls: list[Call],
    numbers: list[str],
    got: causes.Parts,
    right: causes.Parts,
    compute: Callable[[Callable[[Arguments], Arguments]], causes.Parts],
) -> Iterator[causes.Mistake]:
    yield from causes.of_results(right)
    arrays = [n for n in numbers if all(_size(c.arguments[n]) > 1 for c in calls)]
    if arrays:
        first = [to_host(call.arguments[arrays[0]]) for call in calls]
        yield from causes.of_counts(right, {n: first[int(n.partition(".")[0])] for n in right})
    yield from causes.of_missing_reductions(got, right)
    parameters = inspect.signature(public(name)).parameters
    passed = {n for call in calls for n in call.arguments}
    defaults = {
        n: p.default for n, p in parameters.items() if n in passed and p.default is not p.empty
    }
    yield from causes.of_arguments(numbers, compute, defaults)
    inputs = {
        a: {n: to_host(calls[int(n.partition(".")[0])].arguments[a]) for n in right}
        for a in numbers
    }
    yield from causes.of_differences(got, right, inputs)


def _of_terms(
    ours: Callable[..., Any], theirs: Callable[..., Any], calls: list[Call], numbers: list[str]
) -> str:
    """Compare the coefficients of arrays, if both results are sums of their multiples."""
    arrays = [n for n in numbers if all(np.ndim(to_host(c.arguments[n])) > 1 for c in calls)]
    wrong, right = (_coefficients(function, calls, arrays) for function in (theirs, ours))
    return causes.of_terms(wrong, right) if wrong and right else ""


def _coefficients(
    function: Callable[..., Any], calls: list[Call], arrays: list[str]
) -> dict[str, np.ndarray] | None:
    """Return the coefficient of each array, one for each example of each call; None without any."""
    found = {name: [] for name in arrays}
    for call in calls:
        total = 0.0
        for name in arrays:
            # a 1 everywhere, and the other arrays 0, gives the coefficient
            ones = {n: 0.0 * call.arguments[n] + (n == name) for n in arrays}
            y = to_host(function(*(call.arguments | ones).values()))
            x = to_host(call.arguments[name])
            if y.shape != x.shape or np.ptp(y.reshape(len(y), -1), axis=1).any():
                return None
            total = total + y * x
            found[name].append(y.reshape(len(y), -1)[:, 0])
        result = to_host(function(*call.arguments.values()))
        if not np.allclose(total, result, rtol=causes.EXACT, atol=causes.EXACT):
            return None
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _parts(results: list[tuple[str, Any]]) -> dict[str, np.ndarray]:
    """Return the values of all results, called "0.mean" and the like."""
    return {
        f"{i}.{part}": to_host(value)
        for i, (name, result) in enumerate(results)
        for part, value in named_parts(name, result).items()
    }


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one or hasattr(value, "shape")


def _size(value: Any) -> int:
    return int(np.prod(np.shape(value))) if hasattr(value, "shape") else 1
