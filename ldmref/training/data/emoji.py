"""The emoji font as a data set: rendered by Pillow, captioned by Unicode names.

Debian packages: `fonts-noto-color-emoji` (the font, SIL OFL 1.1) and, optionally,
`unicode-cldr-core` (the keywords). The names come with ldmref (`prompts/emoji.py`).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from ldmref.errors import InputError
from ldmref.prompts.emoji import named_emoji
from ldmref.training.data.articles import article
from ldmref.training.data.augmentation import Augmentation

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
KEYWORDS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")
NO_KEYWORDS = "captions have no keywords: for them, apt-get install unicode-cldr-core"
# the font's only size: 136 x 128 bitmaps
CELL = 136
FONT_SIZE = 109

STOP_WORDS = frozenset("a an and for from in no not of off on or the to with s o d".split())
SKIN_TONE_WEIGHT = 0.1
# How often a caption is the name, the name with an article, one of its words, and so on.
CAPTIONS = {"name": 0.48, "article": 0.06, "word": 0.26, "keyword": 0.10, "some words": 0.10}


@dataclass(frozen=True)
class Emoji:
    """A fully qualified emoji: characters, name, and Unicode subgroup."""

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
    """All 3,655 fully qualified emoji of Unicode 15.0, in Unicode's order."""
    return [Emoji(*emoji) for emoji in named_emoji()]


def render(emoji: Emoji, size: int = CELL) -> Image.Image:
    """The font's bitmap on white, centred in a 136 x 136 square, then resized."""
    image = Image.new("RGB", (CELL, CELL), "white")
    centre = (CELL // 2, CELL // 2)
    ImageDraw.Draw(image).text(centre, emoji.text, font=font(), anchor="mm", embedded_color=True)
    return image if size == CELL else image.resize((size, size), Image.Resampling.LANCZOS)


class EmojiDataset:
    """All emoji at one size. Captions: mostly the name; else some of its words, or a keyword.

    The name of one emoji is never the caption of another: "person" is the person, not one of the
    hundreds with that word in their names.
    """

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(self, size: int):
        self.emoji = emoji_list()
        self.images = np.stack([np.asarray(render(e, size)).transpose(2, 0, 1) for e in self.emoji])
        self.classes = [e.subgroup.replace("-", " ") for e in self.emoji]
        weights = [SKIN_TONE_WEIGHT if e.has_skin_tone else 1.0 for e in self.emoji]
        self.weights = np.asarray(weights)
        name_words = {word for e in self.emoji for word in e.words}
        self.names = {" ".join(e.words) for e in self.emoji}
        keywords = _keywords()
        self.keywords = []
        self.warnings = [] if keywords else [NO_KEYWORDS]
        for e in self.emoji:
            candidates = [*keywords.get(e.text, ()), e.subgroup.replace("-", " ")]
            self.keywords.append([k for k in candidates if _is_useful_keyword(k, e, name_words)])

    def caption(self, i: int, rng: np.random.Generator) -> str:
        caption = self._random_caption(i, rng)
        return self.emoji[i].name if " ".join(_words(caption)) in self.names else caption

    def _random_caption(self, i: int, rng: np.random.Generator) -> str:
        emoji = self.emoji[i]
        keywords = self.keywords[i]
        kind = rng.choice(list(CAPTIONS), p=list(CAPTIONS.values()))
        if emoji.has_skin_tone or kind == "name":
            return emoji.name
        words = [w for w in emoji.words if w not in STOP_WORDS] or emoji.words
        if kind == "article":
            return f"{'the' if rng.integers(3) == 2 else article(emoji.name)} {emoji.name}"
        if kind == "word":
            return words[rng.integers(len(words))]
        if kind == "keyword" and keywords:
            return keywords[rng.integers(len(keywords))]
        subset = [w for w in words if rng.random() < 0.6]
        return " ".join(subset or words)

    def vocabulary(self) -> list[str]:
        names = [e.name for e in self.emoji for _ in range(2)]
        return names + [keyword for ks in self.keywords for keyword in ks] + ["a an the"]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+|[#*!&]", text.lower())


def _is_useful_keyword(keyword: str, emoji: Emoji, name_words: set[str]) -> bool:
    """Whether a keyword is short and does not only consist of words that name other emoji."""
    words = re.findall(r"[^\W_]+", keyword.lower())
    return 0 < len(words) <= 3 and not all(w in name_words and w not in emoji.words for w in words)


def _keywords() -> dict[str, list[str]]:
    """Emoji characters -> keywords; empty without the optional package."""
    if not KEYWORDS.exists():
        return {}
    annotations: dict[str, list[str]] = {}
    for node in ET.parse(KEYWORDS).iter("annotation"):
        if node.get("type") != "tts" and node.text:
            annotations[node.get("cp", "")] = [k.strip() for k in node.text.split("|")]
    # the file omits the variation selector of fully qualified emoji
    keys = {e.text: e.text.replace("\ufe0f", "") for e in emoji_list()}
    return {text: annotations[key] for text, key in keys.items() if key in annotations}


def check_font() -> None:
    """Refuse to begin without the font.

    Raises:
        InputError: a package is missing.
    """
    font()


def _require(path: Path, package: str) -> None:
    if not path.exists():
        message = f"the emoji data set needs {path}"
        raise InputError(message, code="E-DATA", hint=f"apt-get install {package}")


@cache
def font() -> ImageFont.FreeTypeFont:
    """The font at its only size.

    Raises:
        InputError: it is not installed, or Pillow cannot join sequences.
    """
    if not features.check("raqm"):
        message = "this Pillow cannot join emoji sequences (no raqm)"
        raise InputError(message, code="E-DATA", hint="use the Pillow wheels from PyPI")
    _require(FONT, "fonts-noto-color-emoji")
    return ImageFont.truetype(str(FONT), FONT_SIZE)
