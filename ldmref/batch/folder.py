"""The folder of a batch: images, manifests, errors, and a lock against a second writer.

    out/images/NAME.png              written atomically; NAME ends with the key
    out/manifest.jsonl               a line per image, sorted by line when a run ends
    out/errors.jsonl                 a line per failed row; absent without failures
    out/manifest-1-of-4.jsonl, ...   those of a shard, until a run without shards merges them

During a run, lines are appended as rows finish. A line that was cut off by a kill is ignored, and
its row is generated again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmref.batch.planning import BatchShard
from ldmref.errors import InputError, OutputError, UsageError, short_repr
from ldmref.io.atomic import atomic_write
from ldmref.support.files import open_file, read_file

IMAGES = "images"
PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part")  # left by a write that was killed
NAME = re.compile(r"images/(?:[A-Za-z0-9._-]{1,60}-)??(?P<rest>[0-9a-f]{16}(?:-[0-9]{1,9})?)\.png")
KEY_DIGITS = 16  # of the key, in the name of a file
CODE = "E-BATCH"
MAX_LINES = 2**30  # bytes of a manifest
MAX_SLUG = 60  # characters of `custom_id` in the name of a file

ManifestLine = dict[str, Any]


@dataclass
class BatchFolder:
    """The folder of a batch, open for one shard or for the whole batch."""

    path: Path
    shard: BatchShard | None = None
    _open: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def manifest(self) -> Path:
        """The manifest of this shard, or of the whole batch."""
        return self._named("manifest")

    @property
    def errors(self) -> Path:
        """The errors of this shard, or of the whole batch."""
        return self._named("errors")

    def _named(self, kind: str) -> Path:
        suffix = "" if self.shard is None else f"-{self.shard.name}"
        return self.path / f"{kind}{suffix}.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, and keep others from writing the same files.

        A shard shares the folder with other shards; a whole batch has it alone.

        Raises:
            OutputError: Another process writes into it, or it cannot be written.
        """
        with ExitStack() as stack:
            try:
                (self.path / IMAGES).mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(self.path / ".lock", shared=self.shard is not None))
                if self.shard is not None:
                    stack.enter_context(lock(self.path / f".lock-{self.shard.name}"))
            except BlockingIOError as error:
                raise OutputError(
                    f"another ldmref batch writes into {str(self.path)!r}",
                    code="E-LOCKED",
                    hint="wait for it, or name another folder with -o",
                ) from error
            except OSError as error:
                reason = error.strerror or error
                message = f"cannot write into the folder {str(self.path)!r}: {reason}"
                raise OutputError(message, code="E-WRITE") from error
            try:
                yield
            finally:
                for file in self._open.values():
                    file.close()
                self._open.clear()

    # -- reading ----------------------------------------------------------------------------------

    def read_all(self, kind: str) -> list[ManifestLine]:
        """Return the lines of all files of a kind, "manifest" or "errors", this shard's last."""
        own = self._named(kind)
        others = sorted(path for path in self.path.glob(f"{kind}*.jsonl") if path != own)
        return [line for path in [*others, own] for line in read_lines(path)]

    def verify(self, line: Mapping[str, Any]) -> bool:
        """Return whether the file of a line of the manifest is there, its own and unchanged."""
        if not is_named_after(line):
            return False
        try:
            with open_file(self.path / line["file"], CODE) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == line["sha256"]
        except (InputError, OSError, KeyError, TypeError, ValueError):
            return False

    # -- writing ----------------------------------------------------------------------------------

    def write_image(self, name: str, png: bytes) -> None:
        """Write the file of an image; it appears complete or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        with atomic_write(self.path / name, overwrite=True) as file:
            file.write(png)

    def append(self, path: Path, lines: Iterable[ManifestLine]) -> None:
        """Append lines to a manifest or a file of errors.

        Raises:
            OutputError: They cannot be written.
        """
        text = b"".join(to_line(line) for line in lines)
        try:
            file = self._open.get(path.name)
            if file is None:
                cut_torn_line(path)
                file = self._open[path.name] = open(path, "ab", buffering=0)
            if file.write(text) != len(text):
                raise OSError(None, "the disk is full")
        except OSError as error:
            raise _unwritable(path, error) from error

    def write_sorted(self, path: Path, lines: Sequence[ManifestLine]) -> None:
        """Replace a manifest or a file of errors; without lines, errors have no file.

        Raises:
            OutputError: It cannot be written.
        """
        file = self._open.pop(path.name, None)
        if file is not None:
            file.close()
        if not lines and path == self.errors:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        with atomic_write(path, overwrite=True) as new:
            new.writelines(to_line(line) for line in lines)

    def remove_leftovers(self, names: Iterable[str]) -> None:
        """Remove the parts that killed writes have left.

        Args:
            names: The files of this shard; other shards may be writing theirs. A whole batch
                removes every part.
        """
        own = {Path(name).name for name in names}
        for folder in (self.path, self.path / IMAGES):
            for path in folder.glob(".*.part"):
                match = PART.fullmatch(path.name)
                mine = match is not None and match["name"] in {*own, self.manifest.name}
                if match is not None and (mine or self.shard is None):
                    path.unlink(missing_ok=True)

    def remove_shards(self) -> None:
        """Remove the manifests, errors and locks of shards, which the whole batch replaces."""
        if self.shard is None:
            for pattern in ("manifest-*-of-*.jsonl", "errors-*-of-*.jsonl", ".lock-*-of-*"):
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)


def check_path(path: object) -> Path:
    """Return the path of the folder of a batch.

    Raises:
        UsageError: It is neither text nor a path.
    """
    if not isinstance(path, str | os.PathLike):
        message = f"the folder of a batch must be text or a path, not {short_repr(path)}"
        raise UsageError(message, code="E-OUTPUT")
    return Path(os.fsdecode(path))


def _unwritable(path: Path, error: OSError) -> OutputError:
    message = f"cannot write {path.name!r}: {error.strerror or error}"
    return OutputError(message, code="E-WRITE")


@contextmanager
def lock(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a file, which the system releases if the process dies.

    Raises:
        BlockingIOError: Another process holds it.
    """
    import fcntl

    with open(path, "ab") as file:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield


def name_image(key: str, custom_id: str | None, index: int, count: int) -> str:
    """Return the name of the file of an image, relative to the folder.

    >>> name_image("0123456789abcdef0123", "Blue heart/../x", 1, 3)
    'images/Blue-heart-..-x-0123456789abcdef-1.png'
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", custom_id or "")[:MAX_SLUG].strip("-.")
    parts = [*([slug] if slug else []), key[:KEY_DIGITS], *([str(index)] if count > 1 else [])]
    return f"{IMAGES}/{'-'.join(parts)}.png"


def is_named_after(line: Mapping[str, Any]) -> bool:
    """Return whether the file of a line of a manifest has a name that `name_image` gives its key.

    Any other name belongs to another row, or to a file outside of the folder.
    """
    match = NAME.fullmatch(str(line.get("file")))
    key, index = str(line.get("key")), line.get("index")
    return match is not None and match["rest"] in (key[:KEY_DIGITS], f"{key[:KEY_DIGITS]}-{index}")


def to_line(line: Mapping[str, Any]) -> bytes:
    """Return a line of JSON in UTF-8."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def read_lines(path: Path) -> Iterator[ManifestLine]:
    """Yield the objects of a file of JSON lines; lines that are damaged or cut off are ignored.

    Raises:
        InputError: It is not a regular file, or is larger than `MAX_LINES` bytes.
    """
    if not os.path.lexists(path):
        return
    content = read_file(path, MAX_LINES, CODE)
    for line in content.splitlines(keepends=True):
        with suppress(ValueError, RecursionError):
            value = json.loads(line) if line.endswith(b"\n") else None
            if isinstance(value, dict):
                yield value


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without its end, so the next line does not continue it."""
    with suppress(FileNotFoundError), open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        step = 65_536
        while end:
            start = max(0, end - step)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
