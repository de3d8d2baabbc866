"""Atomic writing: a file appears complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ldmref.errors import OutputError


def check_writable(path: Path, overwrite: bool) -> None:
    """Refuse a path that cannot be written, before any work is done for it.

    Raises:
        OutputError: its folder does not exist, or it exists itself (unless `overwrite`).
    """
    with output_errors(path):
        if not path.parent.is_dir():
            what = f"the folder {str(path.parent)!r} does not exist"
            raise OutputError(what, code="E-FOLDER", hint="create it first")
        if path.exists() and not overwrite:
            raise OutputError(f"{str(path)!r} exists", code="E-EXISTS", hint="add overwrite=True")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into an OutputError that names `path`."""
    try:
        yield
    except OutputError:
        raise
    except FileExistsError as error:
        raise OutputError(f"{str(path)!r} exists", code="E-EXISTS") from error
    except OSError as error:
        raise OutputError(
            f"cannot write {str(path)!r}: {error.strerror or error}", code="E-WRITE"
        ) from error


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, which is renamed to `path` on success.

    Raises:
        OutputError: `path` has appeared meanwhile (unless `overwrite`), or it cannot be written.
    """
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    with output_errors(path):
        try:
            with open(temporary, "xb") as file:
                yield file
            _publish(temporary, path, overwrite)
        finally:
            temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Rename the finished file; without `overwrite`, one that has appeared meanwhile is kept."""
    if not overwrite:
        try:
            return os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            pass
    os.replace(temporary, path)
