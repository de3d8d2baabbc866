"""Compiled graphs on disk, in the user's cache folder: the next program starts sooner.

The folder is `ldmref/graphs` in `$XDG_CACHE_HOME` (by default `~/.cache`; on Windows
`%LOCALAPPDATA%`). It may be deleted at any time. A file is named after a digest of everything that
the compiled graph depends on, and begins with the digest of that name and its contents: a damaged
or renamed file counts as missing. Files appear complete or not at all, so processes can share the
folder. A folder that cannot be written is left alone.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ldmref.backends.graph.graph import Graph
from ldmref.errors import InputError
from ldmref.support.files import read_file

LARGEST = 2**28  # bytes of parameters; larger networks take as long to read as to compile
CAPACITY = 2**30  # bytes of all files; those that were not used for longest are deleted
SUFFIX = ".graph"
DIGEST = hashlib.sha256().digest_size


def find_folder() -> Path:
    """Return the folder of compiled graphs, whether or not it exists.

    Raises:
        RuntimeError: The user has no home folder.
    """
    variable = "LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"
    cache = os.environ.get(variable, "")
    root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return root / "ldmref" / "graphs"


def make_key(parts: Iterable[str | bytes], graph: Graph) -> str:
    """Return the name of a compiled graph: the digest of `parts` and of all parameters."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(data)} ".encode())
        digest.update(data)
    for name, array in graph.parameters.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def seal(key: str, data: bytes) -> bytes:
    """Return the digest at the beginning of a file: of its contents and of the graph's key."""
    return hashlib.sha256(key.encode() + data).digest()


def read(key: str) -> bytes | None:
    """Return a compiled graph; None if the cache does not have it, or not intact."""
    with suppress(InputError, OSError, RuntimeError):
        path = find_folder() / f"{key}{SUFFIX}"
        content = read_file(path, DIGEST + CAPACITY)
        data = content[DIGEST:]
        if seal(key, data) == content[:DIGEST]:
            os.utime(path)  # the latest used
            return data
    return None


def write(key: str, data: bytes) -> None:
    """Add a compiled graph and make room for it; without permission to write, do nothing."""
    if len(data) > CAPACITY:
        return
    with suppress(OSError, RuntimeError):
        folder = find_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f".{secrets.token_hex(8)}.part"
        try:
            with open(temporary, "xb") as file:
                file.write(seal(key, data))
                file.write(data)
            os.replace(temporary, folder / f"{key}{SUFFIX}")
        finally:
            temporary.unlink(missing_ok=True)
        _make_room(folder)


def measure() -> tuple[int, int]:
    """Return the number of files in the cache, and their size in bytes."""
    with suppress(OSError, RuntimeError):
        sizes = [size for _, size, _ in _list_files(find_folder())]
        return len(sizes), sum(sizes)
    return 0, 0


def _list_files(folder: Path) -> list[tuple[float, int, Path]]:
    """Return time of the last use, size and path of every file."""
    files = []
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):  # another process has deleted it
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    return files


def _make_room(folder: Path) -> None:
    """Delete the files that were not used for longest, beyond the capacity."""
    total = 0
    for _, size, path in sorted(_list_files(folder), reverse=True):
        total += size
        if total > CAPACITY:
            with suppress(OSError):
                path.unlink()
