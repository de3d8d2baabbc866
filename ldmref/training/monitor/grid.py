"""A grid of small images: a title, then labelled rows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

# in pixels: height of the title, width of the labels, distance between images
TITLE = 30
LABEL = 150
GAP = 6
SMALLEST = 128  # smaller images are enlarged by an integer factor, pixel by pixel
# characters in a line of a label; height of the line and of its letters in pixels
LETTERS = 19
LINE = 17
FONT = 14


class LabelledRow(NamedTuple):
    """Images of one size, and a label."""

    label: str
    images: Sequence[Image.Image]


def enlargement(image: Image.Image) -> int:
    """Return the integer factor by which an image is enlarged."""
    return max(1, SMALLEST // image.width)


def grid(title: str, rows: Sequence[LabelledRow]) -> Image.Image:
    """Return an image of rows of images of one size, each with its label on the left."""
    first = rows[0].images[0]
    scale = enlargement(first)
    width = first.width * scale
    height = first.height * scale
    columns = max(len(row.images) for row in rows)
    size = LABEL + columns * (width + GAP), TITLE + len(rows) * (height + GAP)
    sheet = Image.new("RGB", size, "#e8e8e8")
    font = ImageFont.load_default(FONT)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, TITLE // 2), title, "black", font, anchor="lm")
    for i, row in enumerate(rows):
        y = TITLE + i * (height + GAP)
        lines = textwrap.wrap(row.label, LETTERS)[: max(1, height // LINE)]
        pen.multiline_text((GAP, y), "\n".join(lines), "black", font, spacing=LINE - FONT)
        for j, image in enumerate(row.images):
            large = image.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(large, (LABEL + j * (width + GAP), y))
    return sheet
