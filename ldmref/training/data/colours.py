"""Named colours: emoji recoloured so that their shading survives, and coloured backgrounds."""

from __future__ import annotations

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 32, 36), "orange": (250, 130, 10), "yellow": (252, 210, 20),
    "green": (48, 160, 60), "blue": (36, 96, 228), "purple": (136, 56, 196),
    "pink": (252, 112, 184), "brown": (124, 76, 44),
}  # fmt: skip
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (236, 72, 72), "orange": (255, 160, 64), "yellow": (255, 226, 88),
    "green": (104, 196, 112), "blue": (92, 148, 244), "purple": (168, 108, 216),
    "pink": (255, 166, 212), "brown": (156, 112, 80),
}  # fmt: skip
DARKEST, LIGHTEST = 0.12, 0.45  # of the ramp: share of the colour in black, of white in the colour
GREY, COLOURFUL = 0.10, 0.22  # chroma up to which details keep their grey, and from which not
MOSTLY_COLOURFUL = 0.5  # share of the area; below, everything is tinted
NEAR = 100.0  # distance in RGB below which a thing is hard to see on a background


def recolour(sprite: np.ndarray, colour: str) -> np.ndarray:
    """A sprite (h, w, 4), premultiplied, in [0, 1], in a named colour.

    Its luminance runs along a ramp from nearly black through the colour to a tint of it, with the
    median of the sprite at the colour itself. Greys (eyes, teeth) stay, where most of it is
    coloured; a sprite that is mostly grey is tinted all over.
    """
    alpha = sprite[..., 3:]
    rgb = np.clip(sprite[..., :3] / np.maximum(alpha, 1e-3), 0, 1)
    chroma = rgb.max(-1) - rgb.min(-1)
    weight = alpha[..., 0]
    luma = luminance(rgb)
    colourful = np.clip((chroma - GREY) / (COLOURFUL - GREY), 0, 1)
    if (weight * (chroma > COLOURFUL)).sum() < MOSTLY_COLOURFUL * weight.sum():
        colourful = np.ones_like(chroma)
    body = (weight > 0.5) & (colourful > 0.5)
    middle = float(np.clip(np.median(luma[body]) if body.any() else 0.5, 0.15, 0.92))
    base = np.asarray(COLOURS[colour], np.float32) / 255
    ramp = np.stack([base * DARKEST, base, base + (1 - base) * LIGHTEST])
    levels = (0.0, middle, 1.0)
    shaded = np.stack([np.interp(luma, levels, ramp[:, c]) for c in range(3)], -1)
    mixed = rgb + (shaded - rgb) * colourful[..., None]
    return np.concatenate([mixed * alpha, alpha], -1).astype(np.float32)


def stands_out(rgb: np.ndarray, background: str) -> bool:
    """Whether a thing of that colour can be seen on a background of that name."""
    return float(np.linalg.norm(rgb - np.asarray(BACKGROUNDS[background]))) > NEAR


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Of (..., 3), by the weights of Rec. 601."""
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]
