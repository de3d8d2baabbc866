"""Contact sheets: all images of a command in one, each above its label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ldmref.apps.cli.combined import CombinedOutput
from ldmref.io.images.labels import fit_text
from ldmref.prompts.emoji import with_emoji_names

GAP = 8  # px between images
LINE_HEIGHT = 18  # px
FONT_SIZE = 14  # px
MIN_COLUMN_WIDTH = 160  # px, for legible labels
BACKGROUND = "white"
TEXT_COLOUR = "black"


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
