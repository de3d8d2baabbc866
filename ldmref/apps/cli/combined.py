"""All images of a command in one file, written after the last image.

A contact sheet has each image above its label; an animation shows one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, BinaryIO

from PIL import Image, ImageDraw, ImageFont

from ldmref.apps.cli.output import STDOUT, Output
from ldmref.io.images.labels import fit_text
from ldmref.io.images.metadata import save_image
from ldmref.prompts.emoji import with_emoji_names

GAP = 8  # px between images
LINE_HEIGHT = 18  # px
FONT_SIZE = 14  # px
MIN_COLUMN_WIDTH = 160  # px, for legible labels
BACKGROUND = "white"
TEXT_COLOUR = "black"
ANIMATED = {".webp": "WEBP", ".gif": "GIF"}
DESCRIBED_KEYS = (
    "mode",
    "prompt",
    "prompt_b",
    "positions",
    "negative_prompt",
    "seed",
    "steps",
    "sampler",
    "cfg_scale",
    "strength",
)


class CombinedOutput(Output):
    """An output that keeps its images until `finish` combines them into one file."""

    mode = ""  # as the file records it

    def __init__(
        self, to: str | None, labels: Sequence[str], seeds: Sequence[int] | None, **files: Any
    ):
        super().__init__(to, [f"{labels[0]} {self.mode}"], seeds and seeds[:1], **files)
        self.count = 1
        self.labels = list(labels)
        self.images: list[Image.Image] = []
        self.params: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """The name of the file that `finish` will write."""
        if self.to == STDOUT:
            return STDOUT
        return str(self.files[0] if self.folder is None else self._in_folder(0))

    def write(self, image: Image.Image, i: int, params: dict[str, Any]) -> str:
        """Keep an image, and return its place in the file to write."""
        self.images.append(image)
        self.params.append(params)
        return f"{self.name}[{i + 1}]"

    def finish(self) -> str | None:
        """Write the file, and return its name; None if there are no images."""
        if not self.images:
            return None
        record = {"mode": self.mode, "images": self.params}
        return super().write(self.combine(), 0, record)

    def combine(self) -> Image.Image:
        """Return the image to write."""
        raise NotImplementedError


def describe_images(record: dict[str, Any]) -> list[str]:
    """Describe each image of a sheet or an animation in one line of parameters."""
    images = record.get("images")
    images = (
        [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    )
    lines = [f"{record['mode']} of {len(images)} images"]
    for i, image in enumerate(images):
        shown = {key: image.get(key) for key in DESCRIBED_KEYS if image.get(key) not in (None, "")}
        lines.append(f"{i + 1}: " + ", ".join(f"{key} {value!r}" for key, value in shown.items()))
    return lines


# -- contact sheets ------------------------------------------------------------------------------


class Sheet(CombinedOutput):
    """A contact sheet; each label states what differs: prompt, seed, position or input image."""

    mode = "sheet"

    def combine(self) -> Image.Image:
        """Return the sheet of the images so far."""
        labels = label_lines(self.labels[: len(self.params)], self.params)
        return contact_sheet(self.images, labels, count_columns(self.labels))


def label_lines(names: Sequence[str], params: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the lines below each image: its name if names differ, and its seed or position."""
    several = len({*names}) > 1
    labels = []
    for name, recorded in zip(names, params, strict=True):
        lines = [with_emoji_names(name) or '""'] if several else []
        if "positions" in recorded:
            lines.append(f"position {recorded['positions'][0]:.3g}")
        elif "seed" in recorded:
            lines.append(f"seed {recorded['seed']}")
        labels.append(lines)
    return labels


def count_columns(names: Sequence[str]) -> int:
    """Return the number of columns of a sheet.

    If each name has the same number of images, each name gets a row; otherwise, the sheet is about
    square.

    >>> count_columns(["cat"] * 9), count_columns(["cat"] * 4 + ["dog"] * 4)
    (3, 4)
    """
    each = len(names) // len({*names})
    rows = [names[i : i + each] for i in range(0, len(names), each)]
    if 1 < each < len(names) and all(len({*row}) == 1 for row in rows):
        return each
    return math.ceil(math.sqrt(len(names)))


def contact_sheet(
    images: Sequence[Image.Image], labels: Sequence[Sequence[str]], columns: int
) -> Image.Image:
    """Arrange images in rows, each above its lines, in cells as large as the largest image."""
    font = ImageFont.load_default(FONT_SIZE)
    columns = min(columns, len(images))
    lines = max(map(len, labels))
    cell = (
        max(MIN_COLUMN_WIDTH, *(image.width for image in images)),
        max(image.height for image in images) + lines * LINE_HEIGHT,
    )
    rows = math.ceil(len(images) / columns)
    size = (GAP + columns * (cell[0] + GAP), GAP + rows * (cell[1] + GAP))
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for i, (image, texts) in enumerate(zip(images, labels, strict=True)):
        left = GAP + i % columns * (cell[0] + GAP)
        top = GAP + i // columns * (cell[1] + GAP)
        sheet.paste(image, (left + (cell[0] - image.width) // 2, top))
        for j, text in enumerate(texts):
            height = cell[1] - (lines - j) * LINE_HEIGHT + LINE_HEIGHT // 2
            middle = (left + cell[0] // 2, top + height)
            pen.text(middle, fit_text(text, font, cell[0]), TEXT_COLOUR, font, anchor="mm")
    return sheet


# -- animations ----------------------------------------------------------------------------------


def is_animated(flag: bool | None, to: str | None) -> bool:
    """Return whether an animation was asked for, by `--animate` or a name that ends in .gif.

    `flag` is None for commands without `--animate`.
    """
    return flag is not None and (flag or (to or "").lower().endswith(".gif"))


class Animation(CombinedOutput):
    """An animation that repeats without end; the other arguments are those of `Output`.

    Args:
        duration: Time in milliseconds for which each image is shown.
    """

    mode = "animation"
    formats = ANIMATED
    default_kind = "webp"

    def __init__(
        self,
        to: str | None,
        labels: Sequence[str],
        seeds: Sequence[int] | None,
        *,
        duration: int,
        **files: object,
    ):
        super().__init__(to, labels, seeds, **files)
        self.duration = duration

    def combine(self) -> Image.Image:
        """Return the first image; `encode` adds the others."""
        return self.images[0]

    def encode(
        self, file: BinaryIO, image: Image.Image, kind: str, params: dict[str, Any] | None
    ) -> None:
        """Encode all images into an open file; a GIF does not record how they were made."""
        save_image(
            file,
            image,
            kind,
            params,
            save_all=True,
            append_images=self.images[1:],
            duration=self.duration,
            loop=0,
        )
