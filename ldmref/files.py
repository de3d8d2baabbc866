"""Open files that others wrote: regular files only, and one clear error for each cause."""

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

MAX_TEXT = 100_000_000  # bytes
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MAX_NESTING = 100
KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
# First bytes of formats that are mistaken for others -> what the file is, what to do.
MAGICS = (
    (b"version https://git-lfs", "a Git LFS pointer", "run git lfs pull"),
    (b"<!doctype", "an HTML page", "it was saved in place of the file; download the file itself"),
    (b"<html", "an HTML page", "it was saved in place of the file; download the file itself"),
    (b"<?xml", "an XML document", "it was saved in place of the file; download the file itself"),
    (b"{", "a JSON document", ""), (b"[", "a JSON document", ""),
    (b"PK", "a zip archive", "unpack it first"), (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\xfd7zxz", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"Rar!", "a rar archive", "unpack it first"),
    (b"\x89png", "a PNG image", ""), (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"GIF8", "a GIF image", ""), (b"RIFF", "a WebP image or a sound", ""),
    (b"%PDF", "a PDF document", ""),
    (b"GGUF", "a GGUF file", "its quantised tensors are not supported"),
    (b"\x93NUMPY", "a NumPy array (.npy)", ""), (b"\x89HDF", "an HDF5 file", ""),
    (b"\x7fELF", "a program", ""), (b"#!", "a program", ""),
)  # fmt: skip


def check_input_path(value: Any, what: str = "the path of a model", code: str = "E-MODEL") -> Path:
    """The path of something to read: a regular file, a folder, or nothing that exists.

    Raises:
        UsageError: no text or path, or empty, or with a NUL character.
        InputError: the system does not let us look, or it is a pipe, a socket or a device.
    """
    if not isinstance(value, str | os.PathLike):
        message = f"{what} must be text or a path, not {type(value).__name__}"
        raise UsageError(message, code=code)
    path = os.fsdecode(value)
    if not path or "\0" in path:
        problem = "holds a NUL character" if path else "is empty"
        raise UsageError(f"{what} {problem}", code=code)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise make_read_error(Path(path), error, code) from error
    except ValueError as error:  # a lone surrogate
        raise UsageError(f"{what} is no file name: {error}"[:200], code=code) from error
    else:
        if not stat.S_ISDIR(mode):
            _require_regular(Path(path), mode, code)
    return Path(path)


def not_a_file(path: str | Path) -> str:
    """Why a path is no regular file, to follow its name in a message; "" if it is one.

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
        return "is no file name"
    return f"is {kind}, not a file" if kind else ""


def shown(path: Path) -> str:
    """A file's name for messages, not too long."""
    name = path.name or str(path)
    return name if len(name) <= 80 else name[:77] + "..."


def open_file(path: Path, code: str = "E-MODEL") -> BufferedReader:
    """Open a regular file for reading; never waits for a pipe or a device.

    Raises:
        InputError: it is missing, cannot be read, or is no regular file; says which. So does
            reading from the file where the system fails to.
    """
    try:
        _require_regular(path, path.stat().st_mode, code)
        raw = _InputFile(path, code)
        _require_regular(path, os.fstat(raw.fileno()).st_mode, code)
    except OSError as error:
        raise make_read_error(path, error, code) from error
    return BufferedReader(raw)


class _InputFile(FileIO):
    """A file whose failures to be read are an `InputError`: an `OSError` of a later moment could
    not be told from one of the file that is written meanwhile."""

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
    """Refuse a file of more than `limit` bytes, or what is no regular file, before it is read.

    Raises:
        InputError: it is missing, cannot be read, or is no regular file.
        CorruptModelError: it is larger.
    """
    with open_file(path, code) as file:
        size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise make_size_error(path, limit, code)


def read_file(path: Path, limit: int, code: str = "E-MODEL", large: str = "") -> bytes:
    """Read a regular file of at most `limit` bytes; never waits, and never reads more.

    `large`: the code of the error for a larger file, if it has one of its own.

    Raises:
        InputError: it is missing, cannot be read, or is no regular file.
        CorruptModelError: it is larger.
    """
    with open_file(path, code) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise make_size_error(path, limit, large or code)
    return data


def make_size_error(path: Path, limit: int, code: str = "E-MODEL") -> CorruptModelError:
    """The error of a file that is larger than what is read of its kind."""
    return CorruptModelError(f"{shown(path)} is larger than {limit:,} bytes", code=code)


def make_read_error(path: Path, error: OSError, code: str = "E-MODEL") -> InputError:
    """The error of a file that the system does not let us read."""
    return InputError(f"cannot read {shown(path)!r}: {error.strerror or error}", code=code)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(path: Path, mode: int, code: str) -> None:
    kind = describe_kind(mode)
    if kind:
        raise InputError(f"{shown(path)!r} is {kind}, not a file", code=code)


def describe_kind(mode: int) -> str:
    """What something of that `st_mode` is; "" for a regular file.

    >>> describe_kind(stat.S_IFIFO)
    'a named pipe (FIFO)'
    """
    return next((kind for test, kind in KINDS if test(mode)), "")


def identify_format(start: bytes) -> tuple[str, str] | None:
    """What a file with these first bytes is, and what to do; None if it is not recognised.

    >>> identify_format(b"<!DOCTYPE html>")[0]
    'an HTML page'
    """
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    known = ((magic.lower(), what, hint) for magic, what, hint in MAGICS)
    return next(((what, hint) for magic, what, hint in known if start.startswith(magic)), None)


# -- JSON -----------------------------------------------------------------------------------------


def read_json(path: Path, code: str = "E-CONFIG") -> Any:
    """Read a JSON file.

    Raises:
        InputError: it cannot be read.
        CorruptModelError: it is no JSON; see `parse_json`.
    """
    return parse_json(read_file(path, MAX_TEXT, large=code), shown(path), code)


def parse_json(data: bytes | str, name: str, code: str = "E-CONFIG", strict: bool = False) -> Any:
    """Parse JSON in UTF-8; `name` is that of the file, for errors.

    `strict`: without NaN, Infinity and -0, which Python reads as well.

    Raises:
        CorruptModelError: it is no JSON, is nested too deep, names a key twice, or holds half a
            surrogate pair.
    """
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


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the name {twice[:80]!r} stands in it twice")
    return values


def _refuse(literal: str) -> None:
    raise ValueError(f"{literal} is no JSON number")


def _integer(literal: str) -> int | float:
    return -0.0 if literal == "-0" else int(literal)


def _deeper_than(value: Any, limit: int) -> bool:
    layer = [value]
    for _ in range(limit):
        layer = [
            child
            for node in layer
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not layer:
            return False
    return True
