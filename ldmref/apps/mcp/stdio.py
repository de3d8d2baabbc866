"""The transport over standard input and output: one message per line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from ldmref.apps.mcp.protocol import (
    INVALID_REQUEST,
    Message,
    Protocol,
    is_tool_call,
    make_error,
    parse_message,
)

MAX_LINE = 64 * 2**20  # bytes


def serve_stdio(protocol: Protocol, messages: BinaryIO, answers: BinaryIO) -> None:
    """Answer messages until the input ends.

    Tools run one after the other in a thread, so the client is answered meanwhile, and can cancel
    the one that runs and those that wait. At the end of the input, the remaining tools run to their
    end.

    Args:
        protocol: Answers the messages.
        messages: JSON messages, one per line.
        answers: Receives the responses and notifications in the same form.
    """
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            answers.write(json.dumps(message).encode() + b"\n")
            answers.flush()

    def answer(message: Message) -> None:
        response = protocol.answer(message, send)
        if response is not None:
            send(response)

    def serve(worker: ThreadPoolExecutor) -> None:
        for line in read_lines(messages):
            if line is None:
                send(make_error(None, INVALID_REQUEST, f"a message may have {MAX_LINE} bytes"))
                continue
            if not line.strip():
                continue
            message, refusal = parse_message(line)
            if refusal is not None:
                send(refusal)
            elif is_tool_call(message):
                protocol.accept(message)
                worker.submit(answer, message)
            else:
                answer(message)

    with ThreadPoolExecutor(1) as worker:
        try:
            serve(worker)
        except BaseException:  # a signal: do not wait for the tools
            protocol.cancel_all()
            raise


def read_lines(messages: BinaryIO) -> Iterable[bytes | None]:
    """Yield the lines, and None for one that is longer than `MAX_LINE`, which is skipped."""
    while line := messages.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = messages.readline(MAX_LINE)
        yield None
