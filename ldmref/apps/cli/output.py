"""Targets of images: named files, numbered names in a folder, or standard output."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ldmref.apps.cli.file_names import expand_name, number_stems, slugify
from ldmref.apps.cli.standard_streams import check_stdout
from ldmref.errors import OutputError, UsageError
from ldmref.io.atomic import atomic_write
from ldmref.io.images.metadata import FORMATS as IMAGE_FORMATS
from ldmref.io.images.metadata import check_target, save_image
from ldmref.support.files import shown

FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
STDOUT = "-"
NOISE_ENDING = ".npy"
SLASHES = tuple({"/", os.sep})  # a name that ends in one of them is a folder


class Output:
    """The target of the images of one command.

    In a folder, names consist of label and seed; if they are taken, a number is added. A new folder
    is created with the first file.

    Args:
        to: `-` for standard output, a file's name, a folder (one that exists, or a name that ends
            in a slash), or None for the working folder.
        labels: Label of each image, usually its prompt.
        seeds: Seed of each image, or None if the images have no seeds.
        kind: Format: png, webp or jpeg; None for the one that the file name says, otherwise png.
        overwrite: Whether named files are replaced.
        metadata: Whether images record how they were made.
    """

    formats: Mapping[str, str] = IMAGE_FORMATS  # ending -> format
    default_kind = "png"

    def __init__(
        self,
        to: str | None,
        labels: Sequence[str],
        seeds: Sequence[int] | None,
        kind: str | None,
        overwrite: bool,
        metadata: bool,
    ):
        self.to = to or "."
        self.kind = kind
        self.overwrite = overwrite
        self.metadata = metadata
        self.count = len(labels)
        self.folder = None
        self.files = []
        if self.to == STDOUT:
            return
        names = [slugify(label) for label in labels]
        if _is_folder(self.to):
            self.folder = Path(self.to)
            self.stems = number_stems(names, seeds)
            self.runs = dict.fromkeys((start for start, _ in self.stems), 1)
        else:
            self.files = expand_name(self.to, names, seeds)

    def check(self) -> None:
        """Refuse a target that cannot be written, before anything is computed.

        Raises:
            UsageError: Flags contradict each other.
            OutputError: The target exists, or cannot be written.
        """
        if self.to == STDOUT:
            if self.count > 1:
                raise UsageError(
                    f"standard output takes one image, not {self.count}",
                    code="E-OUTPUT",
                    hint="give -o a folder, or generate one image",
                )
            check_stdout()
        elif self.folder is not None:
            if not os.path.isdir(self.folder):
                return check_new_folder(self.folder)
            for start in self.runs:
                self._next_free(start)
            self._check_target(self._in_folder(0), overwrite=True)  # `write` finds another number
        else:
            kinds = {self._check_target(path, self.overwrite) for path in self.files}
            if self.kind is not None and kinds != {self.kind.upper()}:
                raise UsageError(f"--format {self.kind} contradicts {self.to!r}", code="E-FORMAT")

    def write(self, image: Image.Image, i: int, params: dict[str, Any]) -> str:
        """Write image `i`, and return the name of its file."""
        recorded = params if self.metadata else None
        if self.to == STDOUT:
            buffer = io.BytesIO()
            self.encode(buffer, image, (self.kind or self.default_kind).upper(), recorded)
            sys.stdout.buffer.write(buffer.getvalue())
            sys.stdout.buffer.flush()
            return STDOUT
        if self.folder is not None:
            return str(self._write_in_folder(i, image, recorded))
        self._write_file(self.files[i], image, recorded, self.overwrite)
        return str(self.files[i])

    def finish(self) -> str | None:
        """Write the file of all images, if the output is one file, and return its name."""
        return None

    def encode(
        self, file: BinaryIO, image: Image.Image, kind: str, params: dict[str, Any] | None
    ) -> None:
        """Encode an image into an open file."""
        save_image(file, image, kind, params)

    def _write_file(
        self, path: Path, image: Image.Image, params: dict[str, Any] | None, overwrite: bool
    ) -> None:
        kind = self._check_target(path, overwrite)
        with atomic_write(path, overwrite=overwrite) as file:
            self.encode(file, image, kind, params)

    def _check_target(self, path: Path, overwrite: bool) -> str:
        return check_target(path, overwrite=overwrite, formats=self.formats)

    def _in_folder(self, i: int) -> Path:
        """Return the file of image `i`: `slug-seed.png`; in a second run, `slug-seed-2.png`."""
        start, number = self.stems[i]
        run = f"-{self.runs[start]}" if self.runs[start] > 1 else ""
        ending = FORMATS[self.kind or self.default_kind]
        return (self.folder or Path()) / f"{start}{run}{number}{ending}"

    def _next_free(self, start: str) -> None:
        """Increase the number of the run until none of its files exists."""
        images = [i for i, stem in enumerate(self.stems) if stem[0] == start]
        while any(os.path.lexists(self._in_folder(i)) for i in images):
            self.runs[start] += 1

    def _write_in_folder(self, i: int, image: Image.Image, params: dict[str, Any] | None) -> Path:
        assert self.folder is not None
        create_folder(self.folder)
        while True:
            path = self._in_folder(i)
            try:
                self._write_file(path, image, params, overwrite=False)
                return path
            except OutputError as error:
                if error.code != "E-EXISTS":  # otherwise, another process has just taken the name
                    raise
                self.runs[self.stems[i][0]] += 1


def _is_folder(path: str) -> bool:
    if path.endswith(SLASHES):
        return True
    try:
        return Path(path).is_dir()
    except OSError:  # a name too long
        return False


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that cannot be created, before anything is computed.

    Raises:
        OutputError: The folder is a file, or cannot be created in its parent folder.
    """
    try:
        os.stat(folder)
    except FileNotFoundError:
        above = next(parent for parent in folder.parents if os.path.lexists(parent))
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise _no_folder(folder, f"cannot write into {shown(above)!r}") from None
    except (OSError, ValueError) as error:
        raise _no_folder(folder, getattr(error, "strerror", None) or error) from error
    else:
        raise _no_folder(folder, "it is a file")


def create_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        OutputError: The system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(folder, error.strerror) from error


def _no_folder(folder: Path, reason: object) -> OutputError:
    message = f"cannot create the folder {shown(folder)!r}: {reason}"
    return OutputError(message, code="E-FOLDER")


def check_noise_file(path: str, overwrite: bool) -> None:
    """Refuse a path to which noise cannot be written, before anything is computed.

    Raises:
        OutputError: The name has another ending, its folder does not exist, or the file exists.
    """
    target = Path(path)
    if target.suffix.lower() != NOISE_ENDING:
        raise OutputError(
            f"a file of noise must end in {NOISE_ENDING}, not {path!r}", code="E-FORMAT"
        )
    if not target.parent.is_dir():
        raise OutputError(
            f"the folder {str(target.parent)!r} does not exist",
            code="E-FOLDER",
            hint="create it first",
        )
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise OutputError(f"{path!r} exists", code="E-EXISTS", hint="add --overwrite")


def write_noise(path: str, noise: np.ndarray, overwrite: bool) -> None:
    """Write noise (n, c, h, w) as .npy; the file appears complete or not at all.

    Raises:
        OutputError: The file exists (unless `overwrite`), or cannot be written.
    """
    with atomic_write(Path(path), overwrite=overwrite) as file:
        np.save(file, noise, allow_pickle=False)
