"""Random scenes: for training, and with combinations that training never shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ldmref.datasets.emoji.colours import BACKGROUNDS, COLOURS, stands_out
from ldmref.datasets.emoji.nouns import Noun, nouns
from ldmref.datasets.emoji.rendering import mean_colour
from ldmref.datasets.emoji.scene import ABOVE, BESIDE, Scene, Thing, held_out_kinds

SHARES = {  # relative frequencies of the kinds of scenes
    "colour": 0.09, "count": 0.03, "pair": 0.05, "place": 0.04, "size": 0.34, "small": 0.18,
    "background": 0.03, "bound": 0.16, "triple": 0.11, "many": 0.17,
}  # fmt: skip
# attributes that vary in a scene of one thing; other kinds vary the attribute of their name
ATTRIBUTES = {"triple": {"colour", "count", "background"}, "many": {"count"}, "small": {"size"}}
EXTRAS = {"colour": 0.5, "background": 0.3}  # probability of also varying it in "many", "small"
# kind of scene -> the combination that training must not have shown
TESTED = {kind: kind for kind in SHARES} | {"place": "pair", "many": "count", "small": "size"}
ATTEMPTS = 10_000
T = TypeVar("T")


def training_scene(seed: int, index: int, font_file: str = "") -> Scene:
    """Return the training scene of an index; held-out combinations never occur."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
    kind = str(rng.choice(list(SHARES), p=np.array(list(SHARES.values())) / sum(SHARES.values())))
    return _first(lambda: random_scene(kind, rng, font_file), lambda s: not held_out_kinds(s))


def held_out_scene(kind: str, seed: int, index: int) -> Scene:
    """Return a scene of a kind in which only the tested combination is held out."""
    key = [seed, index, *kind.encode()]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    tested = {TESTED[kind]}
    return _first(lambda: random_scene(kind, rng), lambda s: held_out_kinds(s) == tested)


def random_scene(kind: str, rng: np.random.Generator, font_file: str = "") -> Scene:
    """Return a scene of a kind, held out or not."""
    if kind in ("pair", "place", "bound") or (kind == "size" and rng.random() >= 0.5):
        return _pair(kind, rng, font_file)
    attributes = ATTRIBUTES.get(kind, {kind})
    if kind in ("many", "small"):
        attributes = attributes | {name for name, odds in EXTRAS.items() if rng.random() < odds}
    return _single(kind, attributes, rng, font_file)


def _single(kind: str, attributes: set[str], rng: np.random.Generator, font_file: str) -> Scene:
    counted = "count" in attributes
    coloured = "colour" in attributes
    noun = _noun(rng, lambda n: (n.plural or not counted) and (n.recoloured or not coloured))
    colour = _colour(rng) if coloured else ""
    background = ""
    if "background" in attributes:
        background = _background(noun, colour, rng, font_file)
    size = "small" if "size" in attributes else ""
    fewest, most = (5, 9) if kind == "many" else (2, 4)
    count = int(rng.integers(fewest, most, endpoint=True)) if counted else 1
    return Scene(kind, (Thing(noun.singular, colour, size, count),), background=background)


def _pair(kind: str, rng: np.random.Generator, font_file: str) -> Scene:
    """Return a scene of two things: "bound", each with a colour; "size", one big, one small."""
    coloured = kind == "bound"
    sized = kind == "size"
    first = _noun(rng, lambda n: n.recoloured or not coloured)
    second = _noun(rng, lambda n: n != first and (n.recoloured or not coloured))
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
        background = _background(first, colours[0], rng, font_file)
        if background and not _visible(second, colours[1], background, font_file):
            background = ""
    things = [
        Thing(noun.singular, colour if noun.recoloured else "", size)
        for noun, colour, size in zip((first, second), colours, sizes, strict=True)
    ]
    return Scene(kind, tuple(things), relation, background)


def _noun(rng: np.random.Generator, fits: Callable[[Noun], object]) -> Noun:
    pool = nouns()
    return _first(lambda: pool[int(rng.integers(len(pool)))], fits)


def _colour(rng: np.random.Generator) -> str:
    return str(rng.choice(list(COLOURS)))


def _background(noun: Noun, colour: str, rng: np.random.Generator, font_file: str) -> str:
    names = [name for name in BACKGROUNDS if _visible(noun, colour, name, font_file)]
    return str(rng.choice(names)) if names else ""


def _visible(noun: Noun, colour: str, background: str, font_file: str) -> bool:
    rgb = np.asarray(COLOURS[colour]) if colour else mean_colour(noun.emoji, font_file)
    return colour != background and stands_out(rgb, background)


def _first(sample: Callable[[], T], fits: Callable[[T], object]) -> T:
    for _ in range(ATTEMPTS):
        value = sample()
        if fits(value):
            return value
    raise AssertionError("no scene fits")
