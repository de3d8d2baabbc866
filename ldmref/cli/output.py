"""Where pictures go: named files, numbered names in a folder, or standard output."""

from __future__ import annotations

import io
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import OutputError, UsageError
from ldmref.io.atomic import atomic_write
from ldmref.io.pictures.metadata import check_target, save_image, write_picture

FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
STDOUT, NOISE_ENDING = "-", ".npy"


def slug(text: str) -> str:
    """A safe file name of at most 80 bytes: letters, digits, hyphens; `picture` if none is left.

    >>> slug("A red heart! ../../x")
    'a-red-heart-x'
    """
    plain = unicodedata.normalize("NFKD", text[:1000]).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:80].strip("-") or "picture"


class Output:
    """The target of one run.

    `to` is `-`, a file's name, an existing folder, or None for the working folder. In a folder the
    names are made from prompt and seed, and numbered where they exist.
    """

    def __init__(
        self, to: str | None, prompt: str, kind: str | None, overwrite: bool, metadata: bool
    ):
        self.to, self.kind = to or ".", kind
        self.overwrite, self.metadata, self.slug = overwrite, metadata, slug(prompt)
        in_folder = self.to != STDOUT and Path(self.to).is_dir()
        self.folder = Path(self.to) if in_folder else None

    def check(self, seeds: tuple[int, ...]) -> None:
        """Refuse a target that cannot be written, before anything is computed.

        Raises:
            UsageError: flags that contradict each other.
            OutputError: the target exists, or cannot be written.
        """
        if self.to == STDOUT:
            if len(seeds) > 1:
                raise UsageError(
                    f"{len(seeds)} pictures do not fit into standard output",
                    code="E-OUTPUT",
                    hint="give -o a folder, or draw one",
                )
        elif self.folder is not None:
            check_target(self._numbered(seeds[0]), overwrite=False)
        else:
            if self.to.endswith("/"):
                raise OutputError(f"the folder {self.to!r} does not exist", code="E-FOLDER")
            kinds = {check_target(p, overwrite=self.overwrite) for p in self._named(len(seeds))}
            if self.kind is not None and kinds != {self.kind.upper()}:
                raise UsageError(f"--format {self.kind} contradicts {self.to!r}", code="E-FORMAT")

    def write(self, image: Image.Image, i: int, planned: int, params: dict[str, Any]) -> str:
        """Write picture `i` of as many as planned; returns its name."""
        recorded = params if self.metadata else None
        if self.to == STDOUT:
            buffer = io.BytesIO()
            save_image(buffer, image, (self.kind or "png").upper(), recorded)
            sys.stdout.buffer.write(buffer.getvalue())
            sys.stdout.buffer.flush()
            return STDOUT
        if self.folder is not None:
            return str(self._write_numbered(params["seed"], image, recorded))
        path = self._named(planned)[i]
        write_picture(path, image, recorded, overwrite=self.overwrite)
        return str(path)

    def _named(self, count: int) -> list[Path]:
        path = Path(self.to)
        if count == 1:
            return [path]
        return [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(count)]

    def _numbered(self, seed: int) -> Path:
        """The first free one of `slug-seed.png`, `slug-seed-2.png`, ..."""
        stem, ending = f"{self.slug}-{seed}", FORMATS[self.kind or "png"]
        folder = self.folder or Path()
        path, number = folder / (stem + ending), 1
        while path.exists():
            number += 1
            path = folder / f"{stem}-{number}{ending}"
        return path

    def _write_numbered(self, seed: int, image: Image.Image, params: dict[str, Any] | None) -> Path:
        while True:
            path = self._numbered(seed)
            try:
                write_picture(path, image, params)
                return path
            except OutputError as error:
                if error.code != "E-EXISTS":  # else another process took the name just now
                    raise


def check_noise_file(path: str, overwrite: bool) -> None:
    """Refuse a path to which noise cannot be written, before anything is computed.

    Raises:
        OutputError: another ending, no such folder, or the file exists.
    """
    target = Path(path)
    if target.suffix.lower() != NOISE_ENDING:
        raise OutputError(
            f"noise goes into a file that ends in {NOISE_ENDING}, not {path!r}", code="E-FORMAT"
        )
    if not target.parent.is_dir():
        raise OutputError(
            f"the folder {str(target.parent)!r} does not exist",
            code="E-FOLDER",
            hint="create it first",
        )
    if target.is_dir() or (target.exists() and not overwrite):
        raise OutputError(f"{path!r} exists", code="E-EXISTS", hint="add --overwrite")


def write_noise(path: str, noise: np.ndarray, overwrite: bool) -> None:
    """Write noise, (n, c, h, w), as .npy; the file appears complete or not at all.

    Raises:
        OutputError: it exists (unless `overwrite`), or cannot be written.
    """
    with atomic_write(Path(path), overwrite=overwrite) as file:
        np.save(file, noise, allow_pickle=False)
