"""The tool `check_formula`: a formula, its identities, and the values of another implementation."""

from __future__ import annotations

import importlib
import inspect
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from ldmref.apps.mcp.values import compare_values
from ldmref.declare import Check, Doc, Range
from ldmref.errors import UsageError, did_you_mean, short_repr

if TYPE_CHECKING:
    from ldmref.check import CheckResult, Identity

MAX_CASES = 1000
DESCRIPTION = (
    "Verify a formula of diffusion models. Returns its definition in LaTeX with its source and the "
    "identities that it obeys, each checked against an independent oracle. With `arguments`: the "
    "reference value; with `result` also: the error of somebody else's value."
)


def accept(name: str, value: Any) -> Any:
    """Return a value of any type; it is checked together with the function."""
    return value


def check_arguments(name: str, value: Any) -> Any:
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
            "machine, as `ldmref check --against FILE` does, and replaces ldmref's function in "
            "all identities."
        ),
    ] = None


def check_formula(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    result: Any = None,
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


def import_code(code: str, load_implementation: Any) -> ModuleType:
    """Import source code as a module.

    Raises:
        InputError: The import failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "implementation.py"
        path.write_text(code, encoding="utf-8")
        importlib.invalidate_caches()
        return load_implementation(str(path))
