"""Inputs of a command: prompts and images from flags, files or standard input."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ldmref.apps.cli.messages import quote_command
from ldmref.errors import InputError, UsageError
from ldmref.modes.validation import MAX_COUNT
from ldmref.prompts.emoji import with_emoji_names
from ldmref.support.files import not_a_file, open_file

STDIN = "-"
MAX_STDIN = 256_000_000  # bytes
ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def is_embedded(
    words: Sequence[str], flags: Sequence[str], file: str | None, values: Mapping[str, Any]
) -> bool:
    """Return whether a command has embeddings (--prompt-embeds) instead of a prompt."""
    bare = not words and not flags and file is None
    return bare and values.get("prompt_embeds") is not None


def read_prompts(
    words: Sequence[str], flags: Sequence[str], file: str | None, command: str
) -> list[str]:
    """Return the prompts of a command, in this order: arguments, -p, file.

    Standard input and files contain one prompt per line.

    Args:
        words: Arguments that are not flags.
        flags: Values of -p; `-` is standard input.
        file: Name of a file of prompts; `-` is standard input.
        command: Name of the command, for hints.

    Raises:
        UsageError: There is no prompt, or the arguments may be one prompt without quotes.
        InputError: The file cannot be read.
    """
    if len(words) > 1 and not any(_is_whole(word) for word in words):
        typed = quote_command(["ldmref", command, " ".join(words)])
        several = quote_command(part for word in words for part in ("-p", word))
        raise UsageError(
            f"the prompt is {len(words)} words without quotes",
            code="E-USAGE",
            hint=f"put the prompt in quotes: {typed}; for several prompts: {several}",
        )
    prompts = []
    for text in (*words, *flags):
        prompts += split_prompts(read_standard_input(), STDIN) if text == STDIN else [text]
    if file is not None:
        data = read_standard_input() if file == STDIN else _read_prompt_file(file)
        prompts += split_prompts(data, file)
    if not prompts:
        raise UsageError("no prompt", code="E-USAGE", hint=f'ldmref {command} "red heart"')
    return prompts


def _is_whole(word: str) -> bool:
    """Return whether an argument must be a prompt: several words, or emoji."""
    return " " in word.strip() or with_emoji_names(word) != word


def split_prompts(data: bytes, source: str) -> list[str]:
    """Return the prompts of a text file, one per line; empty lines are ignored.

    Raises:
        UsageError: The file is not text, contains no prompt, or contains too many.
    """
    name = "standard input" if source == STDIN else repr(source)
    lines = [line for line in decode_text(data, name).split("\n") if line.strip()]
    if not lines:
        hint = 'to use an empty prompt: -p ""'
        raise UsageError(f"{name} contains no prompt", code="E-PROMPT", hint=hint)
    if len(lines) > MAX_COUNT:
        raise UsageError(
            f"{name} contains {len(lines)} prompts, and a command takes {MAX_COUNT}",
            code="E-PROMPT",
        )
    return lines


def _read_prompt_file(file: str) -> bytes:
    """Read a file of prompts."""
    if problem := not_a_file(file):
        raise InputError(f"the file of prompts {file!r} {problem}", code="E-FILE")
    with open_file(Path(file), "E-FILE") as opened:
        data = opened.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise InputError(f"{file!r} is longer than {MAX_STDIN} bytes", code="E-FILE")
    return data


def decode_text(data: bytes, name: str = "standard input") -> str:
    """Decode UTF-8, or UTF-16 with a byte-order mark; normalise line ends, strip trailing ones."""
    encoding = ENCODINGS.get(data[:2], "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt on {name} is not UTF-8 text"
            if name == "standard input"
            else f"{name} is not UTF-8 text",
            code="E-PROMPT",
            hint="if it is Latin-1: iconv -f latin1 -t utf-8",
        ) from error
    return text.replace("\r\n", "\n").rstrip("\n")


def read_standard_input() -> bytes:
    """Read all of standard input.

    Raises:
        UsageError: It is closed, a folder, or too long, or another flag has read it.
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


def resolve_image_source(path: str) -> str | io.BytesIO:
    """Return the path of an image, or standard input as an open file."""
    return io.BytesIO(read_standard_input()) if path == STDIN else path
