"""The rows of a batch: JSON objects, one per line, each with the parameters of a mode.

    {"prompt": "red heart", "seed": 1}
    {"mode": "img2img", "prompt": "blue heart", "image": "heart.png", "custom_id": "blue"}

`mode` is txt2img by default, and `custom_id` is the user's own name of the row. Everything else is
a parameter of the mode.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ldmref.errors import InputError, LdmrefError, UsageError, short_repr
from ldmref.support.files import open_file, parse_json

STDIN = "-"
MAX_LINE = 10_000_000  # bytes
MAX_ID = 256  # characters
DEFAULT_MODE = "txt2img"

RowSource = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class BatchRow:
    """A row as it was written.

    Args:
        line: Its number in the file, from 1.
        custom_id: The user's name of the row, which no other row has; None without one.
        mode: The name of the mode.
        values: The parameters of the mode.

    >>> from ldmref.batch import read_rows
    >>> read_rows([{"prompt": "a cat", "custom_id": "one"}])[0]
    BatchRow(line=1, custom_id='one', mode='txt2img', values={'prompt': 'a cat'})
    """

    line: int
    custom_id: str | None
    mode: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class RowFailure:
    """A row that cannot be generated, and why.

    Args:
        line: The number of the row in the file, from 1.
        custom_id: The user's name of the row; None without one.
        code: The code of the error, such as "E-STEPS".
        message: The message of the error.
        hint: The hint of the error; "" without one.
        key: The key of the row if its generation failed; None if the row itself is wrong.

    >>> from ldmref.batch import read_rows
    >>> failure = read_rows([{"prompt": "a cat", "custom_id": 1}])[0]
    >>> failure.code
    'E-CUSTOM-ID'
    """

    line: int
    custom_id: str | None
    code: str
    message: str
    hint: str = ""
    key: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the failure as a line of errors.jsonl."""
        return dict(vars(self))


def make_failure(
    line: int, custom_id: str | None, error: LdmrefError, key: str | None = None
) -> RowFailure:
    """Return the failure of a row from an error."""
    return RowFailure(line, custom_id, error.code, str(error), error.hint, key)


def read_rows(rows: RowSource) -> list[BatchRow | RowFailure]:
    """Read rows; those that cannot be read become failures.

    Args:
        rows: A file of JSON lines (blank lines are skipped), "-" for standard input, or mappings.

    Returns:
        A `BatchRow`, or the failure, for each row in the order of the file.

    Raises:
        InputError: The file does not exist or cannot be read.

    >>> from ldmref.batch import read_rows
    >>> row = read_rows([{"prompt": "a cat", "steps": 2}])[0]
    >>> row.mode, row.values["steps"]
    ('txt2img', 2)
    """
    seen: dict[str, int] = {}
    return [_keep_unique(row, seen) for row in _read(rows)]


def _read(rows: RowSource) -> Iterator[BatchRow | RowFailure]:
    if isinstance(rows, str | os.PathLike):
        for number, line in _read_lines(rows):
            yield parse_line(number, line)
        return
    if not isinstance(rows, Iterable):
        message = f"rows must be a file or mappings, not {short_repr(rows)}"
        raise UsageError(message, code="E-BATCH")
    for number, row in enumerate(rows, 1):
        yield _make_row(number, row)


def _read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    if os.fspath(path) == STDIN:
        yield from _number_lines(sys.stdin.buffer)
        return
    with open_file(Path(path), code="E-ROWS-FILE") as file:
        yield from _number_lines(file)


def _number_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank; only the first bytes of one that is too long."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        whole = line
        while len(whole) > MAX_LINE and not whole.endswith(b"\n"):
            whole = file.readline(MAX_LINE + 1)
            if not whole:
                break
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield number, line


def parse_line(number: int, line: bytes) -> BatchRow | RowFailure:
    """Return the row that a line of JSON holds."""
    try:
        if len(line) > MAX_LINE:
            raise InputError(f"line {number} is longer than {MAX_LINE:,} bytes", code="E-ROW")
        value = parse_json(line, f"line {number}", "E-ROW", strict=True)
    except LdmrefError as error:
        hint = error.hint or 'each line is one JSON object: {"prompt": "red heart"}'
        return RowFailure(number, None, error.code, str(error), hint)
    return _make_row(number, value)


def _make_row(number: int, value: object) -> BatchRow | RowFailure:
    custom_id = value.get("custom_id") if isinstance(value, Mapping) else None
    try:
        if not isinstance(value, Mapping):
            raise UsageError(
                f"a row must be a JSON object, not {short_repr(value)}",
                code="E-ROW",
                hint='{"prompt": "red heart"}',
            )
        check_custom_id(custom_id)
        mode = value.get("mode", DEFAULT_MODE)
    except LdmrefError as error:
        return make_failure(number, custom_id if isinstance(custom_id, str) else None, error)
    own = ("custom_id", "mode")
    values = {str(name): x for name, x in value.items() if name not in own}
    return BatchRow(number, custom_id, mode, values)


def check_custom_id(value: object) -> None:
    """Refuse a `custom_id` that is not a text of sensible length.

    Raises:
        UsageError: It is something else.
    """
    if value is None:
        return
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        raise UsageError(
            f"custom_id must be a text of 1 to {MAX_ID} characters, not {short_repr(value)}",
            code="E-CUSTOM-ID",
        )


def _keep_unique(row: BatchRow | RowFailure, seen: dict[str, int]) -> BatchRow | RowFailure:
    """Return the row, or a failure if an earlier row has its `custom_id`."""
    name = row.custom_id
    if name is None:
        return row
    first = seen.setdefault(name, row.line)
    if first == row.line or isinstance(row, RowFailure):
        return row
    message = f"custom_id {short_repr(name)} is also that of line {first}"
    return RowFailure(row.line, name, "E-CUSTOM-ID", message, "give each row its own")
