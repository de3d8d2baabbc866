"""A contact sheet: all images of a run in one, each above its label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ldmref.cli.together import Together
from ldmref.prompts.emoji import with_emoji_names

# pixels: between images, height of a line of text, of letters
GAP = 8
LINE = 18
FONT = 14
NARROWEST = 160  # a column, so that labels can be read
PAPER = "white"
INK = "black"


class Sheet(Together):
    """A contact sheet; labels are what differs: prompt, seed, position, or input image."""

    mode = "sheet"

    def whole(self) -> Image.Image:
        """The sheet of the images so far."""
        labels = labels_of(self.labels[: len(self.params)], self.params)
        return contact_sheet(self.images, labels, columns_of(self.labels))


def labels_of(names: Sequence[str], params: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The lines below each image: its name, if they differ, its seed or its position."""
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


def columns_of(names: Sequence[str]) -> int:
    """As many columns as images of each name, if it is the same number; otherwise a square.

    >>> columns_of(["cat"] * 9), columns_of(["cat"] * 4 + ["dog"] * 4), columns_of(["cat", "dog"])
    (3, 4, 2)
    """
    each = len(names) // len({*names})
    rows = [names[i : i + each] for i in range(0, len(names), each)]
    if 1 < each < len(names) and all(len({*row}) == 1 for row in rows):
        return each
    return math.ceil(math.sqrt(len(names)))


def contact_sheet(
    images: Sequence[Image.Image], labels: Sequence[Sequence[str]], columns: int
) -> Image.Image:
    """Images in rows, each at the top of a cell as large as the largest, above its lines."""
    font = ImageFont.load_default(FONT)
    columns = min(columns, len(images))
    lines = max(map(len, labels))
    cell = (
        max(NARROWEST, *(image.width for image in images)),
        max(image.height for image in images) + lines * LINE,
    )
    rows = math.ceil(len(images) / columns)
    size = (GAP + columns * (cell[0] + GAP), GAP + rows * (cell[1] + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (image, texts) in enumerate(zip(images, labels, strict=True)):
        left = GAP + i % columns * (cell[0] + GAP)
        top = GAP + i // columns * (cell[1] + GAP)
        sheet.paste(image, (left + (cell[0] - image.width) // 2, top))
        for j, text in enumerate(texts):
            middle = (left + cell[0] // 2, top + cell[1] - (lines - j) * LINE + LINE // 2)
            pen.text(middle, shortened(text, font, cell[0]), INK, font, anchor="mm")
    return sheet


def shortened(text: str, font: Any, width: int) -> str:
    """The text, cut at its end where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."
