"""An oracle for composed images, which decides whether an image shows a scene.

It shares no code with the model: it compares pixels with bitmaps of the font. For each slot of the
scene it checks

- shape: whether the named emoji is the nearest among all nouns' emoji in the same colour. A slot is
  compared as 16 x 16 box averages over the background of the scene: in luminance, normalised to
  zero mean and unit variance, if the scene names a colour; otherwise in RGB. Shifts of the slot by
  3 pixels and changes of its size by 10 % are tried.
- colour: whether most coloured pixels of the thing's area have a hue (and, for brown, a value) of
  that name.

and for the whole image

- layout: whether everything outside the slots is background;
- background: whether the colour of the frame is that of the scene, or white.

Number, position and size need no separate check: an image with another number of objects, or
with objects in other positions, fails in shape or layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ldmref.datasets.emoji.colours import BACKGROUNDS
from ldmref.datasets.emoji.nouns import nouns
from ldmref.datasets.emoji.rendering import WHITE, coloured_sprite
from ldmref.datasets.emoji.scene import FRAME, Scene, Slot, slots

# averages per side; pixels per side of the reference renderings
GRID = 16
REFERENCE = 64
SHIFTS = (-3, 0, 3)
SCALES = (0.9, 1.0, 1.1)
FOREIGN = 70.0  # distance in RGB from the background that makes a pixel foreground
MOST_FOREIGN = 0.03  # fraction of the area outside the slots
MARGIN = 4  # pixels around a slot that are not checked
SATURATED = 0.35  # HSV saturation of coloured pixels
COLOUR_SHARE = 0.6  # fraction of the coloured pixels
LEAST_COLOURED = 0.10  # fraction of the object's area
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Verdict:
    """The parts of a scene that an image shows correctly."""

    shape: bool
    colour: bool
    layout: bool
    background: bool

    @property
    def right(self) -> bool:
        return self.shape and self.colour and self.layout and self.background


def judge(image: np.ndarray, scene: Scene) -> Verdict:
    """Compare an image (128, 128, 3) uint8 with a scene."""
    rgb = image.astype(np.float64)
    behind = np.asarray(BACKGROUNDS[scene.background] if scene.background else WHITE, float)
    boxes = slots(scene)
    shape = all(
        _nearest(rgb, slot, scene, behind) == scene.things[slot.thing].noun for slot in boxes
    )
    colour = all(
        not scene.things[slot.thing].colour
        or colour_name(rgb, slot, scene) == scene.things[slot.thing].colour
        for slot in boxes
    )
    return Verdict(
        shape, colour, _clean(rgb, boxes, behind), background_name(rgb) == scene.background
    )


def background_name(rgb: np.ndarray) -> str:
    """Return the name of the colour of the frame, "" for white, "?" for any other."""
    edge = np.concatenate(
        [
            rgb[:2].reshape(-1, 3),
            rgb[-2:].reshape(-1, 3),
            rgb[:, :2].reshape(-1, 3),
            rgb[:, -2:].reshape(-1, 3),
        ]
    )
    colours = {"": WHITE} | BACKGROUNDS
    distance = {
        name: np.linalg.norm(edge - np.asarray(value), axis=1) for name, value in colours.items()
    }
    names = list(distance)
    nearest = np.argmin(np.stack([distance[name] for name in names]), axis=0)
    counts = np.bincount(nearest, minlength=len(names))
    best = int(counts.argmax())
    near = np.median(distance[names[best]][nearest == best]) < FOREIGN
    return names[best] if near and counts[best] > 0.5 * len(edge) else "?"


def colour_name(rgb: np.ndarray, slot: Slot, scene: Scene) -> str:
    """Return the colour of most coloured pixels of a thing, "" if few are coloured or none wins."""
    thing = scene.things[slot.thing]
    area = rgb[slot.y : slot.y + slot.side, slot.x : slot.x + slot.side]
    inside = coloured_sprite(thing.noun, thing.colour, slot.side)[..., 3] > 200
    pixels = area[inside] / 255
    if len(pixels) == 0:
        return ""
    high = pixels.max(1)
    low = pixels.min(1)
    saturation = (high - low) / np.maximum(high, 1e-6)
    coloured = (saturation > SATURATED) & (high > 0.2)
    if coloured.sum() < LEAST_COLOURED * len(pixels):
        return ""
    names = hue_names(pixels[coloured])
    values, counts = np.unique(names, return_counts=True)
    best = counts.argmax()
    return str(values[best]) if counts[best] >= COLOUR_SHARE * counts.sum() else ""


def hue_names(pixels: np.ndarray) -> np.ndarray:
    """Return the colour names of pixels (n, 3) in [0, 1]; dark oranges are brown."""
    high = pixels.max(1)
    low = pixels.min(1)
    chroma = np.maximum(high - low, 1e-6)
    red, green, blue = pixels.T
    hue = (
        np.select(
            [high == red, high == green],
            [((green - blue) / chroma) % 6, (blue - red) / chroma + 2],
            (red - green) / chroma + 4,
        )
        * 60
    )
    warm = (hue >= 10) & (hue < 58)
    return np.select(
        [
            warm & (high < 0.66),
            hue < 16,
            hue < 39,
            hue < 66,
            hue < 165,
            hue < 245,
            hue < 297,
            hue < 347,
        ],
        ["brown", "red", "orange", "yellow", "green", "blue", "purple", "pink"],
        "red",
    )


def _clean(rgb: np.ndarray, boxes: list[Slot], behind: np.ndarray) -> bool:
    """Return whether nearly everything outside the slots is background."""
    outside = np.ones((FRAME, FRAME), bool)
    for slot in boxes:
        top = max(slot.y - MARGIN, 0)
        left = max(slot.x - MARGIN, 0)
        outside[top : slot.y + slot.side + MARGIN, left : slot.x + slot.side + MARGIN] = False
    if not outside.any():
        return True
    return (np.linalg.norm(rgb[outside] - behind, axis=1) > FOREIGN).mean() < MOST_FOREIGN


def _nearest(rgb: np.ndarray, slot: Slot, scene: Scene, behind: np.ndarray) -> str:
    """Return the noun whose emoji is nearest to the contents of a slot."""
    colour = scene.things[slot.thing].colour
    references = _references(colour, scene.background, bool(colour))
    views = np.stack([_features(view, bool(colour)) for view in _views(rgb, slot, behind)])
    distance = (views**2).sum(1) - 2 * references @ views.T + (references**2).sum(1)[:, None]
    return nouns()[int(distance.min(1).argmin())].singular


def _views(rgb: np.ndarray, slot: Slot, behind: np.ndarray) -> list[np.ndarray]:
    """Return the slot's area, shifted and scaled a little, as (GRID, GRID, 3) averages."""
    pad = 24
    canvas = np.broadcast_to(behind, (FRAME + 2 * pad, FRAME + 2 * pad, 3)).copy()
    canvas[pad:-pad, pad:-pad] = rgb
    total = np.pad(canvas.cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    views = []
    for scale in SCALES:
        side = slot.side * scale
        for dy in SHIFTS:
            for dx in SHIFTS:
                x = slot.x + (slot.side - side) / 2 + dx + pad
                y = slot.y + (slot.side - side) / 2 + dy + pad
                xs = np.rint(x + side * np.arange(GRID + 1) / GRID).astype(int)
                ys = np.rint(y + side * np.arange(GRID + 1) / GRID).astype(int)
                sums = total[np.ix_(ys, xs)]
                box = sums[1:, 1:] - sums[:-1, 1:] - sums[1:, :-1] + sums[:-1, :-1]
                area = np.diff(ys)[:, None] * np.diff(xs)[None]
                views.append(box / area[..., None])
    return views


@lru_cache(maxsize=128)
def _references(colour: str, background: str, luminance: bool) -> np.ndarray:
    """Return the features of all nouns in a colour on a background, (nouns, features)."""
    behind = np.asarray(BACKGROUNDS[background] if background else WHITE, float)
    averages = _averages(colour)
    drawings = averages[..., :3] + behind * (1 - averages[..., 3:] / 255)
    return np.stack([_features(drawing, luminance) for drawing in drawings])


@lru_cache(maxsize=16)
def _averages(colour: str) -> np.ndarray:
    """Return box averages of premultiplied sprites in a colour, (nouns, GRID, GRID, 4)."""
    sprites = np.stack(
        [
            coloured_sprite(noun.singular, colour if noun.recoloured else "", REFERENCE)
            for noun in nouns()
        ]
    ).astype(np.float64)
    block = REFERENCE // GRID
    return sprites.reshape(-1, GRID, block, GRID, block, 4).mean((2, 4))


def _features(averages: np.ndarray, luminance: bool) -> np.ndarray:
    if not luminance:
        return averages.ravel() / 255
    luma = (averages @ LUMA).ravel()
    return (luma - luma.mean()) / max(luma.std(), 8.0) / GRID
