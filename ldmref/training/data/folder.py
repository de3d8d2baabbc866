"""A folder of captioned pictures as a data set."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from ldmref.errors import InputError, abbreviated
from ldmref.files import read_file
from ldmref.training.data.memory import PicturesInMemory, Sample, caption_of_name, data_error
from ldmref.training.monitor.metrics import METRICS

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TABLES = ("metadata.jsonl", "metadata.csv")
MAX_TABLE, MAX_CAPTIONS = 100_000_000, 1_000_000  # bytes


class FolderDataset(PicturesInMemory):
    """A folder of pictures. The caption of `cat.png` comes from the first of these that has one:

    `metadata.jsonl` (lines `{"file_name": ..., "text": ...}`), `metadata.csv` (the same columns),
    `cat.txt` beside it (one caption per line, chosen at random); else from the file name, with
    `_` and `-` as spaces. The class of a picture is the sub-folder that it is in, directly or
    further down. The pictures that a training has left beside its `metrics.jsonl` are not read.

    Raises:
        InputError: no such folder, no picture in it that can be read, or captions that cannot.
        Cancelled: `cancel` was set before all of them were read.
    """

    def __init__(self, folder: str | Path, size: int, cancel: Event | None = None):
        root = Path(folder)
        captions, warnings = captioned_files(root)
        names = ((file, file.relative_to(root)) for file in captions)
        super().__init__(
            (Sample(n.as_posix(), file, captions[file], _class_of(n)) for file, n in names),
            size,
            cancel,
        )
        self.warnings = warnings + self.warnings
        if not len(self.images):
            message = f"none of the {len(captions)} pictures in {str(folder)!r} can be read"
            raise data_error(message, "PNG, JPEG and WebP are read")


def captioned_files(root: Path) -> tuple[dict[Path, list[str]], list[str]]:
    """The captions of every picture file, and warnings about those that a table lacks.

    Raises:
        InputError: no such folder, no pictures, or captions that cannot be read.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise data_error(f"the folder of training pictures {str(root)!r} {problem}")
    trainings = {path.parent for path in root.rglob(METRICS)}
    paths = (p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    files = sorted(p for p in paths if p.is_file() and trainings.isdisjoint(p.parents))
    if not files:
        raise data_error(f"no pictures in {str(root)!r}", "PNG, JPEG and WebP are read")
    table, warnings = _captions_table(root), []
    names = {file: file.relative_to(root).as_posix() for file in files}
    captions = {file: table.get(name) or _text_captions(file) for file, name in names.items()}
    without = [names[file] for file, texts in captions.items() if not texts]
    absent = [name for name in table if name not in set(names.values())]
    if table and len(absent) == len(table):
        hint = f"file_name is relative to the folder; the first row names {absent[0]!r}"
        raise data_error(f"no row of the captions in {str(root)!r} names a picture there", hint)
    if table and without:
        warnings.append(
            f"{len(without)} pictures without a caption, named by file: {abbreviated(without)}"
        )
    if absent:
        warnings.append(f"{len(absent)} captions of absent pictures: {abbreviated(absent)}")
    return {file: captions[file] or [caption_of_name(file)] for file in files}, warnings


def _class_of(path: Path) -> str:
    """The first folder of a relative path; "" if it has none."""
    name = path.parts[0] if len(path.parts) > 1 else ""
    return name.encode("utf-8", "replace").decode().strip()


def _captions_table(root: Path) -> dict[str, list[str]]:
    """The captions of `metadata.jsonl`, else of `metadata.csv`, by file name."""
    file = next((root / name for name in TABLES if (root / name).exists()), None)
    table: dict[str, list[str]] = {}
    if file is None:
        return table
    rows = 0
    try:
        for row in _rows(file):
            name, text = row["file_name"], row["text"]
            if not isinstance(name, str) or not isinstance(text, str):
                raise ValueError("file_name and text must be strings")
            text.encode("utf-8")  # JSON can escape what is no text
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
    """The lines of the text file beside a picture; none if there is no such file."""
    captions = file.with_suffix(".txt")
    try:
        data = read_file(captions, MAX_CAPTIONS) if captions.exists() else b""
        text = data.decode("utf-8-sig")
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise data_error(f"cannot read the captions {str(captions)!r}: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
