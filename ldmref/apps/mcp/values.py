"""The value of a formula, compared with that of another implementation, within limits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np

from ldmref.errors import LdmrefError, UsageError

MAX_NUMBERS = 10_000  # in the arguments of a call, and as a whole number, such as that of steps
MAX_BROADCAST = 1_000_000  # numbers of an array that a formula computes
MAX_VALUES = 10_000  # numbers of an answer


def compare_values(
    name: str, function: Any, arguments: Mapping[str, Any], result: Any
) -> dict[str, Any]:
    """Return the value of a formula and, if `result` is given, the largest difference from it.

    Raises:
        UsageError: The arguments do not fit the function.
    """
    values = {key: to_argument(key, value) for key, value in arguments.items()}
    check_size(values)
    try:
        with np.errstate(all="ignore"):
            computed = function(**values)
        expected = [np.asarray(part, np.float64) for part in split_result(computed)]
    except LdmrefError:
        raise
    except Exception as error:
        message = f"{name} cannot be computed from these arguments: {error}"
        hint = f"the signature is {name}{inspect.signature(function)}"
        raise UsageError(message, code="E-ARGUMENT", hint=hint) from error
    if sum(part.size for part in expected) > MAX_VALUES:
        message = f"the value has more than {MAX_VALUES} numbers"
        raise UsageError(message, code="E-LIMIT", hint="send fewer arguments")
    shown = [to_json(part) for part in expected]
    answer: dict[str, Any] = {"value": shown if len(shown) > 1 else shown[0]}
    if result is not None:
        parts = result if len(expected) > 1 else [result]
        answer["difference"] = [*describe_differences(expected, parts)]
    return answer


def check_size(values: Mapping[str, Any]) -> None:
    """Refuse arguments of many numbers, and few whose shapes multiply when they are broadcast.

    Raises:
        UsageError: There are more numbers than a limit allows.
    """
    arrays = [value for value in values.values() if isinstance(value, np.ndarray)]
    whole = [abs(value) for value in values.values() if isinstance(value, int)]
    if sum(np.size(value) for value in values.values()) > MAX_NUMBERS:
        message = f"the arguments may have {MAX_NUMBERS} numbers in all"
        raise UsageError(message, code="E-LIMIT")
    axes = max((array.ndim for array in arrays), default=0)
    shapes = [(1,) * (axes - array.ndim) + array.shape for array in arrays]
    together = math.prod(max(sizes) for sizes in zip(*shapes, strict=True))
    tables = [array for array in arrays if array.ndim > 1]
    pairs = [a.size * len(b) for a, b in permutations(tables, 2)]  # distances, attention
    squares = [max(array.shape) ** 2 for array in tables]  # covariances
    most = max([together, *pairs, *squares])
    if most * max([1, *whole]) ** (2 if tables else 1) > MAX_BROADCAST:  # enlarged images
        message = f"the arguments make arrays of more than {MAX_BROADCAST} numbers"
        raise UsageError(message, code="E-LIMIT", hint="send fewer numbers, of the same shape")


def to_argument(name: str, value: Any) -> Any:
    """Return a JSON value as an argument: lists become float64 arrays.

    Raises:
        UsageError: It is not a number, a text, or nested lists of numbers of equal lengths, or a
            whole number is larger than `MAX_NUMBERS`.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_NUMBERS:
        raise UsageError(f"{name} may be {MAX_NUMBERS} at most", code="E-LIMIT")
    if not isinstance(value, list):
        return value
    try:
        return np.asarray(value, np.float64)
    except (ValueError, TypeError):
        message = f"{name} must be nested lists of numbers of equal lengths"
        raise UsageError(message, code="E-ARGUMENT") from None


def split_result(computed: Any) -> tuple[Any, ...]:
    """Return the parts of a result."""
    return tuple(computed) if isinstance(computed, tuple) else (computed,)


def to_json(x: np.ndarray) -> Any:
    """Return an array as nested lists, with None for NaN and infinity."""
    numbers = np.array(x, dtype=object)
    numbers[~np.isfinite(x)] = None
    return numbers.tolist()


def describe_differences(expected: list[np.ndarray], parts: Any) -> Iterator[dict[str, Any]]:
    """Yield for each result its largest absolute and relative difference, or the wrong shape."""
    if not isinstance(parts, list) or len(parts) != len(expected):
        raise UsageError(f"result must be a list of {len(expected)} results", code="E-ARGUMENT")
    for right, theirs in zip(expected, parts, strict=True):
        got = np.asarray(to_argument("result", theirs), np.float64)
        if got.shape != right.shape:
            yield {"shape": list(got.shape), "expected_shape": list(right.shape)}
            continue
        with np.errstate(all="ignore"):
            apart = np.abs(got - right)
            relative = apart / np.maximum(np.abs(right), np.finfo(np.float64).tiny)
        yield {
            "largest": to_json(apart.max(initial=0.0)),
            "largest_relative": to_json(relative.max(initial=0.0)),
        }
