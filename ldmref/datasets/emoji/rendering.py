"""Scenes as images: sprites, recoloured, resized and pasted into their slots.

Sprites are bitmaps of the emoji font, or drawings in a style. Their `source` is the file of the
font ("": where Debian installs it), or the folder of the drawings' packages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
from PIL import Image

from ldmref.datasets.emoji.colours import BACKGROUNDS, recolour
from ldmref.datasets.emoji.drawings import drawings
from ldmref.datasets.emoji.font import CELL, Emoji, write_emoji
from ldmref.datasets.emoji.nouns import noun_by_name
from ldmref.datasets.emoji.scene import FRAME, Scene, slots

WHITE = (255, 255, 255)


class RenderedImages(ABC):
    """uint8 images (n, 3, size, size), each of which is rendered when it is indexed."""

    def __init__(self, count: int, size: int):
        self.size = size
        self.shape = (count, 3, size, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return np.stack([self.render(int(i)) for i in np.arange(len(self))[index]])

    @abstractmethod
    def render(self, i: int) -> np.ndarray:
        """Return one image, (3, size, size) uint8."""


def render_scene(scene: Scene, size: int = FRAME, source: str = "") -> np.ndarray:
    """Return the image of a scene, (size, size, 3) uint8."""
    image = np.empty((size, size, 3), np.uint8)
    image[:] = BACKGROUNDS[scene.background] if scene.background else WHITE
    for slot in slots(scene):
        thing = scene.things[slot.thing]
        x, y, side = (round(length * size / FRAME) for length in (slot.x, slot.y, slot.side))
        sprite = coloured_sprite(thing.noun, thing.colour, side, source, thing.style)
        area = image[y : y + side, x : x + side]
        area[:] = composite(sprite, area)
    return image


def composite(sprite: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return a premultiplied sprite over an image, uint8."""
    rest = below.astype(np.uint16) * (255 - sprite[..., 3:].astype(np.uint16))
    return np.minimum(sprite[..., :3] + (rest + 127) // 255, 255).astype(np.uint8)


@lru_cache(maxsize=1024)
def coloured_sprite(
    noun: str, colour: str, side: int, source: str = "", style: str = ""
) -> np.ndarray:
    """Return the sprite of a noun in a colour ("": its own), premultiplied (s, s, 4) uint8."""
    sprite = noun_sprite(noun, side, source, style)
    return recolour(sprite, colour) if colour else sprite


@lru_cache(maxsize=8192)
def noun_sprite(noun: str, side: int, source: str = "", style: str = "") -> np.ndarray:
    """Return the sprite of a noun in its own colours, premultiplied (side, side, 4) uint8."""
    return resized(sprite(noun_by_name(noun).emoji, source, style), side)


def resized(sprite: np.ndarray, side: int) -> np.ndarray:
    """Return a premultiplied sprite (136, 136, 4) at another size, (side, side, 4) uint8."""
    data = sprite.tobytes()
    image = Image.frombytes("RGBa", (CELL, CELL), data)
    image = image.resize((side, side), Image.Resampling.LANCZOS)
    small = np.frombuffer(image.tobytes(), np.uint8).reshape(side, side, 4)
    return np.minimum(small, small[..., 3:])  # Lanczos overshoots


def sprite(emoji: Emoji, source: str = "", style: str = "") -> np.ndarray:
    """Return an emoji as its source has it, premultiplied (136, 136, 4) uint8."""
    return drawings(source).sprite(emoji.name, style) if style else font_sprite(emoji, source)


@lru_cache(maxsize=1024)
def font_sprite(emoji: Emoji, font_file: str = "") -> np.ndarray:
    """Return the font's bitmap, premultiplied (136, 136, 4) uint8."""
    image = Image.new("RGBA", (CELL, CELL), (*WHITE, 0))
    write_emoji(image, emoji, font_file)
    on_white = np.asarray(image).astype(np.int16)
    alpha = on_white[..., 3:]
    rgb = np.clip(on_white[..., :3] - (255 - alpha), 0, alpha)
    return np.concatenate([rgb, alpha], -1).astype(np.uint8)


@lru_cache(maxsize=8192)
def mean_colour(emoji: Emoji, source: str = "", style: str = "") -> np.ndarray:
    """Return the mean RGB of the visible part of an emoji, 0 to 255."""
    pixels = sprite(emoji, source, style).astype(np.float64)
    return pixels[..., :3].sum((0, 1)) / pixels[..., 3].sum() * 255
