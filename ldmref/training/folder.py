"""The folder of a training: checked early, locked while in use, cleared of interrupted writing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ldmref.errors import OutputError
from ldmref.files import not_a_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before anything is computed.

    Raises:
        OutputError: it is a file, or the folder that exists above it is not writable.
    """
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    if not existing.is_dir():
        raise OutputError(f"{str(existing)!r} is not a folder", code="E-WRITE")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {str(existing)!r}", code="E-WRITE")


@contextlib.contextmanager
def training_folder(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it for one training.

    What an interrupted writing left behind is removed; the lock ends with the process.

    Raises:
        OutputError: it cannot be made, another training uses it, or it holds a pipe or a device,
            which would be waited for.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make the folder {str(folder)!r}: {error.strerror}"
        raise OutputError(message, code="E-WRITE") from error
    for path in folder.iterdir():
        if problem := not_a_file(path) if path.exists() and not path.is_dir() else "":
            raise OutputError(f"{str(path)!r} {problem}", code="E-WRITE", hint="give another -o")
    with _lock(folder):
        _remove_temporaries(folder)
        yield


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        message = f"another training is using {str(folder)!r}"
        raise OutputError(message, code="E-IN-USE", hint="give another -o") from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _remove_temporaries(folder: Path) -> None:
    """The files and folders that `atomic_write` and `atomic_folder` name .NAME.XXXXXXXX.part."""
    for path in folder.glob(".*.????????.part"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
