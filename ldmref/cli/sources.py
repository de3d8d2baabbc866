"""What a command reads: the prompt and the pictures that flags or standard input give."""

from __future__ import annotations

import io
import sys

from ldmref.errors import UsageError

STDIN = "-"


def read_prompt(words: str | None, prompt: str | None) -> str:
    """The prompt of the flag or the bare argument; `-` is standard input."""
    if words is not None and prompt is not None:
        raise UsageError(
            "the prompt is given twice", code="E-USAGE", hint="use -p or a bare prompt, not both"
        )
    text = words if prompt is None else prompt
    if text is None:
        raise UsageError("no prompt", code="E-USAGE", hint='ldmref txt2img "red heart"')
    if text != STDIN:
        return text
    try:
        return standard_input().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError("the prompt on standard input is no UTF-8", code="E-PROMPT") from error


def standard_input() -> bytes:
    """All of standard input."""
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed", code="E-USAGE")
    return sys.stdin.buffer.read()


def picture_source(path: str) -> str | io.BytesIO:
    """The path of a picture, or standard input as an open file."""
    return io.BytesIO(standard_input()) if path == STDIN else path
