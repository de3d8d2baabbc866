"""Where images go: named files, numbered names in a folder, or standard output."""

from __future__ import annotations

import io
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ldmref.cli.streams import check_stdout
from ldmref.errors import OutputError, UsageError
from ldmref.files import shown
from ldmref.io.atomic import atomic_write
from ldmref.io.images.metadata import FORMATS as IMAGE_FORMATS
from ldmref.io.images.metadata import check_target, save_image
from ldmref.prompts.emoji import with_emoji_names

FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
STDOUT = "-"
NOISE_ENDING = ".npy"
SLASHES = tuple({"/", os.sep})  # with which the name of a folder ends
FIELD = re.compile(r"\{([^{}]*)\}")  # of a file's name


def slug(text: str) -> str:
    """A safe file name of at most 80 bytes: letters, digits, hyphens; `image` if none is left.

    >>> slug("A red heart! ../../x"), slug("🐶")
    ('a-red-heart-x', 'dog-face')
    """
    named = unicodedata.normalize("NFKD", with_emoji_names(text[:1000]))
    plain = named.encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:80].strip("-") or "image"


def named_files(to: str, labels: Sequence[str], seeds: Sequence[int] | None) -> list[Path]:
    """The files that a name means, one for each label: {prompt}, {seed} and {index} are filled in,
    and files that would share a name are numbered from 0, with as many digits as the last needs.

    Raises:
        UsageError: other fields in braces, %d, or a seed of images that have none.
    """
    images = len(labels)
    values = {"prompt": lambda i: labels[i], "index": lambda i: digits(i, images - 1)}
    if seeds is not None:
        values["seed"] = lambda i: str(seeds[i])
    number = re.search(r"%0?\d*d", to)
    unknown = [field for field in FIELD.findall(to) if field not in values]
    if number or unknown:
        known = ", ".join(f"{{{name}}}" for name in sorted(values))
        raise UsageError(
            f"{(number[0] if number else f'{{{unknown[0]}}}')!r} in the name {to!r} has no meaning",
            code="E-OUTPUT",
            hint=f"use {to.replace(number[0], '{index}')}" if number else f"known are {known}",
        )
    names = [FIELD.sub(lambda match, i=i: values[match[1]](i), to) for i in range(images)]
    paths = [Path(name) for name in names]
    if len({*paths}) < images:
        paths = [p.with_stem(f"{p.stem}-{digits(i, images - 1)}") for i, p in enumerate(paths)]
    return paths


def stems(labels: Sequence[str], seeds: Sequence[int] | None) -> list[tuple[str, str]]:
    """For each image in a folder (label and seed, number); images of one seed are numbered
    from 01, so that they sort.

    >>> stems(["cat", "cat", "dog"], [7, 7, 8])
    [('cat-7', '-01'), ('cat-7', '-02'), ('dog-8', '')]
    """
    starts = [f"{label}-{seeds[i]}" if seeds else label for i, label in enumerate(labels)]
    total = Counter(starts)
    seen = Counter()
    named = []
    for start in starts:
        seen[start] += 1
        number = f"-{digits(seen[start], max(total[start], 10))}" if total[start] > 1 else ""
        named.append((start, number))
    return named


def digits(number: int, largest: int) -> str:
    """A number with as many digits as the largest one has."""
    return str(number).zfill(len(str(largest)))


class Output:
    """The target of one run.

    `to` is `-`, a file's name, a folder (one that exists, or a name that ends in a slash), or None
    for the working folder. In a folder the names are made from prompt and seed, and those of a
    later run are numbered; a new folder is created with the first file. Each image has a label;
    `seeds` is None for images that are generated from none.
    """

    formats: Mapping[str, str] = IMAGE_FORMATS  # endings and what they mean
    usual = "png"  # format in a folder

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
        names = [slug(label) for label in labels]
        if _is_folder(self.to):
            self.folder = Path(self.to)
            self.stems = stems(names, seeds)
            self.runs = dict.fromkeys((start for start, _ in self.stems), 1)
        else:
            self.files = named_files(self.to, names, seeds)

    def check(self) -> None:
        """Refuse a target that cannot be written, before anything is computed.

        Raises:
            UsageError: flags that contradict each other.
            OutputError: the target exists, or cannot be written.
        """
        if self.to == STDOUT:
            if self.count > 1:
                raise UsageError(
                    f"{self.count} images do not fit into standard output",
                    code="E-OUTPUT",
                    hint="give -o a folder, or draw one",
                )
            check_stdout()
        elif self.folder is not None:
            if not os.path.isdir(self.folder):
                return check_new_folder(self.folder)
            for start in self.runs:
                self._next_free(start)
            self._check_target(self._in_folder(0), overwrite=True)  # `write` renumbers if taken
        else:
            kinds = {self._check_target(path, self.overwrite) for path in self.files}
            if self.kind is not None and kinds != {self.kind.upper()}:
                raise UsageError(f"--format {self.kind} contradicts {self.to!r}", code="E-FORMAT")

    def write(self, image: Image.Image, i: int, params: dict[str, Any]) -> str:
        """Write image `i`; returns its name."""
        recorded = params if self.metadata else None
        if self.to == STDOUT:
            buffer = io.BytesIO()
            self.encode(buffer, image, (self.kind or self.usual).upper(), recorded)
            sys.stdout.buffer.write(buffer.getvalue())
            sys.stdout.buffer.flush()
            return STDOUT
        if self.folder is not None:
            return str(self._write_in_folder(i, image, recorded))
        self._write_file(self.files[i], image, recorded, self.overwrite)
        return str(self.files[i])

    def finish(self) -> str | None:
        """Write what is left to write after the last image, and return its name: here nothing."""
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
        """The file of image `i`: `slug-seed.png`, of a second run `slug-seed-2.png`, ..."""
        start, number = self.stems[i]
        run = f"-{self.runs[start]}" if self.runs[start] > 1 else ""
        ending = FORMATS[self.kind or self.usual]
        return (self.folder or Path()) / f"{start}{run}{number}{ending}"

    def _next_free(self, start: str) -> None:
        """Number the run so that none of its files exists."""
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
                if error.code != "E-EXISTS":  # else another process took the name just now
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
        OutputError: what its name stands below is no folder, or cannot be written.
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
    """Create a folder and those above it.

    Raises:
        OutputError: the system refuses.
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
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise OutputError(f"{path!r} exists", code="E-EXISTS", hint="add --overwrite")


def write_noise(path: str, noise: np.ndarray, overwrite: bool) -> None:
    """Write noise, (n, c, h, w), as .npy; the file appears complete or not at all.

    Raises:
        OutputError: it exists (unless `overwrite`), or cannot be written.
    """
    with atomic_write(Path(path), overwrite=overwrite) as file:
        np.save(file, noise, allow_pickle=False)
