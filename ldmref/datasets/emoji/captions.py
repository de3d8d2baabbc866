"""Captions of scenes, in several phrasings each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldmref.datasets.emoji.colours import COLOURS
from ldmref.datasets.emoji.nouns import Noun, article, noun_by_name, nouns
from ldmref.datasets.emoji.scene import ABOVE, Scene, Thing

NUMBERS = {
    2: ("two", "2", "a pair of", "a couple of"),
    3: ("three", "3"),
    4: ("four", "4"),
    5: ("five", "5"),
    6: ("six", "6"),
    7: ("seven", "7"),
    8: ("eight", "8"),
    9: ("nine", "9"),
}
NUMBER_ODDS = dict.fromkeys(NUMBERS, (0.65, 0.35)) | {2: (0.55, 0.25, 0.1, 0.1)}
SIZES = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
SIZE_ODDS = (0.6, 0.25, 0.15)
BESIDE_PHRASES = {  # for the left thing {0} and the right thing {1}
    "{0} and {1}": 0.44,
    "{0} next to {1}": 0.09,
    "{0} beside {1}": 0.04,
    "{0} with {1}": 0.03,
    "{0} left of {1}": 0.10,
    "{0} to the left of {1}": 0.10,
    "{1} right of {0}": 0.10,
    "{1} to the right of {0}": 0.10,
}
ABOVE_PHRASES = {  # for the upper thing {0} and the lower thing {1}
    "{0} above {1}": 0.34,
    "{0} over {1}": 0.12,
    "{0} on top of {1}": 0.10,
    "{1} below {0}": 0.26,
    "{1} under {0}": 0.18,
}
BACKGROUND_PHRASES = {"{0} on {1}": 0.4, "{0} on a {1} background": 0.4, "{0}, {1} background": 0.2}
# a caption of drawings in one style names it after the whole, before each noun, or not at all
STYLE_ODDS = {"whole": 0.3, "each": 0.2, "": 0.5}
STYLE_PHRASE = "{0} in {1} style"
REPEATED = 6  # occurrences of each noun in the vocabulary


def scene_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a random description of a scene; it names the styles if there are two of them."""
    styled = _style_of_caption(scene, rng)
    plain = len(scene.things) == 1 and not scene.background and styled != "whole"
    things = scene.things
    if styled != "each":
        things = tuple(replace(thing, style="") for thing in things)
    phrases = [_thing(thing, rng, plain) for thing in things]
    text = phrases[0]
    if len(phrases) == 2:
        templates = ABOVE_PHRASES if scene.relation == ABOVE else BESIDE_PHRASES
        text = _template(templates, rng).format(*phrases)
    if scene.background:
        template = _template(BACKGROUND_PHRASES, rng)
        if scene.background[0] in "aeiou":
            template = template.replace("a {1}", "an {1}")
        text = template.format(text, scene.background)
    return STYLE_PHRASE.format(text, *scene.styles) if styled == "whole" else text


def styled_caption(caption: str, style: str, rng: np.random.Generator) -> str:
    """Return a caption of one drawing, which names its style in half of all cases.

    >>> styled_caption("a cat", "noto", np.random.default_rng(4))
    'a noto cat'
    """
    kind = _template(STYLE_ODDS, rng)
    if kind == "whole":
        return STYLE_PHRASE.format(caption, style)
    if kind != "each":
        return caption
    first, _, rest = caption.partition(" ")
    if first in ("a", "an"):
        return f"{article(style)} {style} {rest}"
    return f"the {style} {rest}" if first == "the" else f"{style} {caption}"


def _style_of_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return where the caption of a scene names its styles, a key of `STYLE_ODDS`."""
    if scene.styles == {""}:
        return ""
    return _template(STYLE_ODDS, rng) if len(scene.styles) == 1 else "each"


def scene_vocabulary(styles: Sequence[str] = ()) -> list[str]:
    """Return texts with every word of the captions of scenes, in these styles."""
    texts = [text for noun in nouns() for text in (noun.singular, noun.plural)]
    templates = [*BESIDE_PHRASES, *ABOVE_PHRASES, *BACKGROUND_PHRASES, "a an the is are in that"]
    common = [t.replace("{0}", "").replace("{1}", "") for t in templates]
    common += [*COLOURS, *(" ".join(words) for words in (*NUMBERS.values(), *SIZES.values()))]
    if styles:
        common += [*styles, STYLE_PHRASE.format("", "")]
    return texts * REPEATED + common * 50


def _thing(thing: Thing, rng: np.random.Generator, plain: bool) -> str:
    """Return a noun phrase; if it is `plain`, nothing follows it, and it may be a sentence."""
    noun = noun_by_name(thing.noun)
    size = _choice(SIZES[thing.size], SIZE_ODDS, rng) if thing.size else ""
    if thing.colour and rng.random() > 0.8:
        after = f"is {thing.colour}" if plain and rng.random() > 0.5 else f"in {thing.colour}"
        if thing.count > 1:
            after = after.replace("is ", "that are ") if plain else after
            return f"{_number(thing, rng)} {_words(size, thing.style, noun.plural)} {after}"
        phrase = _words(size, thing.style, noun.singular)
        if after.startswith("is"):
            return f"the {phrase} {after}"
        return f"{_with_article(noun, phrase, rng)} {after}"
    if thing.count > 1:
        phrase = _words(size, thing.colour, thing.style, noun.plural)
        return f"{_number(thing, rng)} {phrase}"
    phrase = _words(size, thing.colour, thing.style, noun.singular)
    return _with_article(noun, phrase, rng)


def _with_article(noun: Noun, phrase: str, rng: np.random.Generator) -> str:
    odds = rng.random()
    if odds > 0.92:
        return f"the {phrase}"
    if not noun.article or odds > 0.77:
        return phrase
    return f"{article(phrase)} {phrase}"


def _number(thing: Thing, rng: np.random.Generator) -> str:
    return _choice(NUMBERS[thing.count], NUMBER_ODDS[thing.count], rng)


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def _template(templates: dict[str, float], rng: np.random.Generator) -> str:
    return _choice(tuple(templates), tuple(templates.values()), rng)


def _choice(options: tuple[str, ...], odds: tuple[float, ...], rng: np.random.Generator) -> str:
    limit = rng.random() * sum(odds)
    total = 0.0
    for option, share in zip(options, odds, strict=True):
        total += share
        if limit < total:
            return option
    return options[-1]
