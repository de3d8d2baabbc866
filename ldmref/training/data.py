"""Captioned training pictures: the data set protocol, and folders of pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ldmref.errors import InputError
from ldmref.io.pictures.images import read_image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Dataset(Protocol):
    """Pictures in memory with random captions."""

    images: np.ndarray
    """(n, 3, H, W) uint8."""
    weights: np.ndarray
    """(n,) relative sampling frequencies."""

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """A random caption of picture `i`."""
        ...

    def vocabulary(self) -> list[str]:
        """Texts with every word of the captions, in proportion to its importance."""
        ...


class FolderDataset:
    """A folder of pictures. The caption of `cat.png` comes from the first of these that exists:

    `metadata.jsonl` (lines `{"file_name": ..., "text": ...}`), `metadata.csv` (the same columns),
    `cat.txt` beside it (one caption per line, chosen at random); else from the file name, with
    `_` and `-` as spaces. Pictures are centre-cropped to a square and resized.
    """

    def __init__(self, folder: str | Path, size: int):
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"no folder {str(folder)!r} with training pictures", code="E-DATA")
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            message = f"no pictures in {str(folder)!r}"
            raise InputError(message, code="E-DATA", hint="PNG, JPEG and WebP are read")
        table = _captions_table(root)
        self.captions = [_captions(file, root, table) for file in files]
        self.images = np.stack([_square(read_image(file), size) for file in files])
        self.weights = np.ones(len(files))

    def caption(self, i: int, rng: np.random.Generator) -> str:
        return self.captions[i][rng.integers(len(self.captions[i]))]

    def vocabulary(self) -> list[str]:
        return [text for texts in self.captions for text in texts]


def _square(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def _captions_table(root: Path) -> dict[str, list[str]]:
    table, rows = {}, []
    try:
        if (root / "metadata.jsonl").exists():
            lines = (root / "metadata.jsonl").read_text("utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        elif (root / "metadata.csv").exists():
            with open(root / "metadata.csv", encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        for row in rows:
            table.setdefault(row["file_name"], []).append(row["text"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"cannot read the captions in {root.name!r}: {error}"
        hint = "metadata.jsonl and metadata.csv need file_name and text"
        raise InputError(message, code="E-DATA", hint=hint) from error
    return table


def _captions(file: Path, root: Path, table: dict[str, list[str]]) -> list[str]:
    name = file.relative_to(root).as_posix()
    if name in table:
        return table[name]
    captions = file.with_suffix(".txt")
    text = captions.read_text("utf-8") if captions.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines or [file.stem.replace("_", " ").replace("-", " ")]
