"""What ports of diffusion models get wrong, as data: symptom, hypothesis, test, number, thread.

`assets/pitfalls.toml` holds the public threads; each row names the causes of `ldmref diff` that try
its hypothesis, functions of `ldmref.locate.faults`. `ldmref pitfalls` and the tool `find_pitfalls`
of `ldmref mcp` search them, and docs/pitfalls.md shows all.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ldmref.locate.faults.table import FAULTS
from ldmref.support.assets import read_asset_table


@dataclass(frozen=True)
class Pitfall:
    """A mistake that somebody made, and how to test for it.

    Args:
        subject: Its subject, a heading of the page.
        symptom: What people saw.
        hypothesis: What it was.
        test: What to compute.
        number: What came out; "" if the thread says none.
        threads: The public threads, as "owner/repository#number".
        causes: The functions of `ldmref.locate.faults` that try it, as "module.function".
        reasonable: Whether the change is right in itself, and makes another model of this one.
        families: The families in which `ldmref diff` then says so.
        words: A pattern of the causes that stand for it.
        layers: A pattern of the layers in which they do.

    >>> from ldmref.locate.pitfalls import find_pitfalls
    >>> find_pitfalls(["sine", "cosine"])[0].number
    '37 % relative error'
    """

    subject: str
    symptom: str
    hypothesis: str
    test: str
    number: str = ""
    threads: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    reasonable: bool = False
    families: tuple[str, ...] = ()
    words: str = ""
    layers: str = ".*"

    @property
    def links(self) -> tuple[str, ...]:
        """The addresses of the threads."""
        return tuple(
            f"https://github.com/{thread.replace('#', '/issues/')}" for thread in self.threads
        )


class KnownCause(NamedTuple):
    """A cause that `ldmref diff` tries on a layer that differs.

    Attributes:
        name: Its function in `ldmref.locate.faults`, "module.function".
        concerns: The operations that it concerns, or the part of a network.
        changes: What is computed in its place, in a sentence.
        source: Where it happened, or why it happens.
    """

    name: str
    concerns: str
    changes: str
    source: str


@functools.cache
def read_pitfalls() -> tuple[Pitfall, ...]:
    """Return all rows, in the order of the page."""
    return tuple(Pitfall(**row) for row in read_asset_table("pitfalls.toml")["pitfall"])


def find_pitfalls(words: Iterable[str] = ()) -> list[Pitfall]:
    """Return the rows that contain all words, in any of their fields, in any case.

    Args:
        words: Words, or parts of words; none returns all rows.

    >>> len(find_pitfalls(["padding", "Z-Image"]))
    1
    """
    wanted = [word.lower() for word in words]
    return [row for row in read_pitfalls() if all(word in _text(row) for word in wanted)]


def list_causes() -> Iterator[KnownCause]:
    """Yield the causes that `ldmref diff` tries on layers, in the order of its table."""
    for fault in FAULTS:
        module = fault.variants.__module__.rpartition(".")[2]
        sentence = (inspect.getdoc(fault.variants) or "").partition("\n")[0]
        changes = sentence.removeprefix("Yield ").removesuffix(".")
        name = f"{module}.{fault.variants.__name__}"
        yield KnownCause(name, ", ".join(fault.applies_to), changes, fault.source)


def _text(row: Pitfall) -> str:
    fields = (row.subject, row.symptom, row.hypothesis, row.test, row.number)
    return " ".join((*fields, *row.threads, *row.causes)).lower()
