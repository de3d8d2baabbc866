"""Scenes: things, their layout, and the combinations that training never shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

FRAME = 128  # width and height of an image in the unit of layouts
HELD_OUT = 10  # one combination in 10 is never shown in training
BESIDE = "beside"
ABOVE = "above"
ROWS = {  # number of copies -> number in each row, from top to bottom
    1: (1,), 2: (2,), 3: (2, 1), 4: (2, 2), 5: (3, 2), 6: (3, 3), 7: (3, 1, 3), 8: (3, 2, 3),
    9: (3, 3, 3),
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """`count` copies of a noun, in a colour or its own (""), "small", "big" or neither ("").

    `style`: the set of drawings that it is taken from, "" for the font.
    """

    noun: str
    colour: str = ""
    size: str = ""
    count: int = 1
    style: str = ""


@dataclass(frozen=True)
class Scene:
    """One or two things; the first of two is to the left of the other, or above it.

    `background`: a named colour, or "" for white. `kind`: the kind of combination that the scene is
    an example of.
    """

    kind: str
    things: tuple[Thing, ...]
    relation: str = ""
    background: str = ""

    @property
    def styles(self) -> set[str]:
        """The sets of drawings in it."""
        return {thing.style for thing in self.things}


@dataclass(frozen=True)
class Slot:
    """The square of one copy of `things[thing]`, in units of 1 / FRAME."""

    thing: int
    x: int
    y: int
    side: int


def slots(scene: Scene) -> list[Slot]:
    """Return the squares of all copies, at multiples of 8, which do not divide latent cells."""
    if len(scene.things) == 1:
        rows = ROWS[scene.things[0].count]
        side = _side(scene.things[0])
        return [
            Slot(0, x, y, side)
            for count, y in zip(rows, _centred(len(rows), side), strict=True)
            for x in _centred(count, side)
        ]
    sides = [{"": 64, "small": 40, "big": 80}[thing.size] for thing in scene.things]
    start = (FRAME - sum(sides)) // 2 // 8 * 8
    boxes = [(start, sides[0]), (FRAME - start - sides[1], sides[1])]
    across = [(FRAME - side) // 2 // 8 * 8 for side in sides]
    if scene.relation == ABOVE:
        return [Slot(i, across[i], at, side) for i, (at, side) in enumerate(boxes)]
    return [Slot(i, at, across[i], side) for i, (at, side) in enumerate(boxes)]


def _side(thing: Thing) -> int:
    """Return the side of each copy in a scene of one thing."""
    if thing.count == 1:
        return 48 if thing.size == "small" else FRAME
    return 64 if thing.count < 5 else 40


def _centred(count: int, side: int) -> range:
    """Return the starts of `count` adjacent squares, centred up to the next multiple of 8."""
    margin = (FRAME - count * side) // 2
    start = -(-margin // 8) * 8
    return range(start, start + count * side, side)


def combinations(scene: Scene) -> Iterator[tuple[str, ...]]:
    """Yield every combination of words that the scene shows, each with its kind first."""
    for thing in scene.things:
        if thing.colour:
            yield "colour", thing.colour, thing.noun
        if thing.count > 1:
            yield "count", str(thing.count), thing.noun
        if thing.size:
            yield "size", thing.size, thing.noun
        if scene.background:
            yield "background", scene.background, thing.noun
        if thing.colour and thing.count > 1 and scene.background:
            yield "triple", str(thing.count), thing.colour, thing.noun, scene.background
    if len(scene.things) == 2:
        yield "pair", *sorted(thing.noun for thing in scene.things)
        if all(thing.colour for thing in scene.things):
            yield "bound", *sorted(f"{thing.colour} {thing.noun}" for thing in scene.things)


def is_held_out(combination: tuple[str, ...]) -> bool:
    """Return whether training never shows it: one in `HELD_OUT`, by a hash of the words."""
    digest = hashlib.sha256("\0".join(combination).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def held_out_kinds(scene: Scene) -> set[str]:
    """Return the kinds of the scene's combinations that training never shows."""
    return {c[0] for c in combinations(scene) if is_held_out(c)}
