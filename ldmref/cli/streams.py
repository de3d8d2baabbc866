"""Standard output and error that are closed, full, or not read."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from ldmref.errors import OutputError


def prepare_streams() -> None:
    """Replace streams that the caller closed, and let none fail at letters that it lacks.

    What is written to a closed standard output fails as it does in C, with EBADF; what is written
    to a closed standard error is dropped.
    """
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore


def check_stdout() -> None:
    """Refuse a closed standard output, before anything is computed for it.

    Raises:
        OutputError: it is closed.
    """
    try:
        os.write(sys.stdout.fileno(), b"")
    except OSError as error:
        raise closed_stdout() from error


def closed_stdout() -> OutputError:
    """The error of a closed standard output."""
    return OutputError("standard output is closed", code="E-STDOUT", hint="name a file: -o a.png")


def silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere."""
    _silence(sys.stdout)


def finish_stderr() -> None:
    """Write what is left for standard error; where that fails, it goes nowhere.

    Otherwise the interpreter would fail to write it when it ends, and change the exit code to 120.
    """
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
