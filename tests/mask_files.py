"""The same mask in every format of files, and what each must repaint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 16
WHITE = np.zeros((SIZE, SIZE), bool)  # what is repainted
WHITE[2:9, 3:13] = True
WHITE[11, 5] = True
CLEAR = np.zeros((SIZE, SIZE), bool)  # what is transparent, if something is
CLEAR[:5, :7] = True
CLEAR[15, 15] = True

DARK_ONLY = "in dark colours only"
PARTLY = "partly transparent"
OTHER_SIZE = "8 x 8"


@dataclass(frozen=True)
class MaskFile:
    """A mask in a format.

    Args:
        image: The mask.
        painted: What is repainted, by luminance where the mask is not transparent.
        edited: What OpenAI's edits repaint: the transparent part. None: refused, without alpha.
        says: A part of the warning; "" for none.
        options: Of `Image.save`.
    """

    image: Image.Image
    painted: np.ndarray
    edited: np.ndarray | None = None
    says: str = ""
    options: Any = None

    def save(self, folder: Path) -> Path:
        path = folder / "mask.png"
        self.image.save(path, **self.options or {})
        return path


def make_mask_files() -> dict[str, MaskFile]:
    """Return masks by title."""
    grey = Image.fromarray(np.where(WHITE, 255, 0).astype(np.uint8))
    soft = Image.fromarray(np.where(WHITE, 128, 127).astype(np.uint8))
    alpha = Image.fromarray(np.where(CLEAR, 0, 255).astype(np.uint8))
    almost = Image.fromarray(np.where(CLEAR, 254, 255).astype(np.uint8))
    nowhere = np.zeros_like(WHITE)
    opaque_white: dict[str, Any] = dict(edited=nowhere)
    clear: dict[str, Any] = dict(painted=WHITE & ~CLEAR, edited=CLEAR, says=PARTLY)
    indices = Image.fromarray((WHITE + 2 * CLEAR).astype(np.uint8), "L")
    palette = Image.new("P", grey.size)
    palette.putdata(list(indices.tobytes()))
    palette.putpalette([0, 0, 0, 255, 255, 255, 0, 0, 0, 255, 255, 255])
    strokes = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    strokes.paste((30, 60, 9, 255), mask=grey)
    holes = with_alpha(Image.new("RGB", grey.size), alpha)
    return {
        "RGB": MaskFile(grey.convert("RGB"), WHITE),
        "L": MaskFile(grey, WHITE),
        "L at one half": MaskFile(soft, WHITE),
        "1-bit": MaskFile(grey.convert("1"), WHITE),
        "palette": MaskFile(grey.convert("P"), WHITE),
        "LA, opaque": MaskFile(grey.convert("LA"), WHITE, **opaque_white),
        "RGBA, opaque": MaskFile(grey.convert("RGBA"), WHITE, **opaque_white),
        "LA": MaskFile(with_alpha(grey, alpha), **clear),
        "RGBA": MaskFile(with_alpha(grey.convert("RGB"), alpha), **clear),
        "palette, transparent": MaskFile(
            palette, **clear, options={"transparency": bytes([255, 255, 0, 0])}
        ),
        "RGBA, alpha of 254": MaskFile(
            with_alpha(grey.convert("RGB"), almost), WHITE, nowhere, PARTLY
        ),
        "RGBA, black with alpha of 254": MaskFile(
            with_alpha(Image.new("RGB", grey.size), almost), nowhere, nowhere, PARTLY
        ),
        "RGBA, dark strokes": MaskFile(strokes, WHITE, ~WHITE, DARK_ONLY),
        "RGBA, black with holes": MaskFile(holes, ~CLEAR, CLEAR, DARK_ONLY),
    }


def with_alpha(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return an image with an alpha channel."""
    image = image.copy()
    image.putalpha(alpha)
    return image


def make_small_mask() -> tuple[Image.Image, np.ndarray]:
    """Return a mask of half the size, and what is repainted once it is stretched."""
    values = np.random.default_rng(4).integers(0, 256, (8, 8)).astype(np.uint8)
    small = Image.fromarray(values)
    large = small.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return small, np.asarray(large) >= 128


def record_masks(monkeypatch: Any) -> Callable[[], np.ndarray]:
    """Return a function that returns what the latest request repaints."""
    from ldmref.modes import masks

    size_mask, seen = masks.size_mask, []

    def watch(*arguments: Any) -> Image.Image:
        seen.append(size_mask(*arguments))
        return seen[-1]

    monkeypatch.setattr(masks, "size_mask", watch)
    return lambda: np.asarray(seen[-1]) == 255
