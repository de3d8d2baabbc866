"""The tool `check_formula`: a formula, its identities, and the values of another implementation."""

from __future__ import annotations

import importlib
import inspect
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from ldmref.declare import Check, Doc, Range
from ldmref.errors import LdmrefError, UsageError, did_you_mean, short_repr

if TYPE_CHECKING:
    from ldmref.check import CheckResult, Identity

MAX_CASES = 1000
DESCRIPTION = (
    "Verify a formula of diffusion models. Returns its definition in LaTeX with its source and the "
    "identities that it obeys, each checked against an independent oracle. With `arguments`: the "
    "reference value; with `result` also: the error of somebody else's value."
)


def accept(name: str, value: object) -> Any:
    """Return a value of any type; it is checked together with the function."""
    return value


def check_arguments(name: str, value: object) -> Any:
    """Return arguments by name.

    Raises:
        UsageError: The value is not a mapping.
    """
    if value is not None and not isinstance(value, Mapping):
        raise UsageError(f"{name} must be an object, not {short_repr(value)}", code="E-USAGE")
    return value


@dataclass(frozen=True)
class FormulaRequest:
    """The arguments of the tool `check_formula`."""

    name: Annotated[
        str,
        Doc(
            "A function of ldmref.math or ldmref.samplers: q_posterior, karras_sigmas, "
            "classifier_free_guidance, kl_normal, x0_from_v, ..."
        ),
    ]
    arguments: Annotated[
        Mapping[str, Any] | None,
        Check(check_arguments, {"type": "object"}),
        Doc(
            "Arguments by name, as numbers and nested lists: the answer has the value of the "
            "formula in float64."
        ),
    ] = None
    result: Annotated[
        Any,
        Check(accept, {}),
        Doc(
            "The value that another implementation gives for these arguments, as a number or "
            "nested lists (for several results, a list of them): the answer has its error."
        ),
    ] = None
    cases: Annotated[int, Range(1, MAX_CASES), Doc("Random inputs for each identity.")] = 20
    hard: Annotated[
        bool,
        Doc(
            "Also check the edges of the function's range (alpha-bar near 0 and 1, equal "
            "Gaussians, tails, ...), where naive code loses its digits."
        ),
    ] = False


@dataclass(frozen=True)
class FormulaOrCodeRequest(FormulaRequest):
    """The arguments of the tool `check_formula` where the client may send code."""

    code: Annotated[
        str | None,
        Doc(
            "Python source that defines the function under its name here. It is run on this "
            "machine, in a process of its own that ends after two minutes, and replaces ldmref's "
            "function in all identities."
        ),
    ] = None


def check_formula(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    result: object = None,
    cases: int = 20,
    code: str | None = None,
    hard: bool = False,
) -> dict[str, Any]:
    """Return the definition of a formula, its identities and, on request, values of it.

    Args:
        name: Name in `ldmref.math` or `ldmref.samplers`.
        arguments: Arguments by name, numbers and nested lists. None: no value is computed.
        result: Value of another implementation for the arguments. None: nothing is compared.
        cases: Number of random inputs per identity.
        code: Source of another implementation, which is run. None: ldmref's is checked.
        hard: Whether to also check the edges of the function's range.

    Returns:
        `name`, `signature`, `formula` (LaTeX), `source`, `documentation`; with `arguments`, `value`
        and, with `result`, `difference`; the verdict of each of the `identities`, and of all:
        `holds`.

    Raises:
        UsageError: The name is unknown, or arguments do not fit the function.
        InputError: `code` cannot be imported.

    >>> from ldmref.apps.mcp import check_formula
    >>> check_formula("snr", arguments={"alpha_bar": 0.8}, cases=2)["holds"]
    True
    """
    from ldmref.backends import get_backend
    from ldmref.check import load_implementation, run
    from ldmref.check.identity import formula_of, public, source_of

    require_formula(name)
    if result is not None and arguments is None:
        raise UsageError("result needs the arguments that gave it", code="E-USAGE")
    function = public(name)
    answer: dict[str, Any] = {
        "name": name,
        "signature": f"{name}{inspect.signature(function)}",
        "formula": formula_of(name),
        "source": source_of(name),
        "documentation": inspect.getdoc(function) or "",
    }
    if arguments is not None:
        answer |= compare_values(name, function, arguments, result)
    backend = get_backend("numpy", dtype="float64")
    against = None
    if code is not None:
        against = import_code(code, load_implementation)
        if not callable(getattr(against, name, None)):
            raise UsageError(f"the code does not define a function {name}", code="E-USAGE")
    answer["identities"] = [
        show_identity(result)
        for identity in find_identities(name, hard)
        for result in run(backend, against=against, cases=cases, only=identity.name, hard=hard)
        if result.identity == identity.name
    ]
    answer["holds"] = all(row["verdict"] == "ok" for row in answer["identities"])
    return answer


def find_identities(name: str, hard: bool = False) -> list[Identity]:
    """Return the identities about a function, or those that use it if none is about it alone."""
    from ldmref.check import identities

    known = identities(hard)
    about = [identity for identity in known if identity.function == name]
    return about or [identity for identity in known if name in identity.uses]


def show_identity(result: CheckResult) -> dict[str, Any]:
    """Return an identity's result without the fields that all identities of a formula share."""
    shared = ("function", "formula", "source")
    return {key: value for key, value in result.to_dict().items() if key not in shared}


def require_formula(name: str) -> None:
    """Raise `UsageError` if no identity is about a function of this name."""
    from ldmref.check import identities

    known = {name for i in identities() for name in (i.function, *i.uses)}
    if name not in known:
        message = f"unknown formula {short_repr(name)}"
        raise UsageError(message, code="E-FORMULA", hint=did_you_mean(name, known))


def import_code(code: str, load_implementation: Callable[[str], ModuleType]) -> ModuleType:
    """Import source code as a module.

    Raises:
        InputError: The import failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "implementation.py"
        path.write_text(code, encoding="utf-8")
        importlib.invalidate_caches()
        return load_implementation(str(path))


# -- the value of a formula, compared with that of another implementation -------------------------


MAX_NUMBERS = 10_000  # in the arguments of a call, and as a whole number, such as that of steps
MAX_BROADCAST = 1_000_000  # numbers of an array that a formula computes
MAX_VALUES = 10_000  # numbers of an answer


def compare_values(
    name: str, function: Callable[..., Any], arguments: Mapping[str, Any], result: object
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


def to_argument(name: str, value: object) -> Any:
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


def split_result(computed: object) -> tuple[Any, ...]:
    """Return the parts of a result."""
    return tuple(computed) if isinstance(computed, tuple) else (computed,)


def to_json(x: np.ndarray) -> Any:
    """Return an array as nested lists, with None for NaN and infinity."""
    numbers = np.array(x, dtype=object)
    numbers[~np.isfinite(x)] = None
    return numbers.tolist()


def describe_differences(expected: list[np.ndarray], parts: object) -> Iterator[dict[str, Any]]:
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
