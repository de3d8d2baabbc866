"""A folder of captioned images as a data set."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from ldmref.datasets.listing import FORMATS_READ, TABLES, list_files, unread_files
from ldmref.datasets.memory import ImagesInMemory, Sample, caption_from_name, data_error
from ldmref.errors import InputError, abbreviated, counted
from ldmref.support.files import read_file

# bytes
MAX_TABLE = 100_000_000
MAX_CAPTIONS = 1_000_000


class FolderDataset(ImagesInMemory):
    """A folder of images with captions, as a `Dataset` in memory.

    The caption of `cat.png` comes from the first of these sources that has one:

    1. `metadata.jsonl` (lines `{"file_name": ..., "text": ...}`) or `metadata.csv` (the same
       columns), in the folder or in a folder between it and the image; names are relative to the
       table's folder;
    2. `cat.txt` in the image's folder: one caption per line, chosen at random;
    3. the file name, with `_` and `-` as spaces.

    The class of an image is its sub-folder, directly below the folder. The output of a training,
    recognised by its `metrics.jsonl`, is not read.

    Args:
        folder: The folder; images in folders below it are also read.
        size: Width and height of the images in pixels.
        cancel: If this event is set, reading stops. None: it cannot be stopped.

    Raises:
        InputError: There is no such folder, no image in it can be read, or captions cannot be read.
        Cancelled: `cancel` was set before all of them were read.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from ldmref.datasets import FolderDataset
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (40, 32), "red").save(folder / "a_red_square.png")
    >>> FolderDataset(folder, size=16).vocabulary()
    ['a red square']
    """

    def __init__(self, folder: str | Path, size: int, cancel: Event | None = None):
        root = Path(folder)
        captions, warnings = captioned_files(root)
        names = ((file, file.relative_to(root)) for file in captions)
        super().__init__(
            (Sample(n.as_posix(), file, captions[file], _class_name(n)) for file, n in names),
            size,
            cancel,
        )
        self.warnings = warnings + self.warnings
        if not len(self.images):
            message = f"none of the {len(captions)} images in {str(folder)!r} can be read"
            raise data_error(message, FORMATS_READ)


def captioned_files(root: Path) -> tuple[dict[Path, list[str]], list[str]]:
    """Return the captions of every image file, and warnings about what is missing or not read.

    Raises:
        InputError: There is no such folder or no image in it, or captions cannot be read.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise data_error(f"the folder of training images {str(root)!r} {problem}")
    files, tables, others = list_files(root)
    if not files:
        unread = "; ".join([FORMATS_READ, *unread_files(root, others)])
        raise data_error(f"no images in {str(root)!r}", unread)
    names = {file: file.relative_to(root).as_posix() for file in files}
    table: dict[str, list[str]] = {}
    warnings: list[str] = []
    for file in tables:
        rows = _captions_table(root, file)
        absent = sorted(rows.keys() - set(names.values()))
        if rows and len(absent) == len(rows):
            hint = f"file_name is relative to the table's folder; no image is {absent[0]!r}"
            raise data_error(f"no row of the captions in {str(file)!r} names an image", hint)
        if absent:
            missing = counted(len(absent), "caption")
            warnings.append(f"{missing} without an image: {abbreviated(absent)}")
        for name, texts in rows.items():
            table.setdefault(name, []).extend(texts)
    captions = {file: table.get(name) or _text_captions(file) for file, name in names.items()}
    folders = {file.parent for file in tables}
    without = [
        names[file]
        for file, texts in captions.items()
        if not texts
        if not folders.isdisjoint(file.parents) or file.with_suffix(".txt").exists()
    ]
    if without:
        missing = counted(len(without), "image")
        line = f"{missing} without a caption, named by file: {abbreviated(without)}"
        warnings.insert(0, line)
    warnings += unread_files(root, others)
    return {file: captions[file] or [caption_from_name(file)] for file in files}, warnings


def _class_name(path: Path) -> str:
    """Return the first folder of a relative path; "" if it is a file name."""
    name = path.parts[0] if len(path.parts) > 1 else ""
    return name.encode("utf-8", "replace").decode().strip()


def _captions_table(root: Path, file: Path) -> dict[str, list[str]]:
    """Return the captions of a table by file name relative to `root`; none if the text is null."""
    table: dict[str, list[str]] = {}
    folder = file.parent.relative_to(root)
    rows = 0
    try:
        for row in _rows(file):
            name = row["file_name"]
            text = row["text"]
            if text is None and file.suffix != ".csv":  # in CSV it means that a column is missing
                text = ""
            if not isinstance(name, str) or not isinstance(text, str):
                raise ValueError("file_name and text must be strings")
            text.encode("utf-8")  # JSON can escape lone surrogates
            name = (folder / name).as_posix()
            table.setdefault(name, []).extend([text] if text.strip() else [])
            rows += 1
    except (InputError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else error
        message = f"cannot read {str(file)!r}, row {rows + 1}: {missing}"
        raise data_error(message, f"{' and '.join(TABLES)} need file_name and text") from error
    return table


def _rows(file: Path) -> Iterator[dict]:
    text = read_file(file, MAX_TABLE).decode("utf-8-sig")
    lines = io.StringIO(text, newline="")
    if file.suffix == ".csv":
        yield from csv.DictReader(lines)
    else:
        yield from (json.loads(line) for line in lines if line.strip())


def _text_captions(file: Path) -> list[str]:
    """Return the lines of an image's text file; none without such a file."""
    captions = file.with_suffix(".txt")
    try:
        data = read_file(captions, MAX_CAPTIONS) if captions.exists() else b""
        text = data.decode("utf-8-sig")
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise data_error(f"cannot read the captions {str(captions)!r}: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
