"""Captioned images in memory, from a folder or from tar files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldmref.datasets.base import Augmentation
from ldmref.datasets.listing import IMAGE_FORMATS
from ldmref.errors import Cancelled, ImageError, InputError, abbreviated, counted
from ldmref.io.images.pil import FRAMES, open_image, to_rgb
from ldmref.prompts.text_checks import MAX_CHARACTERS


class Sample(NamedTuple):
    """An image that is not read yet: its name, file, captions and class.

    `uncaptioned`: its file of captions is empty, so its name is its caption.
    """

    name: str
    file: Path | io.BytesIO
    captions: list[str]
    label: str
    uncaptioned: bool = False


class ImagesInMemory:
    """The images of samples, centre-cropped to a square and resized.

    Images that cannot be read are skipped; `skipped` names them.

    Raises:
        Cancelled: `cancel` was set before all of them were read.
    """

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(self, samples: Iterator[Sample], size: int, cancel: Event | None = None):
        images = []
        self.captions = []
        self.classes = []
        self.skipped = []
        too_long = []
        animations: list[str] = []
        uncaptioned: list[str] = []
        for sample in samples:
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped while images were read", code="E-CANCELLED")
            try:
                image = open_image(sample.file, IMAGE_FORMATS)
                images.append(_square(to_rgb(image), size))
            except ImageError:
                self.skipped.append(sample.name)
                continue
            if image.info.get(FRAMES, 1) > 1:
                animations.append(sample.name)
            if sample.uncaptioned:
                uncaptioned.append(sample.name)
            if max(map(len, sample.captions)) > MAX_CHARACTERS:
                too_long.append(sample.name)
            self.captions.append([text[:MAX_CHARACTERS] for text in sample.captions])
            self.classes.append(sample.label)
        self.warnings: list[str] = []
        if uncaptioned:
            message = f"{counted(len(uncaptioned), 'image')} without a caption, named by file: "
            self.warnings.append(message + abbreviated(uncaptioned))
        if animations:
            message = f"{counted(len(animations), 'animation')}, only the first frame is used: "
            self.warnings.append(message + abbreviated(animations))
        if too_long:
            message = f"{counted(len(too_long), 'image')} with captions of more than "
            message += f"{MAX_CHARACTERS} characters, which are cut: "
            self.warnings.append(message + abbreviated(too_long))
        if images and self.skipped:
            count = len(images) + len(self.skipped)
            message = f"{len(self.skipped)} of {counted(count, 'image')} cannot be read, skipped: "
            self.warnings.append(message + abbreviated(self.skipped))
        self.images = np.stack(images) if images else np.empty((0, 3, size, size), np.uint8)
        self.weights = np.ones(len(images))

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a caption of image `i`, chosen by the generator `rng` if there are several."""
        return self.captions[i][rng.integers(len(self.captions[i]))]

    def vocabulary(self) -> list[str]:
        """Return all captions."""
        return [text for texts in self.captions for text in texts]


def caption_from_name(file: Path) -> str:
    """Return the words of a file's name."""
    name = file.stem.replace("_", " ").replace("-", " ")
    return name.encode("utf-8", "replace").decode()  # names may be any bytes


def data_error(message: str, hint: str = "") -> InputError:
    """Return the error of images or captions that cannot be read."""
    return InputError(message, code="E-DATA", hint=hint)


def _square(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
