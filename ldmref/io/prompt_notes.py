"""What to know about the prompts of an embedded model, which reads the words of its training alone.

It stands in `prompts.json` beside the weights. Such a model was trained on emoji and their names,
and on scenes with one or two kinds of emoji next to or above each other (docs/command-line.md lists
the words). It has seen a verb or an adjective join two things only in the name of an emoji ("person
wearing turban"); other combinations become a mixture, of which `Compositions` warns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from ldmref.io.embedded import BASES, EMBEDDED
from ldmref.models.config import ModelConfig
from ldmref.prompts.emoji import named_emoji, with_emoji_names
from ldmref.support.assets import read_asset

_WORD = re.compile(r"[^\W_]+|[#*!&]")
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Compositions:
    """The words by which the prompts of a model join things.

    Args:
        most_things: The most kinds of things in a scene that the model has seen.
        relations: Words between two things.
        attributes: Words that describe a thing of a scene without naming it.
        plurals: Irregular plurals, each with its singular.
    """

    most_things: int
    relations: Sequence[str]
    attributes: Sequence[str]
    plurals: Mapping[str, str] = field(repr=False)

    def unseen(self, prompt: str) -> str:
        """Return a warning about a prompt that joins what was never seen joined, or "".

        >>> from ldmref.models import preset
        >>> from ldmref.io.prompt_notes import prompt_notes
        >>> seen = prompt_notes(preset("emoji-128")).compositions
        >>> seen.unseen("a smiling dragon").partition(":")[0]
        'no emoji that the model has seen has both "smiling" and "dragon" in its name'
        >>> seen.unseen("a green cat and a red apple on yellow")
        ''
        """
        text = with_emoji_names(prompt).lower()
        if self._is_name(text) or self._named(self._words(text)):
            return ""
        things = 0
        for part in self._relation.split(text):
            words = [word for word in self._words(part) if self._is_thing(word)]
            things += bool(words)
            if len(words) > 1 and not self._named(words):
                quoted = [f'"{word}"' for word in dict.fromkeys(words)]
                all_of = "both" if len(quoted) == 2 else "all of"
                names = f"{all_of} {', '.join(quoted[:-1])} and {quoted[-1]}"
                return f"no emoji that the model has seen has {names} in its name: expect a mixture"
        if things > self.most_things:
            most = f"the model has seen at most {self.most_things}"
            return f"the prompt names {things} kinds of things, {most}"
        return ""

    @cached_property
    def _relation(self) -> re.Pattern[str]:
        return re.compile(rf"\b(?:{'|'.join(self.relations)})\b|[,;]")

    @cached_property
    def _spelt_names(self) -> tuple[list[str], ...]:
        """The words of each name as they are spelt."""
        return tuple(_WORD.findall(emoji.name.lower()) for emoji in named_emoji())

    @cached_property
    def _spelt(self) -> frozenset[str]:
        """The words of all names as they are spelt."""
        return frozenset().union(*self._spelt_names)

    @cached_property
    def _names(self) -> tuple[frozenset[str], ...]:
        """The words of each name, in the singular, without articles."""
        singulars = {word: self.singular(word) for word in self._spelt.difference(_ARTICLES)}
        return tuple(
            frozenset(singulars[word] for word in name if word in singulars)
            for name in self._spelt_names
        )

    @cached_property
    def _known(self) -> frozenset[str]:
        """The words of all names, in the singular."""
        return frozenset().union(*self._names)

    def _is_name(self, text: str) -> bool:
        """Return whether one emoji has all the words in its name, as they are spelt.

        It is the usual case, and the singulars of all names take as long as a step of the model.
        """
        words = {word for word in _WORD.findall(text) if word not in _ARTICLES}
        names = (emoji.name.lower() for emoji in named_emoji())
        likely = (name for name in names if all(word in name for word in words))
        return any(words.issubset(_WORD.findall(name)) for name in likely)

    def _named(self, words: list[str]) -> bool:
        """Return whether the name of one emoji has all the words."""
        return any(name.issuperset(words) for name in self._names)

    def _words(self, text: str) -> list[str]:
        """Return the words of a text in the singular, without articles."""
        return [self.singular(word) for word in _WORD.findall(text) if word not in _ARTICLES]

    def _is_thing(self, word: str) -> bool:
        """Return whether a word names a thing that is known: no attribute, no stray letter."""
        stray = len(word) == 1 and word.isalnum()
        return word not in self.attributes and word in self._known and not stray

    def singular(self, word: str) -> str:
        """Return the singular of a plural if a name has it, otherwise the word.

        >>> from ldmref.models import preset
        >>> from ldmref.io.prompt_notes import prompt_notes
        >>> seen = prompt_notes(preset("emoji-128")).compositions
        >>> [seen.singular(word) for word in ("foxes", "houses", "mice", "bus")]
        ['fox', 'house', 'mouse', 'bus']
        """
        endings = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", ""))
        singulars = [self.plurals.get(word, "")]
        singulars += [word[: -len(old)] + new for old, new in endings if word.endswith(old)]
        return next((singular for singular in singulars if singular in self._spelt), word)


@dataclass(frozen=True)
class PromptNotes:
    """What to know about the prompts of an embedded model: `prompts.json` beside its weights.

    Args:
        models: The names of the models, as in their configurations.
        description: A sentence about what they know.
        examples: Prompts that they understand.
        note: A sentence about the prompts to try.
        parameters: What to know about a parameter: {mode: {parameter: a line}}.
        compositions: The words by which a prompt joins things.
    """

    models: Sequence[str]
    description: str
    examples: Sequence[str]
    note: str
    parameters: Mapping[str, Mapping[str, str]]
    compositions: Compositions


def prompt_notes(config: ModelConfig) -> PromptNotes | None:
    """Return what to know about a model's prompts; None for models that read any text."""
    return next((notes for notes in _all_notes() if config.name in notes.models), None)


@cache
def _all_notes() -> tuple[PromptNotes, ...]:
    found = []
    for name in (name for name in EMBEDDED if name not in BASES):
        read: dict[str, Any] = json.loads(read_asset(name, "prompts.json"))
        read["compositions"] = Compositions(**read["compositions"])
        found.append(PromptNotes(**read))
    return tuple(found)
