"""Write ldmref/assets/small-emoji/emoji.png: the data set `small-emoji`, rendered from the font.

    python scripts/make_small_emoji.py [NotoColorEmoji.ttf]

Without an argument the font is read where Debian's package fonts-noto-color-emoji installs it.
"""

import sys
from pathlib import Path

from PIL import Image

from ldmref.datasets.emoji.font import render
from ldmref.datasets.emoji.small import COLUMNS, SIDE, small_list

TARGET = Path(__file__).parents[1] / "ldmref" / "assets" / "small-emoji" / "emoji.png"


def sheet(font_file: str = "") -> Image.Image:
    """Return the emoji side by side, in rows of `COLUMNS`."""
    emoji = small_list()
    rows = len(emoji) // COLUMNS
    image = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE))
    for i, one in enumerate(emoji):
        row, column = divmod(i, COLUMNS)
        image.paste(render(one, SIDE, font_file), (column * SIDE, row * SIDE))
    return image


if __name__ == "__main__":
    sheet(*sys.argv[1:2]).save(TARGET, optimize=True)
