"""Cases of the fault table: a bad input, and the answer that every interface must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmref.errors import LdmrefError

PYTHON = "Python"
COMMAND_LINE = "command line"
HTTP = "HTTP"
TINY = object()  # the folder of the tiny model, in a command line

Error = type[LdmrefError] | Mapping[str, type[LdmrefError]] | None  # or one for each interface


@dataclass(frozen=True)
class Case:
    """One bad input, run through every interface that can express it.

    Args:
        row: its number in `fault_rows.ROWS`.
        title: unique within the row.
        error, code: what is raised; no error: the request succeeds.
        mode, parameters: the request, by the names of Python. A function is a file to make: it is
            called with an empty folder and returns the value.
        model: replaces the tiny model; a function makes it. `load`: further arguments of `load`.
        warns: whether a success has a warning.
        argv: a whole command line instead, for commands that Python does not have.
        interfaces: those that can express the input; for HTTP see `fault_http.can_express`.
        usage: the command line refuses it while reading its flags, with code E-USAGE.
    """

    row: int
    title: str
    error: Error = None
    code: str = ""
    mode: str = "txt2img"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[[Path], Path] | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    warns: bool | None = None
    argv: tuple[Any, ...] = ()
    interfaces: tuple[str, ...] = (PYTHON, COMMAND_LINE)
    usage: bool = False


def case(
    row: int,
    title: str,
    error: Error = None,
    code: str = "",
    *,
    mode: str = "txt2img",
    model: Any = None,
    load: Mapping[str, Any] | None = None,
    warns: bool | None = None,
    only: str = "",
    usage: bool = False,
    **parameters: Any,
) -> Case:
    """Return the case of a request: `parameters` are those of the mode."""
    interfaces = (only,) if only else (PYTHON, COMMAND_LINE)
    return Case(
        row, title, error, code, mode, parameters, model, load or {}, warns, (), interfaces, usage
    )


def command(row: int, title: str, error: Error, code: str, *argv: Any) -> Case:
    """Return the case of a command line; a function in it is a file to make."""
    return Case(row, title, error, code, argv=argv, interfaces=(COMMAND_LINE,))


@dataclass(frozen=True)
class Procedure:
    """A row tested by its own function: for example with a signal, a thread or a full disk."""

    row: int
    title: str
    interfaces: tuple[str, ...]
    code: str


PROCEDURES: list[Procedure] = []


def covers(row: int, title: str, *interfaces: str, code: str = "") -> Callable:
    """Enter a test function into the table."""

    def enter(function: Callable) -> Callable:
        PROCEDURES.append(Procedure(row, title, interfaces or (PYTHON,), code))
        return function

    return enter
