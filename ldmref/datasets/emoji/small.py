"""156 rendered emoji that come with ldmref: a data set for which no font is needed.

They are the tiles of one image, `assets/small-emoji/emoji.png`, which
`scripts/make_small_emoji.py` makes from the font Noto Color Emoji (SIL OFL 1.1, beside it).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from threading import Event

import numpy as np
from PIL import Image

from ldmref.datasets.base import Augmentation
from ldmref.datasets.config import DataConfig
from ldmref.datasets.emoji.font import Emoji, emoji_list
from ldmref.errors import UsageError, closest

SIDE = 32  # pixels
COLUMNS = 13
SUBGROUPS = (
    "heart",
    "food-fruit",
    "sky & weather",
    "food-vegetable",
    "food-sweet",
    "geometric",
)


def small_emoji(*subgroups: str) -> list[tuple[str, Image.Image]]:
    """Return the emoji that come with ldmref, as pairs of a name and an image.

    Args:
        subgroups: Unicode's subgroups, a selection of "heart" (25 emoji), "food-fruit" (19),
            "sky & weather" (47), "food-vegetable" (17), "food-sweet" (14) and "geometric" (34).
            Without any, all 156 are returned.

    Returns:
        Names of Unicode, such as "red heart", with RGB images of 32 x 32 pixels on white; in the
        order of the subgroups, and of Unicode within each.

    Raises:
        UsageError: There is no such subgroup among them.

    >>> name, image = small_emoji("food-fruit")[0]
    >>> name, image.size
    ('grapes', (32, 32))
    """
    for name in subgroups:
        if name not in SUBGROUPS:
            close = closest(name, SUBGROUPS)
            known = ", ".join(map(repr, SUBGROUPS))
            hint = f"did you mean {close!r}?" if close else f"choose from {known}"
            message = f"the small data set has no subgroup {name!r}"
            raise UsageError(message, code="E-DATA", hint=hint)
    tiles = dict(zip(small_list(), _tiles(), strict=True))
    return [
        (emoji.name, Image.fromarray(tile))
        for subgroup in dict.fromkeys(subgroups or SUBGROUPS)
        for emoji, tile in tiles.items()
        if emoji.subgroup == subgroup
    ]


def small_list() -> list[Emoji]:
    """Return the emoji of the small data set, in the order of their tiles."""
    everything = emoji_list()
    return [emoji for subgroup in SUBGROUPS for emoji in everything if emoji.subgroup == subgroup]


@cache
def _tiles() -> np.ndarray:
    """Return the images, (156, 32, 32, 3) uint8."""
    file = files("ldmref").joinpath("assets", "small-emoji", "emoji.png")
    with file.open("rb") as stream, Image.open(stream) as image:
        sheet = np.asarray(image.convert("RGB"))
    rows = sheet.shape[0] // SIDE
    tiles = sheet.reshape(rows, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE, 3)


class SmallEmojiDataset:
    """The small emoji at one size; the caption of each is its name, its class its subgroup."""

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(self, size: int):
        images = [image for _, image in small_emoji()]
        if size != SIDE:
            images = [image.resize((size, size), Image.Resampling.LANCZOS) for image in images]
        self.images = np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
        self.captions = [[emoji.name] for emoji in small_list()]
        self.classes = [emoji.subgroup.replace("-", " ") for emoji in small_list()]
        self.weights = np.ones(len(images))
        self.warnings: list[str] = []

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return the name of emoji `i`."""
        return self.captions[i][0]

    def vocabulary(self) -> list[str]:
        """Return all names."""
        return [name for (name,) in self.captions]


def load_small(config: DataConfig, cancel: Event | None) -> SmallEmojiDataset:
    """Return the small emoji at the size of a recipe."""
    return SmallEmojiDataset(config.size)
