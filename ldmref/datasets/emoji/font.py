"""The emoji of Unicode, rendered by Pillow with Google's Noto Color Emoji.

The font (SIL OFL 1.1) is in Debian's package `fonts-noto-color-emoji`; elsewhere its file is given
(`data.font` of a recipe). The names of the emoji come with ldmref (`prompts/emoji.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from ldmref.datasets.memory import data_error
from ldmref.prompts.emoji import named_emoji

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # where Debian installs it
# the font's only size: 136 x 128 bitmaps
CELL = 136
FONT_SIZE = 109
NO_FONT = (
    "give its file (--font NotoColorEmoji.ttf), or use the images that come with ldmref "
    "(--data small-emoji); on Debian and Ubuntu: apt-get install fonts-noto-color-emoji"
)


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


def render(emoji: Emoji, size: int = CELL, font_file: str = "") -> Image.Image:
    """Return the font's bitmap on white, centred in a square of 136 pixels, resized to `size`."""
    image = Image.new("RGB", (CELL, CELL), "white")
    write_emoji(image, emoji, font_file)
    return image if size == CELL else image.resize((size, size), Image.Resampling.LANCZOS)


def write_emoji(image: Image.Image, emoji: Emoji, font_file: str = "") -> None:
    """Write the font's bitmap of an emoji at the centre of an image."""
    centre = (image.width // 2, image.height // 2)
    loaded = font(font_file)
    ImageDraw.Draw(image).text(centre, emoji.text, font=loaded, anchor="mm", embedded_color=True)


def split_words(text: str) -> list[str]:
    """Return the words of an emoji's name, lower case; `#`, `*`, `!` and `&` are words."""
    return re.findall(r"[^\W_]+|[#*!&]", text.lower())


def font_path(font_file: str = "") -> Path:
    """Return the path of the font: `font_file`, by default where Debian installs it."""
    return Path(font_file) if font_file else FONT


def check_font(font_file: str = "") -> None:
    """Check that emoji can be rendered.

    Raises:
        InputError: There is no such font, or Pillow cannot join sequences.
    """
    font(font_file)


@cache
def font(font_file: str = "") -> ImageFont.FreeTypeFont:
    """Return the font at its only size.

    Args:
        font_file: Path of Noto Color Emoji with bitmaps (`NotoColorEmoji.ttf`); by default the file
            that Debian installs.

    Raises:
        InputError: There is no such file, it is not this font, or Pillow cannot join sequences.
    """
    if not features.check("raqm"):
        message = "this Pillow cannot join emoji sequences (no raqm)"
        raise data_error(message, "use the Pillow wheels from PyPI")
    path = font_path(font_file)
    if not path.is_file():
        message = f"the data set needs the emoji font, and {str(path)!r} is not a file"
        raise data_error(message, NO_FONT)
    try:
        return ImageFont.truetype(str(path), FONT_SIZE)
    except OSError as error:
        message = f"{str(path)!r} is not a font with bitmaps of {FONT_SIZE} pixels ({error})"
        raise data_error(message, "give NotoColorEmoji.ttf, the version with bitmaps") from error
