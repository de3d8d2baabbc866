"""The emoji font as a data set, captioned by Unicode names and keywords.

The keywords are those of CLDR's `annotations/en.xml`, which is optional. It is in Debian's package
`unicode-cldr-core`; elsewhere its file is given (`data.keywords` of a recipe).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldmref.datasets.base import Augmentation
from ldmref.datasets.emoji.font import Emoji, emoji_list, font_path, render, split_words
from ldmref.datasets.emoji.nouns import article
from ldmref.datasets.memory import data_error

KEYWORDS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")  # where Debian installs it
NO_KEYWORDS = (
    "captions have no keywords: for them, give CLDR's annotations/en.xml as data.keywords, or "
    "apt-get install unicode-cldr-core"
)
STOP_WORDS = frozenset("a an and for from in no not of off on or the to with s o d".split())
SKIN_TONE_WEIGHT = 0.1
# probability of each kind of caption: the name, the name with an article, one of its words, ...
CAPTIONS = {"name": 0.48, "article": 0.06, "word": 0.26, "keyword": 0.10, "some words": 0.10}


class EmojiCaptions:
    """The captions of emoji: the name, some of its words, or a keyword.

    The name of one emoji is never the caption of another: "person" is the caption of the person,
    not of the hundreds of emoji with that word in their names.
    """

    def __init__(self, emoji: Sequence[Emoji], keywords_file: str = ""):
        self.emoji = emoji
        name_words = {word for e in emoji for word in e.words}
        self.names = {" ".join(e.words) for e in emoji}
        keywords = _keywords(keywords_file)
        self.keywords = []
        self.warnings = [] if keywords else [NO_KEYWORDS]
        for e in emoji:
            candidates = [*keywords.get(e.text, ()), e.subgroup.replace("-", " ")]
            self.keywords.append([k for k in candidates if _is_useful_keyword(k, e, name_words)])

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a random caption of emoji `i`."""
        caption = self._random_caption(i, rng)
        return self.emoji[i].name if " ".join(split_words(caption)) in self.names else caption

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
        """Return the names, twice each, all keywords, and the articles."""
        names = [e.name for e in self.emoji for _ in range(2)]
        return names + [keyword for ks in self.keywords for keyword in ks] + ["a an the"]


class EmojiDataset:
    """All emoji of the font at one size, captioned by `EmojiCaptions`."""

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(self, size: int, font_file: str = "", keywords_file: str = ""):
        self.emoji = emoji_list()
        self.font_file = font_file
        rendered = (render(e, size, font_file) for e in self.emoji)
        self.images = np.stack([np.asarray(image).transpose(2, 0, 1) for image in rendered])
        self.classes = [e.subgroup.replace("-", " ") for e in self.emoji]
        self.weights = relative_weights(self.emoji)
        self.captions = EmojiCaptions(self.emoji, keywords_file)
        self.warnings = self.captions.warnings

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a random caption of emoji `i`."""
        return self.captions.caption(i, rng)

    def vocabulary(self) -> list[str]:
        """Return texts with every word of the captions."""
        return self.captions.vocabulary()

    def origin(self) -> bytes:
        """Return what identifies the pictures: the file of the font."""
        return font_path(self.font_file).read_bytes()


def relative_weights(emoji: Sequence[Emoji]) -> np.ndarray:
    """Return how often each emoji is sampled, (n,): variants in skin tones are rare."""
    return np.asarray([SKIN_TONE_WEIGHT if e.has_skin_tone else 1.0 for e in emoji])


def _is_useful_keyword(keyword: str, emoji: Emoji, name_words: set[str]) -> bool:
    """Return whether a keyword is short and has a word that does not name another emoji."""
    words = re.findall(r"[^\W_]+", keyword.lower())
    return 0 < len(words) <= 3 and not all(w in name_words and w not in emoji.words for w in words)


def check_keywords(keywords_file: str) -> None:
    """Refuse a file of keywords that cannot be read; "" is Debian's, which is optional.

    Raises:
        InputError: There is no such file.
    """
    if keywords_file and not Path(keywords_file).is_file():
        message = f"data.keywords {keywords_file!r} is not a file"
        raise data_error(message, "the file annotations/en.xml of CLDR")


def _keywords(keywords_file: str) -> dict[str, list[str]]:
    """Return the keywords by emoji characters; empty without the optional package.

    Raises:
        InputError: The given file cannot be read, or is not XML.
    """
    check_keywords(keywords_file)
    path = Path(keywords_file) if keywords_file else KEYWORDS
    if not path.exists():
        return {}
    annotations: dict[str, list[str]] = {}
    try:
        nodes = [*ET.parse(path).iter("annotation")]
    except (OSError, ET.ParseError) as error:
        message = f"the keywords {str(path)!r} cannot be read: {error}"
        raise data_error(message, "the file annotations/en.xml of CLDR") from error
    for node in nodes:
        if node.get("type") != "tts" and node.text:
            annotations[node.get("cp", "")] = [k.strip() for k in node.text.split("|")]
    # the file omits the variation selector of fully qualified emoji
    keys = {e.text: e.text.replace("\ufe0f", "") for e in emoji_list()}
    return {text: annotations[key] for text, key in keys.items() if key in annotations}
