"""Standard output and standard error: closed, full, or without a reader."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from ldmref.errors import OutputError


def prepare_streams() -> None:
    """Replace streams that the caller closed, and escape characters that a stream cannot encode.

    Writing to a closed standard output fails with EBADF, as in C; text for a closed standard error
    is dropped.
    """
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore


def check_stdout() -> None:
    """Check that standard output is open, before anything is computed for it.

    Raises:
        OutputError: It is closed.
    """
    try:
        os.write(sys.stdout.fileno(), b"")
    except OSError as error:
        raise closed_stdout() from error


def closed_stdout() -> OutputError:
    """Return the error of a closed standard output."""
    return OutputError("standard output is closed", code="E-STDOUT", hint="name a file: -o a.png")


def finish_streams() -> None:
    """Flush both streams, and discard text that a stream does not accept.

    Python flushes both again at exit; if that failed, it would replace the exit code by 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _discard(stream)


def _discard(stream: TextIO) -> None:
    """Redirect the stream's descriptor to the null device."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
