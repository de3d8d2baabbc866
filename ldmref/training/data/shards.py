"""Tar files in the layout of webdataset as a data set, read member by member, never extracted.

`000000.tar` holds `KEY.png` (or `.jpg`, `.jpeg`, `.webp`) and, for its captions, `KEY.txt` (one per
line), `KEY.json` (`text` or `caption`: a string or a list of them) or `KEY.caption`; for its class
`KEY.cls`. KEY is all before the first dot of the file's name, with its folder. Files of a key stand
together. Anything else is ignored, as are links, devices and files larger than `MAX_MEMBER`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldmref.errors import ImageError
from ldmref.io.pictures.images import read_image
from ldmref.training.data.augmentation import Augmentation
from ldmref.training.data.folder import (
    IMAGE_SUFFIXES,
    caption_of_name,
    data_error,
    shorten,
    square,
)

MAX_MEMBER = 64 * 2**20
TEXTS = (".txt", ".caption", ".json")
CLASS = ".cls"
Sample = dict[str, bytes]


def shard_files(root: Path) -> list[Path]:
    """The tar files of a folder, or the one that `root` is, sorted."""
    if root.is_dir():
        return sorted(path for path in root.glob("*.tar") if path.is_file())
    return [root] if root.suffix == ".tar" and root.is_file() else []


class ShardDataset:
    """The pictures of tar files, centre-cropped to a square and resized; broken ones are skipped.

    Raises:
        InputError: a file is no tar, captions are no UTF-8 or JSON, or no picture can be read.
    """

    augmentation = Augmentation()

    def __init__(self, root: str | Path, size: int):
        files = shard_files(Path(root))
        images, self.captions, self.skipped, self.classes = [], [], [], []
        for file in files:
            for key, sample in samples(file):
                name = f"{file.name}/{key}"
                picture = next((sample[s] for s in IMAGE_SUFFIXES if s in sample), None)
                if picture is None:
                    continue
                texts = _captions(sample, name) or [caption_of_name(Path(key))]
                try:
                    images.append(square(read_image(io.BytesIO(picture)), size))
                except ImageError:
                    self.skipped.append(name)
                    continue
                self.captions.append(texts)
                self.classes.append(_text(sample.get(CLASS, b""), name).strip())
        if not images:
            message = f"no picture in the {len(files)} tar files of {str(root)!r} can be read"
            raise data_error(message, "KEY.png and KEY.txt, as webdataset writes them")
        self.warnings: list[str] = []
        if self.skipped:
            count = len(images) + len(self.skipped)
            message = f"{len(self.skipped)} of {count} pictures cannot be read, skipped: "
            self.warnings.append(message + shorten(self.skipped))
        self.images, self.weights = np.stack(images), np.ones(len(images))

    def caption(self, i: int, rng: np.random.Generator) -> str:
        return self.captions[i][rng.integers(len(self.captions[i]))]

    def vocabulary(self) -> list[str]:
        return [text for texts in self.captions for text in texts]


def samples(file: Path) -> Iterator[tuple[str, Sample]]:
    """The keys of a tar file in its order, each with its files by lower-case suffix.

    Raises:
        InputError: it cannot be read to its end.
    """
    current, sample = "", Sample()
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if not member.isreg() or not stem or not dot or member.size > MAX_MEMBER:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if key != current and sample:
                    yield current, sample
                    sample = Sample()
                current = key
                data = tar.extractfile(member)
                if data is not None and f".{suffix.lower()}" in (*IMAGE_SUFFIXES, *TEXTS, CLASS):
                    sample[f".{suffix.lower()}"] = data.read()
    except (OSError, tarfile.TarError, ValueError) as error:
        raise data_error(f"cannot read the tar file {str(file)!r}: {error}") from error
    if sample:
        yield current, sample


def _captions(sample: Sample, name: str) -> list[str]:
    """The captions of a sample; none if it has none."""
    suffix = next((suffix for suffix in TEXTS if suffix in sample), "")
    text = _text(sample.get(suffix, b""), name)
    if suffix == ".json":
        try:
            table = json.loads(text)
            value = table.get("text", table.get("caption", "")) if isinstance(table, dict) else ""
        except (ValueError, RecursionError) as error:
            raise data_error(f"cannot read the captions of {name!r}: {error}") from error
        lines = value if isinstance(value, list) else [value]
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
