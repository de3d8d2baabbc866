"""The emoji font as a data set: drawn by Pillow, captioned by Unicode.

Debian packages: `fonts-noto-color-emoji` (the font, SIL OFL 1.1), `unicode-data` (the names, in
`emoji-test.txt`) and, if there, `unicode-cldr-core` (the keywords).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from ldmref.errors import InputError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")
KEYWORDS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")
CELL, FONT_SIZE = 136, 109  # the font holds 136 x 128 bitmaps, drawn at this one size

STOP_WORDS = frozenset("a an and for from in no not of off on or the to with s o d".split())
SKIN_TONE_WEIGHT = 0.1


@dataclass(frozen=True)
class Emoji:
    """One fully qualified emoji: its characters, its name, the subgroup it stands in."""

    text: str
    name: str
    subgroup: str

    @property
    def has_skin_tone(self) -> bool:
        return "skin tone" in self.name

    @cached_property
    def words(self) -> list[str]:
        """The words of the name, in order, lower case."""
        return _words(self.name)


def emoji_list() -> list[Emoji]:
    """All fully qualified emoji of `emoji-test.txt`, in its order (3,655 in Unicode 15.0)."""
    _need(NAMES, "unicode-data")
    emoji, subgroup = [], ""
    for line in NAMES.read_text("utf-8").splitlines():
        if line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        elif "; fully-qualified" in line:
            for characters, name in re.findall(r"# (\S+) E[\d.]+ (.*)", line):
                emoji.append(Emoji(characters, name, subgroup))
    return emoji


def draw(emoji: Emoji, size: int = CELL) -> Image.Image:
    """The font's own drawing on white, centred in a 136 x 136 square, then resized."""
    image = Image.new("RGB", (CELL, CELL), "white")
    at = (CELL // 2, CELL // 2)
    ImageDraw.Draw(image).text(at, emoji.text, font=_font(), anchor="mm", embedded_color=True)
    return image if size == CELL else image.resize((size, size), Image.Resampling.LANCZOS)


class EmojiDataset:
    """All emoji at one size. Captions: mostly the name; else part of it, an article, a keyword.

    A caption that is the name of another emoji always means that one: "person" is the person, not
    one of the hundreds that have the word in their names.
    """

    def __init__(self, size: int):
        self.emoji = emoji_list()
        self.images = np.stack([np.asarray(draw(e, size)).transpose(2, 0, 1) for e in self.emoji])
        self.weights = np.asarray(
            [SKIN_TONE_WEIGHT if e.has_skin_tone else 1.0 for e in self.emoji]
        )
        named = {word for e in self.emoji for word in e.words}
        self.names = {" ".join(e.words) for e in self.emoji}
        keywords = _keywords()
        self.keywords = [
            [k for k in (*keywords.get(e.text, ()), e.subgroup.replace("-", " "))
             if _means(k, e, named)]
            for e in self.emoji
        ]  # fmt: skip

    def caption(self, i: int, stream: np.random.Generator) -> str:
        part = self._part_or_name(i, stream)
        return self.emoji[i].name if " ".join(_words(part)) in self.names else part

    def _part_or_name(self, i: int, stream: np.random.Generator) -> str:
        emoji, keywords = self.emoji[i], self.keywords[i]
        kind = stream.random()
        if emoji.has_skin_tone or kind < 0.58:
            return emoji.name
        words = [w for w in emoji.words if w not in STOP_WORDS] or emoji.words
        if kind < 0.66:
            return f"{('a', 'an', 'the')[stream.integers(3)]} {emoji.name}"
        if kind < 0.80:
            return words[stream.integers(len(words))]
        if kind < 0.90 and keywords:
            return keywords[stream.integers(len(keywords))]
        kept = [w for w in words if stream.random() < 0.6]
        return " ".join(kept or words)

    def vocabulary(self) -> list[str]:
        names = [e.name for e in self.emoji for _ in range(2)]
        return names + [k for ks in self.keywords for k in ks] + ["a an the"]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+|[#*!&]", text.lower())


def _means(keyword: str, emoji: Emoji, named: set[str]) -> bool:
    """Whether a keyword is worth learning: a word that names other emoji should mean those."""
    words = re.findall(r"[^\W_]+", keyword.lower())
    return 0 < len(words) <= 3 and not all(w in named and w not in emoji.words for w in words)


def _keywords() -> dict[str, list[str]]:
    if not KEYWORDS.exists():
        return {}
    found: dict[str, list[str]] = {}
    for node in ET.parse(KEYWORDS).iter("annotation"):
        if node.get("type") != "tts" and node.text:
            found[node.get("cp", "")] = [k.strip() for k in node.text.split("|")]
    # the file leaves out the variation selector that fully qualified emoji carry
    return {
        e.text: found[key] for e in emoji_list() if (key := e.text.replace("\ufe0f", "")) in found
    }


def _need(path: Path, package: str) -> None:
    if not path.exists():
        raise InputError(
            f"the emoji data set needs {path}", code="E-DATA", hint=f"apt-get install {package}"
        )


def _font() -> ImageFont.FreeTypeFont:
    if not features.check("raqm"):
        raise InputError(
            "this Pillow cannot join emoji sequences (no raqm)",
            code="E-DATA",
            hint="use the Pillow wheels from PyPI",
        )
    _need(FONT, "fonts-noto-color-emoji")
    return ImageFont.truetype(str(FONT), FONT_SIZE)
