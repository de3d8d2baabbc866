"""Open files written by others: regular files only, with one clear error for each cause."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.support.file_formats import identify_format

MAX_TEXT = 100_000_000  # bytes
MAX_VALUES = 2**18  # of a configuration
MAX_TABLE_VALUES = 2**22  # of a table: a vocabulary, a header of tensors, a manifest
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MAX_NESTING = 100
CONTAINERS = (dict, list)  # of JSON
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# What to do about an error of the system, by its number.
NOT_THERE = "check the path; a relative one starts at the working folder"
HINTS = {
    errno.ENOENT: NOT_THERE,
    errno.ENOTDIR: NOT_THERE,
    errno.EACCES: "change the permissions of the file, or of its folder, so that you may read it",
    errno.ELOOP: "its symbolic links lead to each other; give the path of the file itself",
    errno.ENAMETOOLONG: "check the path; it is longer than the system allows",
}


def check_input_path(
    value: object, what: str = "the path of a model", code: str = "E-MODEL"
) -> Path:
    """Return the path of something to read: a regular file, a folder, or nothing that exists.

    Args:
        value: The path.
        what: The name of the path in messages.
        code: The code of the errors.

    Raises:
        UsageError: It is not text or a path, or is empty or contains a NUL character.
        InputError: The system denies access, or it is a pipe, a socket or a device.
    """
    if not isinstance(value, str | os.PathLike):
        message = f"{what} must be text or a path, not {type(value).__name__}"
        raise UsageError(message, code=code)
    path = os.fsdecode(value)
    if not path or "\0" in path:
        problem = "contains a NUL character" if path else "is empty"
        raise UsageError(f"{what} {problem}", code=code)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise make_read_error(Path(path), error, code) from error
    except ValueError as error:  # a lone surrogate
        raise UsageError(f"{what} is not a file name: {error}"[:200], code=code) from error
    else:
        if not stat.S_ISDIR(mode):
            _require_regular(Path(path), mode, code)
    return Path(path)


def not_a_file(path: str | Path) -> str:
    """Return the reason why `path` is not a regular file, for messages; "" if it is.

    >>> not_a_file("/dev")
    'is a folder, not a file'
    """
    try:
        kind = describe_kind(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:  # NUL, a lone surrogate
        return "is not a file name"
    return f"is {kind}, not a file" if kind else ""


def shown(path: Path) -> str:
    """Return a file's name for messages, at most 80 characters long."""
    name = path.name or str(path)
    return name if len(name) <= 80 else name[:77] + "..."


def open_file(path: Path, code: str = "E-MODEL") -> BufferedReader:
    """Open a regular file for reading; never wait for a pipe or a device.

    Raises:
        InputError: It is missing, cannot be read or is not a regular file. Reading from the file
            raises it also if the system fails to read.
    """
    try:
        _require_regular(path, path.stat().st_mode, code)
        raw = _InputFile(path, code)
        _require_regular(path, os.fstat(raw.fileno()).st_mode, code)
    except OSError as error:
        raise make_read_error(path, error, code) from error
    return BufferedReader(raw)


class _InputFile(FileIO):
    """A file that raises `InputError` when it cannot be read.

    An `OSError` could be confused with one of the file that is written at the same time.
    """

    def __init__(self, path: Path, code: str):
        super().__init__(os.fspath(path), "rb", opener=_without_waiting)
        self._path = path
        self._code = code

    def readinto(self, buffer: Any, /) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise make_read_error(self._path, error, self._code) from error

    def readall(self) -> bytes:
        try:
            return super().readall() or b""
        except OSError as error:
            raise make_read_error(self._path, error, self._code) from error


def require_size(path: Path, limit: int, code: str = "E-MODEL") -> None:
    """Refuse a file of more than `limit` bytes, or anything but a regular file.

    Raises:
        InputError: It is missing, cannot be read or is not a regular file.
        CorruptModelError: It is larger.
    """
    with open_file(path, code) as file:
        size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise make_size_error(path, limit, code)


def read_file(path: Path, limit: int, code: str = "E-MODEL", large: str = "") -> bytes:
    """Read a regular file of at most `limit` bytes; never wait, and never read more.

    Args:
        path: The file.
        limit: The maximum number of bytes.
        code: The code of the errors.
        large: The code of the error for a larger file; "": `code`.

    Raises:
        InputError: It is missing, cannot be read or is not a regular file.
        CorruptModelError: It is larger.
    """
    with open_file(path, code) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise make_size_error(path, limit, large or code)
    return data


def make_size_error(path: Path, limit: int, code: str = "E-MODEL") -> CorruptModelError:
    """Make the error for a file that is larger than files of its kind may be."""
    return CorruptModelError(f"{shown(path)} is larger than {limit:,} bytes", code=code)


def make_read_error(path: Path, error: OSError, code: str = "E-MODEL") -> InputError:
    """Make the error for a file that the system cannot read."""
    message = f"cannot read {shown(path)!r}: {error.strerror or error}"
    return InputError(message, code=code, hint=HINTS.get(error.errno or 0, ""))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(path: Path, mode: int, code: str) -> None:
    kind = describe_kind(mode)
    if kind:
        raise InputError(f"{shown(path)!r} is {kind}, not a file", code=code)


def describe_kind(mode: int) -> str:
    """Describe what has that `st_mode`; "" for a regular file.

    >>> describe_kind(stat.S_IFIFO)
    'a named pipe (FIFO)'
    """
    return next((kind for test, kind in KINDS if test(mode)), "")


# -- JSON -----------------------------------------------------------------------------------------


def read_json(path: Path, code: str = "E-CONFIG", most: int = MAX_VALUES) -> Any:
    """Read a JSON file of at most so many values.

    Raises:
        InputError: It cannot be read.
        CorruptModelError: It is not valid JSON; see `parse_json`.
    """
    return parse_json(read_file(path, MAX_TEXT, large=code), shown(path), code, most=most)


def parse_json(
    data: bytes | str,
    name: str,
    code: str = "E-CONFIG",
    strict: bool = False,
    most: int = MAX_VALUES,
) -> Any:
    """Parse JSON in UTF-8.

    Args:
        data: The text.
        name: The name of the file, for errors.
        code: The code of the errors.
        strict: Whether NaN, Infinity and -0 are refused, which Python accepts.
        most: The number of values that it may hold. Each takes up to 240 bytes of memory.

    Raises:
        CorruptModelError: It is not valid JSON, has more values, is nested too deep, contains a
            name twice, or contains half a surrogate pair.
    """
    if count_values(data) > most:
        message = f"{name} holds more than {most:,} values"
        raise CorruptModelError(message, code=code, hint="it is no file of this kind")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        numbers: Any = {"parse_constant": _refuse, "parse_int": _integer} if strict else {}
        value = json.loads(text, object_pairs_hook=_without_duplicates, **numbers)
        if SURROGATE.search(text):  # fails for half a pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        deep = _deeper_than(value, MAX_NESTING)
    except RecursionError:
        deep = True
        value = None
    except ValueError as error:
        start = data[:64] if isinstance(data, bytes) else data[:64].encode("utf-8", "replace")
        known = identify_format(start)
        what = known[0] if known and known[0] != "a JSON document" else ""
        problem = f"is {what}, not JSON" if what else f"is not JSON: {error}"
        hint = known[1] if known and what else ""
        raise CorruptModelError(f"{name} {problem[:200]}", code=code, hint=hint) from error
    if deep:
        message = f"{name} is nested deeper than {MAX_NESTING} levels"
        raise CorruptModelError(message, code=code)
    return value


def count_values(data: bytes | str) -> int:
    """Return an upper bound on the number of values in JSON, without parsing it.

    Every value but the first follows a comma or an opening bracket, and commas in texts count too.

    >>> count_values('{"a": [1, 2], "b": "x, y"}')
    6
    """
    marks: Any = b",[{" if isinstance(data, bytes) else ",[{"
    return 1 + sum(data.count(marks[i : i + 1]) for i in range(len(marks)))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it contains the name {twice[:80]!r} twice")
    return values


def _refuse(literal: str) -> None:
    raise ValueError(f"{literal} is not a JSON number")


def _integer(literal: str) -> int | float:
    return -0.0 if literal == "-0" else int(literal)


def _deeper_than(value: object, limit: int) -> bool:
    layer = [value]
    for _ in range(limit):
        parents = [node for node in layer if isinstance(node, CONTAINERS)]
        layer = [
            child
            for node in parents
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not layer:
            return False
    return True
