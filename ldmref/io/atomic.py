"""Atomic writing: a file appears complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ldmref.errors import LdmrefError, OutputError, short_path
from ldmref.support.files import describe_kind, shown


def check_writable(path: Path, overwrite: bool) -> None:
    """Refuse a path that cannot be written, before any work is done for it.

    Raises:
        OutputError: Its folder does not exist or was deleted; it exists itself, even as a broken
            link (unless `overwrite`); it is a pipe, a socket or a device; or the system does not
            allow the name.
    """
    try:
        mode = _mode(path)
        if not stat.S_ISDIR(_mode(_absolute(path.parent))):
            what = f"the folder {str(path.parent)!r} does not exist"
            raise OutputError(what, code="E-FOLDER", hint="create it first")
    except (OSError, ValueError) as error:
        if isinstance(error, OutputError):
            raise
        raise _unwritable(path, error) from error
    kind = describe_kind(mode) if mode and not stat.S_ISDIR(mode) else ""
    if kind:
        raise OutputError(f"{shown(path)!r} is {kind}, not a file", code="E-EXISTS")
    if mode and not overwrite:
        raise OutputError(f"{str(path)!r} exists", code="E-EXISTS", hint="add overwrite=True")


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except FileNotFoundError as error:
        message = "the working folder has been deleted"
        hint = "change to another folder"
        raise OutputError(message, code="E-FOLDER", hint=hint) from error


def _mode(path: Path) -> int:
    """Return `st_mode`, of the link itself if it is broken; 0 for a path that does not exist."""
    for look in (path.stat, path.lstat):
        try:
            return look().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
    return 0


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    hint = "give a shorter name" if getattr(error, "errno", 0) == errno.ENAMETOOLONG else ""
    return OutputError(f"cannot write {shown(path)!r}: {reason}", code="E-WRITE", hint=hint)


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`, which is renamed to `path` on success.

    Raises:
        OutputError: `path` has appeared in the meantime (unless `overwrite`), or cannot be written.
    """
    start = path.name.encode("utf-8", "replace")[:100].decode("utf-8", "ignore")
    temporary = path.with_name(f".{start}.{secrets.token_hex(4)}.part")
    try:
        opened = open(temporary, "xb")
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    try:
        with opened as file:
            yield file
        _publish(temporary, path, overwrite)
    except FileExistsError as error:
        raise OutputError(f"{str(path)!r} exists", code="E-EXISTS") from error
    except OSError as error:
        if isinstance(error, LdmrefError):
            raise
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Rename the finished file; without `overwrite`, keep a file that has appeared meanwhile."""
    if not overwrite:
        try:
            return os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            pass
    os.replace(temporary, path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Make a temporary folder next to `folder`, which replaces it on success.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        folder = folder.resolve()  # a link stays one
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_folder(folder)
        try:
            temporary.mkdir()
            yield temporary
            _replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.strerror or error
        message = f"cannot write the folder {str(folder)!r}: {reason}"
        raise OutputError(message, code="E-WRITE") from error


def require_own(folder: Path, files: Iterable[str]) -> None:
    """Refuse to replace a folder that holds a file which the program has not written.

    Args:
        folder: A folder that exists.
        files: The files that the program has written, relative to it, with /.

    Raises:
        OutputError: There is another file, or an empty folder.
    """
    own = {*files}
    parents = {str(parent) for name in own for parent in PurePosixPath(name).parents}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if name not in (parents if is_folder else own):
            raise OutputError(
                f"{shown(folder)!r} also holds {short_path(name)}, so it is not replaced",
                code="E-EXISTS",
                hint="move it away, or give another name",
            )


def _replace_folder(temporary: Path, folder: Path) -> None:
    """Rename the finished folder; the folder that it replaces is moved aside, then removed."""
    if not folder.exists():
        return os.replace(temporary, folder)
    aside = _temporary_folder(folder)
    os.replace(folder, aside)
    try:
        os.replace(temporary, folder)
    except OSError:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _temporary_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name[:50]}.{secrets.token_hex(4)}.part")
