"""The emoji of Unicode, rendered by Pillow with Google's Noto Color Emoji.

The font (SIL OFL 1.1) is in Debian's package `fonts-noto-color-emoji`. The names of the emoji come
with ldmref (`prompts/emoji.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from ldmref.datasets.memory import data_error
from ldmref.prompts.emoji import named_emoji

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
# the font's only size: 136 x 128 bitmaps
CELL = 136
FONT_SIZE = 109


@dataclass(frozen=True)
class Emoji:
    """A fully qualified emoji: characters, name, and Unicode subgroup."""

    text: str
    name: str
    subgroup: str

    @property
    def has_skin_tone(self) -> bool:
        """Whether it is a variant of another emoji in a skin tone."""
        return "skin tone" in self.name

    @cached_property
    def words(self) -> list[str]:
        """The words of the name, in order, lower case."""
        return split_words(self.name)


def emoji_list() -> list[Emoji]:
    """Return all 3,655 fully qualified emoji of Unicode 15.0, in Unicode's order."""
    return [Emoji(*emoji) for emoji in named_emoji()]


def render(emoji: Emoji, size: int = CELL) -> Image.Image:
    """Return the font's bitmap on white, centred in a square of 136 pixels, resized to `size`."""
    image = Image.new("RGB", (CELL, CELL), "white")
    centre = (CELL // 2, CELL // 2)
    ImageDraw.Draw(image).text(centre, emoji.text, font=font(), anchor="mm", embedded_color=True)
    return image if size == CELL else image.resize((size, size), Image.Resampling.LANCZOS)


def split_words(text: str) -> list[str]:
    """Return the words of an emoji's name, lower case; `#`, `*`, `!` and `&` are words."""
    return re.findall(r"[^\W_]+|[#*!&]", text.lower())


def check_font() -> None:
    """Check that emoji can be rendered.

    Raises:
        InputError: The font is not installed, or Pillow cannot join sequences.
    """
    font()


@cache
def font() -> ImageFont.FreeTypeFont:
    """Return the font at its only size.

    Raises:
        InputError: The font is not installed, or Pillow cannot join sequences.
    """
    if not features.check("raqm"):
        message = "this Pillow cannot join emoji sequences (no raqm)"
        raise data_error(message, "use the Pillow wheels from PyPI")
    if not FONT.exists():
        message = f"the emoji data set needs {FONT}"
        raise data_error(message, "apt-get install fonts-noto-color-emoji")
    return ImageFont.truetype(str(FONT), FONT_SIZE)
