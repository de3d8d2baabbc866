"""The emoji font and scenes composed of it as one data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np

from ldmref.datasets.base import Augmentation, ImageArray, StyledImages
from ldmref.datasets.emoji.captions import scene_caption, scene_vocabulary
from ldmref.datasets.emoji.colours import BACKGROUNDS, COLOURS, stands_out
from ldmref.datasets.emoji.drawings import STYLE_WORDS, find_drawings
from ldmref.datasets.emoji.emoji_dataset import EmojiDataset
from ldmref.datasets.emoji.nouns import Noun, nouns
from ldmref.datasets.emoji.rendering import RenderedImages, mean_colour, render_scene
from ldmref.datasets.emoji.scene import ABOVE, BESIDE, Scene, Thing, held_out_kinds
from ldmref.datasets.emoji.style_dataset import StyleDataset
from ldmref.datasets.parallel import make_in_parallel
from ldmref.prompts.emoji import named_emoji

NAMES_SHARE = 0.5  # share of single emoji among the samples
DIGEST_SAMPLES = 200  # images that represent all in the digest
# characters of the emoji of Unicode 15.0 that Unicode 14.0 does not have
NEW_CHARACTERS = (
    "\U0001f6dc\U0001fa75\U0001fa76\U0001fa77\U0001fa87\U0001fa88\U0001faad\U0001faae\U0001faaf"
    "\U0001fabb\U0001fabc\U0001fabd\U0001fabf\U0001face\U0001facf\U0001fada\U0001fadb\U0001fae8"
    "\U0001faf7\U0001faf8"
)


class SceneDataset:
    """All emoji, then scenes, `images` in total; scenes are rendered when they are indexed.

    With `packages` the emoji are drawings in several styles, and each scene has one style or two.
    """

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(
        self,
        size: int,
        images: int,
        seed: int = 0,
        font_file: str = "",
        keywords_file: str = "",
        packages: str = "",
    ):
        self.names: EmojiDataset | StyleDataset
        if packages:
            self.names = StyleDataset(size, packages, keywords_file)
        else:
            self.names = EmojiDataset(size, font_file, keywords_file)
        self.packages = packages
        self.source = packages or font_file
        self.seed = seed
        self.images: ImageArray = SceneImages(self.names.images, size, images, seed, self.source)
        self.warnings = self.names.warnings
        named = self.names.weights
        scenes = images - len(named)
        shares = NAMES_SHARE * named / named.sum(), np.full(scenes, (1 - NAMES_SHARE) / scenes)
        self.weights = np.concatenate(shares)

    @property
    def styled(self) -> StyledImages | None:
        """The drawings of all styles; None of the font, which has one picture of each name."""
        return self.names.styled if isinstance(self.names, StyleDataset) else None

    def make_images(self, processes: int) -> None:
        """Make all images now, by several processes."""
        self.images = make_in_parallel(self.images, processes)

    @property
    def classes(self) -> list[str]:
        """The subgroups of the emoji, and the kinds of the scenes."""
        scenes = len(self.images) - len(self.names.images)
        return self.names.classes + [
            cached_scene(self.seed, i, self.source).kind for i in range(scenes)
        ]

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a random caption of image `i`."""
        count = len(self.names.images)
        if i < count:
            return self.names.caption(i, rng)
        return scene_caption(cached_scene(self.seed, i - count, self.source), rng)

    def vocabulary(self) -> list[str]:
        """Return texts with every word of the captions."""
        return self.names.vocabulary() + scene_vocabulary(STYLE_WORDS if self.packages else ())

    def digest(self) -> str:
        """Return the digest of the font or the drawings, the names, and a sample of the images."""
        digest = hashlib.sha256(self.names.origin())
        digest.update(_list_names().encode())
        sample = np.linspace(0, len(self.images) - 1, DIGEST_SAMPLES).astype(int)
        digest.update(repr((self.images.shape, self.seed)).encode())
        digest.update(self.images[sample].tobytes())
        return digest.hexdigest()


class SceneImages(RenderedImages):
    """uint8 images (n, 3, size, size): `first`, then scenes, which are rendered when indexed."""

    def __init__(self, first: ImageArray, size: int, count: int, seed: int, source: str = ""):
        super().__init__(count, size)
        self.first = first
        self.seed = seed
        self.source = source

    def render(self, i: int) -> np.ndarray:
        if i < len(self.first):
            return self.first[i : i + 1][0]
        scene = cached_scene(self.seed, i - len(self.first), self.source)
        return render_scene(scene, self.size, self.source).transpose(2, 0, 1)


def _list_names() -> str:
    """Return the names of all emoji as Python 3.11 prints them, on every version of Python.

    `repr` escapes the characters that the Unicode of its version does not have.
    """
    escapes = {ord(c): f"\\U{ord(c):08x}" for c in NEW_CHARACTERS}
    return repr(named_emoji()).translate(escapes)


@lru_cache(maxsize=400_000)
def cached_scene(seed: int, index: int, source: str = "") -> Scene:
    """Return the training scene of an index."""
    return training_scene(seed, index, source)


# -- random scenes --------------------------------------------------------------------------------


SHARES = {  # relative frequencies of the kinds of scenes
    "colour": 0.09, "count": 0.03, "pair": 0.05, "place": 0.04, "size": 0.34, "small": 0.18,
    "background": 0.03, "bound": 0.16, "triple": 0.11, "many": 0.17,
}  # fmt: skip
# attributes that vary in a scene of one thing; other kinds vary the attribute of their name
ATTRIBUTES = {"triple": {"colour", "count", "background"}, "many": {"count"}, "small": {"size"}}
EXTRAS = {"colour": 0.5, "background": 0.3}  # probability of also varying it in "many", "small"
# kind of scene -> the combination that training must not have shown
TESTED = {kind: kind for kind in SHARES} | {"place": "pair", "many": "count", "small": "size"}
ACROSS_STYLES = 0.2  # probability that two things are drawn in styles of their own
ATTEMPTS = 10_000
T = TypeVar("T")


def training_scene(seed: int, index: int, source: str = "") -> Scene:
    """Return the training scene of an index; held-out combinations never occur."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
    kind = str(rng.choice(list(SHARES), p=np.array(list(SHARES.values())) / sum(SHARES.values())))
    return _first(lambda: random_scene(kind, rng, source), lambda s: not held_out_kinds(s))


def held_out_scene(kind: str, seed: int, index: int, source: str = "") -> Scene:
    """Return a scene of a kind in which only the tested combination is held out."""
    key = [seed, index, *kind.encode()]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    tested = {TESTED[kind]}
    return _first(lambda: random_scene(kind, rng, source), lambda s: held_out_kinds(s) == tested)


def random_scene(kind: str, rng: np.random.Generator, source: str = "") -> Scene:
    """Return a scene of a kind, held out or not."""
    if kind in ("pair", "place", "bound") or (kind == "size" and rng.random() >= 0.5):
        return _pair(kind, rng, source)
    attributes = ATTRIBUTES.get(kind, {kind})
    if kind in ("many", "small"):
        attributes = attributes | {name for name, odds in EXTRAS.items() if rng.random() < odds}
    return _single(kind, attributes, rng, source)


def _single(kind: str, attributes: set[str], rng: np.random.Generator, source: str) -> Scene:
    counted = "count" in attributes
    coloured = "colour" in attributes
    styles = partial(_styles, source=source)
    noun = _noun(
        rng, lambda n: (n.plural or not counted) and (n.recoloured or not coloured) and styles(n)
    )
    style = _style(styles(noun), rng)
    colour = _colour(rng) if coloured else ""
    background = ""
    if "background" in attributes:
        background = _background(noun, colour, rng, source, style)
    size = "small" if "size" in attributes else ""
    fewest, most = (5, 9) if kind == "many" else (2, 4)
    count = int(rng.integers(fewest, most, endpoint=True)) if counted else 1
    thing = Thing(noun.singular, colour, size, count, style)
    return Scene(kind, (thing,), background=background)


def _pair(kind: str, rng: np.random.Generator, source: str) -> Scene:
    """Return a scene of two things: "bound", each with a colour; "size", one big, one small."""
    coloured = kind == "bound"
    sized = kind == "size"
    styles = partial(_styles, source=source)
    first = _noun(rng, lambda n: (n.recoloured or not coloured) and styles(n))
    style = _style(styles(first), rng)
    across = style != "" and rng.random() < ACROSS_STYLES

    def fits(noun: Noun) -> bool:
        exists = bool(styles(noun)) if across else style in styles(noun)
        return noun != first and (noun.recoloured or not coloured) and exists

    second = _noun(rng, fits)
    two_styles = (style, _style(styles(second), rng) if across else style)
    colours = ["", ""]
    if coloured:
        colours = [str(c) for c in rng.choice(list(COLOURS), 2, replace=False)]
    elif kind == "pair" and rng.random() < 0.15:  # a colour for one of them only
        colours[int(rng.integers(2))] = _colour(rng)
    sizes = [("big", "small"), ("small", "big")][int(rng.integers(2))] if sized else ("", "")
    relations = {"pair": (BESIDE,), "place": (BESIDE, ABOVE, ABOVE)}.get(kind, (BESIDE, ABOVE))
    relation = relations[int(rng.integers(len(relations)))]
    background = ""
    if coloured and rng.random() < 0.3:
        background = _background(first, colours[0], rng, source, style)
        if background and not _visible(second, colours[1], background, source, two_styles[1]):
            background = ""
    things = [
        Thing(noun.singular, colour if noun.recoloured else "", size, style=style)
        for noun, colour, size, style in zip(
            (first, second), colours, sizes, two_styles, strict=True
        )
    ]
    return Scene(kind, tuple(things), relation, background)


def _noun(rng: np.random.Generator, fits: Callable[[Noun], object]) -> Noun:
    pool = nouns()
    return _first(lambda: pool[int(rng.integers(len(pool)))], fits)


def _colour(rng: np.random.Generator) -> str:
    return str(rng.choice(list(COLOURS)))


def _styles(noun: Noun, source: str) -> tuple[str, ...]:
    """Return the styles in which training shows a noun; "" is the font's."""
    found = find_drawings(source)
    return ("",) if found is None else found.trained_styles(noun.emoji.name)


def _style(styles: tuple[str, ...], rng: np.random.Generator) -> str:
    return styles[0] if styles == ("",) else styles[int(rng.integers(len(styles)))]


def _background(noun: Noun, colour: str, rng: np.random.Generator, source: str, style: str) -> str:
    names = [name for name in BACKGROUNDS if _visible(noun, colour, name, source, style)]
    return str(rng.choice(names)) if names else ""


def _visible(noun: Noun, colour: str, background: str, source: str, style: str) -> bool:
    rgb = np.asarray(COLOURS[colour]) if colour else mean_colour(noun.emoji, source, style)
    return colour != background and stands_out(rgb, background)


def _first(sample: Callable[[], T], fits: Callable[[T], object]) -> T:
    for _ in range(ATTEMPTS):
        value = sample()
        if fits(value):
            return value
    raise AssertionError("no scene fits")
