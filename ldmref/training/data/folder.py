"""A folder of captioned pictures as a data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ldmref.errors import ImageError, InputError
from ldmref.io.pictures.images import read_image
from ldmref.training.data.augmentation import Augmentation

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TABLES = ("metadata.jsonl", "metadata.csv")
MOST_NAMES = 20  # named in one warning


class FolderDataset:
    """A folder of pictures. The caption of `cat.png` comes from the first of these that has one:

    `metadata.jsonl` (lines `{"file_name": ..., "text": ...}`), `metadata.csv` (the same columns),
    `cat.txt` beside it (one caption per line, chosen at random); else from the file name, with
    `_` and `-` as spaces. Pictures are centre-cropped to a square and resized. Those that cannot be
    read are skipped: `skipped` names them.

    The class of a picture is the sub-folder that it is in, directly or further down.

    Raises:
        InputError: no such folder, no picture in it that can be read, or captions that cannot.
    """

    augmentation = Augmentation()

    def __init__(self, folder: str | Path, size: int):
        root = Path(folder)
        captions, self.warnings = captioned_files(root)
        images, self.captions, self.skipped, self.classes = [], [], [], []
        for file, texts in captions.items():
            try:
                images.append(square(read_image(file), size))
                self.captions.append(texts)
                self.classes.append(_class_of(file.relative_to(root)))
            except ImageError:
                self.skipped.append(file.relative_to(root).as_posix())
        if not images:
            message = f"none of the {len(captions)} pictures in {str(folder)!r} can be read"
            raise InputError(message, code="E-DATA", hint="PNG, JPEG and WebP are read")
        if self.skipped:
            message = f"{len(self.skipped)} of {len(captions)} pictures cannot be read, skipped: "
            self.warnings.append(message + shorten(self.skipped))
        self.images, self.weights = np.stack(images), np.ones(len(images))

    def caption(self, i: int, rng: np.random.Generator) -> str:
        return self.captions[i][rng.integers(len(self.captions[i]))]

    def vocabulary(self) -> list[str]:
        return [text for texts in self.captions for text in texts]


def captioned_files(root: Path) -> tuple[dict[Path, list[str]], list[str]]:
    """The captions of every picture file, and warnings about those that a table lacks.

    Raises:
        InputError: no such folder, no pictures, or captions that cannot be read.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise data_error(f"the folder of training pictures {str(root)!r} {problem}")
    paths = (p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    files = sorted(path for path in paths if path.is_file())
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
            f"{len(without)} pictures without a caption, named by file: {shorten(without)}"
        )
    if absent:
        warnings.append(f"{len(absent)} captions of absent pictures: {shorten(absent)}")
    return {file: captions[file] or [caption_of_name(file)] for file in files}, warnings


def caption_of_name(file: Path) -> str:
    name = file.stem.replace("_", " ").replace("-", " ")
    return name.encode("utf-8", "replace").decode()  # names may be any bytes


def _class_of(path: Path) -> str:
    """The first folder of a relative path; "" if it has none."""
    return path.parts[0].encode("utf-8", "replace").decode() if len(path.parts) > 1 else ""


def square(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else error
        message = f"cannot read {str(file)!r}, row {rows + 1}: {missing}"
        raise data_error(message, f"{' and '.join(TABLES)} need file_name and text") from error
    return table


def _rows(file: Path) -> Iterator[dict]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        if file.suffix == ".csv":
            yield from csv.DictReader(lines)
        else:
            yield from (json.loads(line) for line in lines if line.strip())


def _text_captions(file: Path) -> list[str]:
    """The lines of the text file beside a picture; none if there is no such file."""
    captions = file.with_suffix(".txt")
    try:
        text = captions.read_text("utf-8-sig") if captions.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise data_error(f"cannot read the captions {str(captions)!r}: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def shorten(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def data_error(message: str, hint: str = "") -> InputError:
    return InputError(message, code="E-DATA", hint=hint)
