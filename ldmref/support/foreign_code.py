"""Code of other people that runs in this process: it may print, and it may end the process."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from ldmref.errors import UsageError

HINT = "remove the call of exit; a function that fails raises an error"


@contextmanager
def foreign_code(what: str, code: str) -> Iterator[None]:
    """Run code of other people in a block, which ends in an error if that code ends the process.

    Ctrl-C stays an interrupt.

    Args:
        what: What the code is, in words: "the import of mm".
        code: The code of the error.

    Raises:
        UsageError: The code ended the process, as `sys.exit` does, with any status.

    >>> try:
    ...     with foreign_code("mm:make", "E-AGAINST"):
    ...         raise SystemExit(0)
    ... except UsageError as error:
    ...     print(error.hint)
    remove the call of exit; a function that fails raises an error
    """
    try:
        yield
    except SystemExit as error:
        message = f"{what} ended the process: {describe_exit(error)}"
        raise UsageError(message, code=code, hint=HINT) from error


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Send what code prints in a block to standard error: standard output is for the result."""
    with redirect_stdout(sys.stderr):
        yield


def describe_exit(error: SystemExit) -> str:
    """Return what code passed to `exit`, and in which line if that is known."""
    text = f"SystemExit({error.code!r})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.endswith(".py")]
    return f"{text} in {Path(own[-1].filename).name}:{own[-1].lineno}" if own else text
