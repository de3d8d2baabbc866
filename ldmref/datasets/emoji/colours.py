"""Named colours: recoloured emoji, which keep their shading, and coloured backgrounds."""

from __future__ import annotations

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 32, 36),
    "orange": (250, 130, 10),
    "yellow": (252, 210, 20),
    "green": (48, 160, 60),
    "blue": (36, 96, 228),
    "purple": (136, 56, 196),
    "pink": (252, 112, 184),
    "brown": (124, 76, 44),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (236, 72, 72),
    "orange": (255, 160, 64),
    "yellow": (255, 226, 88),
    "green": (104, 196, 112),
    "blue": (92, 148, 244),
    "purple": (168, 108, 216),
    "pink": (255, 166, 212),
    "brown": (156, 112, 80),
}
# ends of the ramp: share of the colour in black, share of white in the colour
DARKEST = 0.12
LIGHTEST = 0.35
# details below the first chroma keep their grey, above the second they are recoloured
GREY = 0.10
COLOURFUL = 0.22
MOSTLY_COLOURFUL = 0.5  # share of the area; below it, everything is tinted
NEAR = 100.0  # distance in RGB below which a thing is hard to see on a background


def recolour(sprite: np.ndarray, colour: str) -> np.ndarray:
    """Return a premultiplied sprite (h, w, 4) uint8 in a named colour.

    Luminance is mapped to a ramp from nearly black through the colour to a tint of it; the median
    luminance becomes the colour itself. In a sprite that is mostly coloured, greys (eyes, teeth)
    stay. A sprite that is mostly grey is tinted completely.
    """
    visible = sprite[..., 3] > 0
    red, green, blue, alpha = sprite[visible].T.astype(np.float32) / 255
    red, green, blue = (np.minimum(channel / alpha, 1) for channel in (red, green, blue))
    luma = luminance(red, green, blue)
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    tinted = np.clip((chroma - GREY) / (COLOURFUL - GREY), 0, 1)
    if alpha[chroma > COLOURFUL].sum() < MOSTLY_COLOURFUL * alpha.sum():
        tinted = np.ones_like(chroma)
    body = luma[(alpha > 0.5) & (tinted > 0.5)]
    middle = float(np.clip(np.median(body), 0.15, 0.92)) if len(body) else 0.5
    result = sprite.copy()
    for i, (channel, value) in enumerate(zip((red, green, blue), COLOURS[colour], strict=True)):
        base = value / 255
        ramp = (base * DARKEST, base, base + (1 - base) * LIGHTEST)
        shaded = np.interp(luma, (0.0, middle, 1.0), ramp)
        result[visible, i] = np.rint((channel + (shaded - channel) * tinted) * alpha * 255)
    return result


def stands_out(rgb: np.ndarray, background: str) -> bool:
    """Return whether a thing of that colour is visible on a background of that name."""
    return float(np.linalg.norm(rgb - np.asarray(BACKGROUNDS[background]))) > NEAR


def luminance(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Return the luminance by the weights of Rec. 601."""
    return 0.299 * red + 0.587 * green + 0.114 * blue
