"""What a command reads: the prompt and the pictures that flags or standard input give."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Sequence

import click

from ldmref.cli.wording import command_line
from ldmref.errors import UsageError

STDIN = "-"
MAX_STDIN = 256_000_000  # bytes
ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_prompt(words: Sequence[str], prompt: str | None, command: str) -> str:
    """The prompt of the flag or the bare argument; `-` is standard input.

    Raises:
        UsageError: none, or more than one; standard input that is no text.
    """
    if len(words) > 1:
        typed = command_line(["ldmref", command, " ".join(words)])
        raise UsageError(
            f"the prompt is {len(words)} words without quotes",
            code="E-USAGE",
            hint=f"put the prompt in quotes: {typed}",
        )
    if words and prompt is not None:
        raise UsageError(
            "the prompt is given twice", code="E-USAGE", hint="use -p or a bare prompt, not both"
        )
    text = words[0] if words else prompt
    if text is None:
        raise UsageError("no prompt", code="E-USAGE", hint=f'ldmref {command} "red heart"')
    return decoded(standard_input()) if text == STDIN else text


def decoded(data: bytes) -> str:
    """The text of a prompt file, UTF-8 or marked UTF-16; CRLF is LF, and the last line ends go."""
    encoding = ENCODINGS.get(data[:2], "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            "the prompt on standard input is no UTF-8 text",
            code="E-PROMPT",
            hint="if it is Latin-1: iconv -f latin1 -t utf-8",
        ) from error
    return text.replace("\r\n", "\n").rstrip("\n")


def standard_input() -> bytes:
    """All of standard input.

    Raises:
        UsageError: it is closed, a folder, too long, or another flag has read it.
    """
    seen = click.get_current_context().find_root().meta
    if seen.get("stdin"):
        raise UsageError("only one flag can read standard input", code="E-STDIN")
    seen["stdin"] = True
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed", code="E-STDIN")
    try:
        data = sys.stdin.buffer.read(MAX_STDIN + 1)
    except OSError as error:
        raise UsageError(f"cannot read standard input: {error.strerror}", code="E-STDIN") from error
    if len(data) > MAX_STDIN:
        raise UsageError(f"standard input is longer than {MAX_STDIN} bytes", code="E-STDIN")
    return data


def picture_source(path: str) -> str | io.BytesIO:
    """The path of a picture, or standard input as an open file."""
    return io.BytesIO(standard_input()) if path == STDIN else path
