"""Prompts that ask the embedded model for a composition that it has never seen.

It was trained on emoji and their names, and on scenes with one or two kinds of emoji next to or
above each other (docs/command-line.md lists the words). It has seen a verb or an adjective join two
things only in the name of an emoji ("person wearing turban"); other combinations become a mixture.
"""

from __future__ import annotations

import re
from functools import cache

from ldmref.prompts.emoji import named_emoji, with_emoji_names

RELATIONS = (
    "to the left of", "to the right of", "on top of", "left of", "right of", "next to", "beside",
    "above", "below", "under", "over", "with", "and",
)  # fmt: skip
COLOURS = "red orange yellow green blue purple pink brown"
# Words that describe a thing of a scene without naming it.
ATTRIBUTES = frozenset(
    f"a an the of is are in that on background {COLOURS} small little tiny big large huge pair "
    "couple one two three four five six seven eight nine 1 2 3 4 5 6 7 8 9".split()
)
MOST_THINGS = 2
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "teeth": "tooth", "feet": "foot", "oxen": "ox", "dice": "die", "cacti": "cactus",
    "snowmen": "snowman",
}  # fmt: skip
_RELATION = re.compile(rf"\b(?:{'|'.join(RELATIONS)})\b|[,;]")
_WORD = re.compile(r"[^\W_]+|[#*!&]")


def unseen_composition(prompt: str) -> str:
    """Return a warning about a prompt that joins what the model has never seen joined, or "".

    >>> unseen_composition("a smiling dragon")
    'no emoji that the model has seen has both "smiling" and "dragon" in its name: expect a mixture'
    >>> unseen_composition("a green cat and a red apple on yellow")
    ''
    """
    text = with_emoji_names(prompt).lower()
    if _named(_words(text)):
        return ""
    things = 0
    for part in _RELATION.split(text):
        words = [word for word in _words(part) if _is_thing(word)]
        things += bool(words)
        if len(words) > 1 and not _named(words):
            quoted = [f'"{word}"' for word in dict.fromkeys(words)]
            all_of = "both" if len(quoted) == 2 else "all of"
            names = f"{all_of} {', '.join(quoted[:-1])} and {quoted[-1]}"
            return f"no emoji that the model has seen has {names} in its name: expect a mixture"
    if things > MOST_THINGS:
        return (
            f"the prompt names {things} kinds of things, the model has seen at most {MOST_THINGS}"
        )
    return ""


def _words(text: str) -> list[str]:
    """Return the words of a text in the singular, without articles."""
    return [_singular(word) for word in _WORD.findall(text) if word not in ("a", "an", "the")]


def _is_thing(word: str) -> bool:
    """Return whether a word names a thing that the model knows: no attribute, no stray letter."""
    return word not in ATTRIBUTES and word in _known() and not (len(word) == 1 and word.isalnum())


def _named(words: list[str]) -> bool:
    """Return whether the name of one emoji has all the words."""
    return any(name.issuperset(words) for name in _names())


@cache
def _spelt() -> frozenset[str]:
    """Return the words of all names as they are spelt."""
    return frozenset(word for emoji in named_emoji() for word in _WORD.findall(emoji.name.lower()))


@cache
def _names() -> tuple[frozenset[str], ...]:
    """Return the words of each name, in the singular."""
    return tuple(frozenset(_words(emoji.name.lower())) for emoji in named_emoji())


@cache
def _known() -> frozenset[str]:
    """Return the words of all names, in the singular."""
    return frozenset().union(*_names())


def _singular(word: str) -> str:
    """Return the singular of a plural if a name has it, otherwise the word.

    >>> _singular("foxes"), _singular("houses"), _singular("mice"), _singular("bus")
    ('fox', 'house', 'mouse', 'bus')
    """
    endings = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", ""))
    singulars = [IRREGULAR.get(word, "")]
    singulars += [word[: -len(old)] + new for old, new in endings if word.endswith(old)]
    return next((singular for singular in singulars if singular in _spelt()), word)
