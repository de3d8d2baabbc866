"""Tar files in the layout of webdataset as a data set, read member by member, never extracted.

A tar file such as `000000.tar` contains an image `KEY.png` (or another of `IMAGE_SUFFIXES`), its
captions `KEY.txt` (one per line), `KEY.json` (`text` or `caption`: a string or a list of strings)
or `KEY.caption`, and its class `KEY.cls`. KEY is the folder and the file's name up to the first
dot. Files of a key must be adjacent; other files of that key are not used, with a warning.
Everything else is not read and named in a warning, including links, devices and files larger than
`MAX_MEMBER`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from ldmref.datasets.listing import IMAGE_SUFFIXES, list_files, unread_files
from ldmref.datasets.memory import ImagesInMemory, Sample, caption_from_name, data_error
from ldmref.errors import abbreviated, counted
from ldmref.support.files import open_file

MAX_MEMBER = 64 * 2**20  # bytes
TEXTS = (".txt", ".caption", ".json")
CLASS = ".cls"
Files = dict[str, bytes]  # by lower-case suffix


def shard_files(root: Path) -> list[Path]:
    """Return the tar files of a folder, sorted, or `root` if it is a tar file."""
    if root.is_dir():
        return sorted(path for path in root.glob("*.tar") if path.is_file())
    return [root] if root.suffix == ".tar" and root.is_file() else []


def find_shards(root: Path) -> list[Path]:
    """Return the tar files of a data source; none if it is a folder of images.

    Raises:
        InputError: The folder contains both, and one may be a copy of the other.
    """
    shards = shard_files(root)
    images = list_files(root).images if shards and root.is_dir() else []
    if images:
        names = abbreviated([file.relative_to(root).as_posix() for file in images], 3)
        tars = abbreviated([file.name for file in shards], 3)
        message = f"{str(root)!r} contains images ({names}) and tar files ({tars})"
        hint = "move one kind out of the folder, or give a tar file as the data"
        raise data_error(message, hint)
    return shards


def unread_beside_shards(root: Path) -> list[str]:
    """Return a warning that names the other files in a folder of tar files; none without such."""
    if not root.is_dir():
        return []
    shards = shard_files(root)
    return unread_files(root, [file for file in list_files(root).others if file not in shards])


class ShardDataset(ImagesInMemory):
    """The images of tar files, as a `Dataset` in memory.

    Args:
        root: A tar file, or a folder of tar files, in the layout of webdataset.
        size: Width and height of the images in pixels.
        cancel: If this event is set, reading stops. None: it cannot be stopped.

    Raises:
        InputError: A file is not a tar file, captions are not UTF-8 or JSON, or no image can be
            read.
        Cancelled: `cancel` was set before all images were read.

    >>> import io, tarfile, tempfile
    >>> from PIL import Image
    >>> from ldmref.datasets import ShardDataset
    >>> png = io.BytesIO()
    >>> Image.new("RGB", (32, 32), "red").save(png, "PNG")
    >>> path = tempfile.mkdtemp() + "/000000.tar"
    >>> with tarfile.open(path, "w") as tar:
    ...     for name, data in (("0.png", png.getvalue()), ("0.txt", b"a red square")):
    ...         member = tarfile.TarInfo(name)
    ...         member.size = len(data)
    ...         tar.addfile(member, io.BytesIO(data))
    >>> data = ShardDataset(path, size=16)
    >>> data.images.shape, data.vocabulary()
    ((1, 3, 16, 16), ['a red square'])
    """

    def __init__(self, root: str | Path, size: int, cancel: Event | None = None):
        files = shard_files(Path(root))
        separated: list[str] = []
        unread: list[str] = []
        samples = (sample for file in files for sample in _samples(file, separated, unread))
        super().__init__(samples, size, cancel)
        if separated:
            message = f"{counted(len(separated), 'key')} whose files are not adjacent, not joined: "
            self.warnings.append(message + abbreviated(separated))
        if unread:
            message = f"{counted(len(unread), 'member')} of tar files not read: "
            self.warnings.append(message + abbreviated(unread))
        if not len(self.images):
            message = f"no image in the {counted(len(files), 'tar file')} of {str(root)!r} can be "
            message += "read"
            raise data_error(message, "KEY.png and KEY.txt, as webdataset writes them")


def _samples(file: Path, separated: list[str], unread: list[str]) -> Iterator[Sample]:
    """Yield the images of a tar file, with their captions and classes; see `files_by_key`.

    The names of keys that occur again after another key are appended to `separated`.
    """
    seen: set[str] = set()
    for key, parts in files_by_key(file, unread):
        if key in seen:
            separated.append(f"{file.name}/{key}")
        seen.add(key)
        image = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
        if image is not None:
            name = f"{file.name}/{key}"
            texts = _captions(parts, name)
            label = _text(parts.get(CLASS, b""), name).strip()
            uncaptioned = not texts and not parts.keys().isdisjoint(TEXTS)
            texts = texts or [caption_from_name(Path(key))]
            yield Sample(name, io.BytesIO(image), texts, label, uncaptioned)


def files_by_key(file: Path, unread: list[str]) -> Iterator[tuple[str, Files]]:
    """Yield the keys of a tar file in order, each with its files by lower-case suffix.

    The names of members that are not used are appended to `unread`.

    Raises:
        InputError: The file cannot be read to its end.
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
    except Exception as error:  # tarfile raises many kinds, for chained headers a RecursionError
        raise data_error(f"cannot read the tar file {str(file)!r}: {error}") from error
    if parts:
        yield current, parts


def _captions(parts: Files, name: str) -> list[str]:
    """Return the captions of a sample."""
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
            raise data_error(f"the captions of {name!r} are not text")
        lines = [line.encode("utf-8", "replace").decode() for line in lines]
    else:
        lines = text.splitlines()
    return [line.strip() for line in lines if line.strip()]


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise data_error(f"cannot read the captions of {name!r}: {error}") from error
