"""A grid of small images: a title, then labelled rows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

# height, width and distance in pixels
TITLE = 30
LABEL = 150
GAP = 6
SMALLEST = 128  # images below are enlarged by an integer, pixel by pixel
# of a label's line, its height, and that of letters
LETTERS = 19
LINE = 17
FONT = 14


class Row(NamedTuple):
    """Images of one size, and what they are."""

    label: str
    images: Sequence[Image.Image]


def scale_of(image: Image.Image) -> int:
    """How many times an image is enlarged."""
    return max(1, SMALLEST // image.width)


def grid(title: str, rows: Sequence[Row]) -> Image.Image:
    """Rows of images of one size, each with its label to the left."""
    first = rows[0].images[0]
    scale = scale_of(first)
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
