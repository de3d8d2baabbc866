"""The files of a folder of training images: which are read, and which are not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ldmref.errors import abbreviated, counted
from ldmref.io.images.pil import FORMATS

METRICS = "metrics.jsonl"  # in the folder of every training, whose images are not read
# Pillow decodes GIF and BMP itself. TIFF and AVIF need libraries with many formats and faults.
IMAGE_FORMATS = (*FORMATS, "GIF", "BMP")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp")
FORMATS_READ = "PNG, JPEG, WebP, GIF and BMP are read"
TABLES = ("metadata.jsonl", "metadata.csv")  # the first that a folder has


class Listing(NamedTuple):
    """The files of a folder and of the folders in it, sorted."""

    images: list[Path]
    tables: list[Path]
    others: list[Path]
    """Neither images, nor captions of images, nor hidden."""


def list_files(root: Path) -> Listing:
    """Sort the files of a folder by their use.

    The output of a training, recognised by its `metrics.jsonl`, is in none of the lists.
    """
    paths = sorted(root.rglob("*"))
    trainings = {path.parent for path in paths if path.name == METRICS}
    files = [p for p in paths if not p.is_dir() and trainings.isdisjoint(p.parents)]
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    # including a folder of that name, which cannot be read
    found = {p for p in paths if p.name in TABLES and trainings.isdisjoint(p.parents)}
    folders = sorted({path.parent for path in found})
    tables = [next(f / name for name in TABLES if f / name in found) for f in folders]
    used = {*images, *tables, *(image.with_suffix(".txt") for image in images)}
    others = [p for p in files if p not in used and not _is_hidden(p.relative_to(root))]
    return Listing(images, tables, others)


def unread_files(root: Path, others: list[Path]) -> list[str]:
    """Return a warning that names the files that are not read; none if there are none."""
    names = [file.relative_to(root).as_posix() for file in others]
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{counted(len(names), 'file')} {verb} not read: {abbreviated(names)}"]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
