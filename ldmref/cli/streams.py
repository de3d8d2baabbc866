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


def finish_streams() -> None:
    """Write what the streams still hold, and let what a stream does not take go nowhere.

    Python flushes both streams once more when it ends; if that fails it replaces the exit code of
    the program by 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _discard(stream)


def _discard(stream: TextIO) -> None:
    """Point the stream's descriptor to the null device."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
