"""Code that a client sends, run in a process of its own.

The server answers on its own standard input and output, and goes on when the code ends the process,
reads standard input, writes to standard output, or never returns. The process has the user's
rights: this protects the server, not the machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ldmref.apps.mcp.formulas import check_formula
from ldmref.errors import Cancelled, LdmrefError, ResourceError, UsageError

TIME_LIMIT = 120.0  # seconds
POLL = 0.1  # seconds between looks at `cancel`
MAX_ANSWER = 2**24  # bytes
CODE = "E-CODE"


def check_sent_formula(
    arguments: Mapping[str, Any], cancel: threading.Event, limit: float = TIME_LIMIT
) -> dict[str, Any]:
    """Return the answer of `check_formula` about code that somebody sent.

    Args:
        arguments: The arguments of `check_formula`, JSON-able.
        cancel: Set when the client cancels the call: the process ends.
        limit: Seconds after which the process ends.

    Raises:
        UsageError: The code cannot be imported, defines no such function, or ends its process.
        ResourceError: It takes longer than `limit`.
        Cancelled: The client cancelled the call.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=answer_apart, args=(theirs, json.dumps(dict(arguments))), daemon=True
    )
    process.start()
    theirs.close()  # the end of the process then closes the connection
    try:
        return _receive(process, ours, cancel, limit)
    finally:
        ours.close()
        end_group(process)


def _receive(
    process: BaseProcess, connection: Connection, cancel: threading.Event, limit: float
) -> dict[str, Any]:
    """Wait for the answer of a process."""
    end = time.monotonic() + limit
    while not wait([connection], POLL):
        if cancel.is_set():
            raise Cancelled("cancelled", code="E-CANCELLED")
        if time.monotonic() > end:
            message = f"the code ran for more than {limit:g} seconds and was ended"
            raise ResourceError(message, code=CODE, hint="ask for fewer cases")
    try:
        found = json.loads(connection.recv_bytes(MAX_ANSWER))
    except (EOFError, OSError):
        process.join(POLL)
        message = f"the code ended its process (exit code {process.exitcode})"
        raise UsageError(message, code=CODE, hint="return a value instead") from None
    if "error" in found:
        raise UsageError(found["error"], code=found["code"], hint=found["hint"])
    return found["answer"]


def end_group(process: BaseProcess) -> None:
    """End a process and those that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()


# -- in the process -------------------------------------------------------------------------------


def answer_apart(connection: Connection, arguments: str) -> None:
    """Check a formula with code in a process of its own, and send the answer as JSON.

    Args:
        connection: Receives {"answer": ...}, or {"error", "code", "hint"}.
        arguments: The arguments of `check_formula` as JSON.
    """
    os.setsid()  # whatever the code starts ends with it
    leave_streams()
    threading.Thread(target=end_with_parent, daemon=True).start()
    connection.send_bytes(json.dumps(_answer(json.loads(arguments))).encode())


def _answer(arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": check_formula(**arguments)}
    except LdmrefError as error:
        return {"error": str(error), "code": error.code, "hint": error.hint}
    except BaseException as error:
        message = f"the code raised {type(error).__name__}: {error}"
        return {"error": message, "code": CODE, "hint": ""}


def leave_streams() -> None:
    """Let the code read nothing from the protocol's input, and write what it prints to stderr.

    `sys.stdin` of such a process reads nothing already; this is for what reads the descriptor.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)


def end_with_parent() -> None:
    """End this process when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
