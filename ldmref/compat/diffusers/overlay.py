"""`padding_mask_crop`: repaint a region at the full size, and paste it back.

Source: diffusers 0.42.1, `image_processor.py`, `get_crop_region` and `apply_overlay`.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from ldmref.compat.diffusers.images import Crop
from ldmref.errors import ImageError


def find_crop(mask: Image.Image, width: int, height: int, padding: int) -> Crop:
    """Return the region around a mask, with the proportions of width and height where it can.

    Args:
        mask: Everything that is not 0 belongs to the region.
        width, height: The size at which the region is generated.
        padding: Pixels around the mask that also belong to it.

    Raises:
        ImageError: The mask is black everywhere.
    """
    pixels = np.asarray(mask.convert("L")) > 0
    if not pixels.any():
        raise ImageError(
            "mask_image is black everywhere, so it does not mark a region", code="E-IMAGE"
        )
    h, w = pixels.shape
    columns = np.flatnonzero(pixels.any(axis=0))
    rows = np.flatnonzero(pixels.any(axis=1))
    x1, x2 = max(int(columns[0]) - padding, 0), min(int(columns[-1]) + 1 + padding, w)
    y1, y2 = max(int(rows[0]) - padding, 0), min(int(rows[-1]) + 1 + padding, h)
    ratio = width / height
    if (x2 - x1) / (y2 - y1) > ratio:
        y1, y2 = _grow(y1, y2, int((x2 - x1) / ratio - (y2 - y1)), h)
    else:
        x1, x2 = _grow(x1, x2, int((y2 - y1) * ratio - (x2 - x1)), w)
    return Crop((x1, y1, x2, y2))


def _grow(low: int, high: int, more: int, limit: int) -> tuple[int, int]:
    """Lengthen an interval on both sides, and move it into [0, limit]."""
    low -= more // 2
    high += more - more // 2
    beyond = max(0, high - limit)
    low -= beyond
    high -= beyond
    if low < 0:
        high -= low
        low = 0
    return low, min(high, limit)


def paste_crop(
    image: Image.Image, original: Image.Image, mask: Image.Image, crop: Crop
) -> Image.Image:
    """Return the original image with the generated region where the mask is white."""
    left, top, right, bottom = crop.box
    region = Image.new("RGBA", original.size)
    region.paste(_resize_and_crop(image, right - left, bottom - top), (left, top))
    return paste_kept(region.convert("RGB"), original, mask)


def paste_kept(image: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """Return `image` with `original` where the mask is black."""
    kept = Image.new("RGBa", original.size)
    grey = ImageOps.invert(mask.convert("L"))
    kept.paste(original.convert("RGBA").convert("RGBa"), mask=grey)
    pasted = image.convert("RGBA")
    pasted.alpha_composite(kept.convert("RGBA"))
    return pasted.convert("RGB")


def _resize_and_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fill a size with an image, and cut what goes beyond it."""
    ratio = width / height
    own = image.width / image.height
    w = width if ratio > own else image.width * height // image.height
    h = height if ratio <= own else image.height * width // image.width
    resized = image.resize((w, h), Image.Resampling.LANCZOS)
    cropped = Image.new("RGB", (width, height))
    cropped.paste(resized, (width // 2 - w // 2, height // 2 - h // 2))
    return cropped
