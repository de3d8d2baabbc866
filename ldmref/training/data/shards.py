"""Tar files in the layout of webdataset as a data set, read member by member, never extracted.

`000000.tar` holds `KEY.png` (or another of `IMAGE_SUFFIXES`) and, for its captions, `KEY.txt` (one
per line), `KEY.json` (`text` or `caption`: a string or a list of them) or `KEY.caption`; for its
class `KEY.cls`. KEY is all before the first dot of the file's name, with its folder. Files of a key
stand together; others are not joined to it, with a warning. Anything else is not read but named, as
are links, devices and files larger than `MAX_MEMBER`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from ldmref.errors import abbreviated, counted
from ldmref.files import open_file
from ldmref.training.data.listing import IMAGE_SUFFIXES, list_files, unread_files
from ldmref.training.data.memory import ImagesInMemory, Sample, caption_of_name, data_error

MAX_MEMBER = 64 * 2**20
TEXTS = (".txt", ".caption", ".json")
CLASS = ".cls"
Files = dict[str, bytes]  # by lower-case suffix


def shard_files(root: Path) -> list[Path]:
    """The tar files of a folder, or the one that `root` is, sorted."""
    if root.is_dir():
        return sorted(path for path in root.glob("*.tar") if path.is_file())
    return [root] if root.suffix == ".tar" and root.is_file() else []


def shards_of(root: Path) -> list[Path]:
    """The tar files of a data source; none if it is a folder of images.

    Raises:
        InputError: the folder holds both, and either may be a copy of the other.
    """
    shards = shard_files(root)
    images = list_files(root).images if shards and root.is_dir() else []
    if images:
        names = abbreviated([file.relative_to(root).as_posix() for file in images], 3)
        tars = abbreviated([file.name for file in shards], 3)
        message = f"{str(root)!r} holds images ({names}) and tar files ({tars})"
        hint = "move the ones out of the folder, or give a tar file as the data"
        raise data_error(message, hint)
    return shards


def unread_beside_shards(root: Path) -> list[str]:
    """A warning that names what lies beside the tar files of a folder; none if nothing does."""
    if not root.is_dir():
        return []
    shards = shard_files(root)
    return unread_files(root, [file for file in list_files(root).others if file not in shards])


class ShardDataset(ImagesInMemory):
    """The images of tar files.

    Raises:
        InputError: a file is no tar, captions are no UTF-8 or JSON, or no image can be read.
        Cancelled: `cancel` was set before all images were read.
    """

    def __init__(self, root: str | Path, size: int, cancel: Event | None = None):
        files = shard_files(Path(root))
        apart: list[str] = []
        unread: list[str] = []
        samples = (sample for file in files for sample in _samples(file, apart, unread))
        super().__init__(samples, size, cancel)
        if apart:
            message = f"{counted(len(apart), 'key')} whose files are not adjacent, not joined: "
            self.warnings.append(message + abbreviated(apart))
        if unread:
            message = f"{counted(len(unread), 'member')} of tar files not read: "
            self.warnings.append(message + abbreviated(unread))
        if not len(self.images):
            message = f"no image in the {counted(len(files), 'tar file')} of {str(root)!r} can be "
            message += "read"
            raise data_error(message, "KEY.png and KEY.txt, as webdataset writes them")


def _samples(file: Path, apart: list[str], unread: list[str]) -> Iterator[Sample]:
    """The images of a tar file, with their captions and classes; see `files_by_key`.

    Appends to `apart` the names of keys that occur again after another one.
    """
    seen: set[str] = set()
    for key, parts in files_by_key(file, unread):
        if key in seen:
            apart.append(f"{file.name}/{key}")
        seen.add(key)
        image = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
        if image is not None:
            name = f"{file.name}/{key}"
            texts = _captions(parts, name)
            label = _text(parts.get(CLASS, b""), name).strip()
            uncaptioned = not texts and not parts.keys().isdisjoint(TEXTS)
            texts = texts or [caption_of_name(Path(key))]
            yield Sample(name, io.BytesIO(image), texts, label, uncaptioned)


def files_by_key(file: Path, unread: list[str]) -> Iterator[tuple[str, Files]]:
    """The keys of a tar file in its order, each with its files by lower-case suffix.

    Appends to `unread` the names of members that belong to no key.

    Raises:
        InputError: it cannot be read to its end.
    """
    current = ""
    parts = Files()
    try:
        with open_file(file) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                known = f".{suffix.lower()}" in (*IMAGE_SUFFIXES, *TEXTS, CLASS)
                regular = member.isreg() and member.size <= MAX_MEMBER
                if not (regular and known and stem and dot):
                    if not member.isdir():
                        unread.append(f"{file.name}/{member.name}")
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if key != current and parts:
                    yield current, parts
                    parts = Files()
                current = key
                data = tar.extractfile(member)
                if data is not None:
                    parts[f".{suffix.lower()}"] = data.read()
    except Exception as error:  # tarfile fails in many ways, for chained headers by recursion
        raise data_error(f"cannot read the tar file {str(file)!r}: {error}") from error
    if parts:
        yield current, parts


def _captions(parts: Files, name: str) -> list[str]:
    """The captions of a sample; none if it has none."""
    suffix = next((suffix for suffix in TEXTS if suffix in parts), "")
    text = _text(parts.get(suffix, b""), name)
    if suffix == ".json":
        try:
            table = json.loads(text)
            value = table.get("text", table.get("caption")) if isinstance(table, dict) else None
        except (ValueError, RecursionError) as error:
            raise data_error(f"cannot read the captions of {name!r}: {error}") from error
        lines = value if isinstance(value, list) else [value]
        lines = [line for line in lines if line is not None]
        if not all(isinstance(line, str) for line in lines):
            raise data_error(f"the captions of {name!r} are no text")
        lines = [line.encode("utf-8", "replace").decode() for line in lines]
    else:
        lines = text.splitlines()
    return [line.strip() for line in lines if line.strip()]


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise data_error(f"cannot read the captions of {name!r}: {error}") from error
