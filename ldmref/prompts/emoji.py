"""Emoji and their names: the list of Unicode 15.0, and prompts that contain emoji.

Word models are trained on the names, so their tokenizer reads an emoji as its name.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

from ldmref.support.assets import read_asset

SELECTOR = "\ufe0f"  # asks for the coloured form; typed text often lacks it
SYMBOLS = ("So", "Sk", "Cn")


class NamedEmoji(NamedTuple):
    """A fully qualified emoji: its characters, its name, and its subgroup in Unicode's list."""

    text: str
    name: str
    subgroup: str


@cache
def named_emoji() -> tuple[NamedEmoji, ...]:
    """Return all 3,655 fully qualified emoji of Unicode 15.0, in Unicode's order."""
    found = []
    subgroup = ""
    lines = iter(read_asset("emoji-names.txt").splitlines())
    for line in lines:
        if line.startswith("> "):
            subgroup = line.removeprefix("> ")
        elif subgroup:  # the licence comes before the first one
            characters, name = line.split(" ", 1)
            found.append(NamedEmoji(characters, name, subgroup))
    return tuple(found)


def with_emoji_names(prompt: str) -> str:
    """Return `prompt` with each emoji replaced by its name; adjacent emoji are joined by "and".

    The longest sequence counts: skin tones and joined emoji are one emoji if Unicode names them
    as one. Other characters are kept.

    >>> with_emoji_names("🐶 on red")
    'dog face on red'
    >>> with_emoji_names("🐱🐶")
    'cat face and dog face'
    """
    return prompt if prompt.isascii() else _name_emoji(prompt)


def _name_emoji(prompt: str) -> str:
    names, longest = _names_by_text()
    text = prompt.replace(SELECTOR, "")
    pieces = []
    found = False
    after_emoji = False
    i = 0
    while i < len(text):
        end = next((j for j in range(min(i + longest, len(text)), i, -1) if text[i:j] in names), 0)
        if not end:
            pieces.append(text[i])
            after_emoji = after_emoji and text[i].isspace()
            i += 1
            continue
        pieces.append(f" and {names[text[i:end]]} " if after_emoji else f" {names[text[i:end]]} ")
        found = after_emoji = True
        i = end
    return " ".join("".join(pieces).split()) if found else prompt


def find_unnamed_symbols(prompt: str) -> list[str]:
    """Return the symbols of `prompt` that are not emoji of the list, without repetition.

    Symbols are characters beyond ASCII of Unicode's categories So (other), Sk (modifier) and Cn
    (not yet assigned, such as emoji of later versions of Unicode).
    """
    rest = with_emoji_names(prompt)
    symbols = [c for c in rest if not c.isascii() and unicodedata.category(c) in SYMBOLS]
    return list(dict.fromkeys(symbols))


@cache
def _names_by_text() -> tuple[dict[str, str], int]:
    """Return the names by characters without selectors, and the length of the longest sequence."""
    names = {emoji.text.replace(SELECTOR, ""): emoji.name for emoji in named_emoji()}
    return names, max(map(len, names))
