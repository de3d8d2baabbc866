"""Images and masks as arrays, prepared as diffusers' `VaeImageProcessor` prepares them.

`padding_mask_crop` repaints a region at the full size and pastes it back (`get_crop_region`,
`apply_overlay`).

Source: diffusers 0.42.1, `image_processor.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ldmref.compat.diffusers.arrays import to_host
from ldmref.errors import ImageError
from ldmref.io.images.pil import to_rgb

HINT = "a Pillow image, an array (height, width, 3) of floats from 0 to 1, or a list of these"


class Crop(NamedTuple):
    """A region of the image, which is resized and filled up to the size of the result."""

    box: tuple[int, int, int, int]


def prepare_images(
    images: object,
    factor: int,
    channels: int,
    size: tuple[int | None, int | None] = (None, None),
    crop: Crop | None = None,
) -> np.ndarray:
    """Return images in [-1, 1], (n, 3, height, width), or given latents unchanged.

    Args:
        images: Pillow images, arrays (height, width, 3) or (n, height, width, 3), tensors
            (3, height, width) or (n, 3, height, width), all with values from 0 to 1, or latents;
            one or a list.
        factor: The sides become multiples of it.
        channels: The channels of latents.
        size: Height and width of the result; None: those of the images.
        crop: The region of Pillow images to use.

    Raises:
        ImageError: The images are something else.
    """
    rows = _listed("image", images)
    if isinstance(rows[0], Image.Image):
        rgb = [to_rgb(one) for one in rows]
        pixels = _from_pillow(rgb, factor, size, crop, "RGB")
    else:
        pixels = _stack("image", rows)
        if pixels.shape[1] == channels and channels != 3:
            return pixels
        pixels = _resize(_require_channels("image", pixels, 3), factor, size)
    return pixels if pixels.min() < 0 else 2.0 * pixels - 1.0


def prepare_masks(
    masks: object, factor: int, size: tuple[int | None, int | None], crop: Crop | None = None
) -> np.ndarray:
    """Return masks of 0 and 1, (n, 1, height, width); see `prepare_images` for the arguments.

    Arrays have shape (height, width) or (n, height, width), with or without a channel.

    Raises:
        ImageError: The masks are something else.
    """
    rows = _listed("mask_image", masks)
    if isinstance(rows[0], Image.Image):
        pixels = _from_pillow(rows, factor, size, crop, "L")
    else:
        tensors = hasattr(rows[0], "detach")
        pixels = np.stack([_plane(to_host("mask_image", row), tensors) for row in rows])
        pixels = pixels.reshape(-1, 1, *pixels.shape[-2:])
        pixels = _resize(pixels, factor, size)
    return (pixels >= 0.5).astype(np.float32)


def _plane(mask: np.ndarray, tensor: bool) -> np.ndarray:
    """Return a mask, or several in one array, without an axis of channels."""
    if mask.ndim == 4:
        return mask[:, 0] if tensor or mask.shape[1] == 1 else mask[..., 0]
    if mask.ndim == 3 and mask.shape[-1] == 1:
        return mask[..., 0]
    if mask.ndim not in (2, 3):
        raise ImageError(f"mask_image has shape {mask.shape}", code="E-IMAGE", hint=HINT)
    return mask


def _listed(name: str, images: object) -> list[Any]:
    rows = list(images) if isinstance(images, list | tuple) else [images]
    if not rows or rows[0] is None:
        raise ImageError(f"{name} is missing", code="E-IMAGE", hint=HINT)
    if isinstance(rows[0], str | bytes):
        hint = "Image.open(path) of Pillow opens a file; paths and URLs are not opened here"
        raise ImageError(f"{name} must be an image, not a name", code="E-IMAGE", hint=hint)
    if len({isinstance(row, Image.Image) for row in rows}) > 1:
        raise ImageError(f"{name} mixes Pillow images and arrays", code="E-IMAGE", hint=HINT)
    return rows


def _stack(name: str, rows: Sequence[Any]) -> np.ndarray:
    """Return arrays and tensors as (n, channels, height, width) float32."""
    parts = []
    for row in rows:
        if getattr(row, "dtype", None) == np.uint8:
            hint = "divide by 255, or give Image.fromarray(array)"
            raise ImageError(f"{name} holds integers, not floats", code="E-IMAGE", hint=hint)
        array = to_host(name, row)
        array = array[None] if array.ndim == 3 else array
        if array.ndim != 4:
            raise ImageError(f"{name} has shape {array.shape}", code="E-IMAGE", hint=HINT)
        last = not hasattr(row, "detach") and array.shape[-1] in (1, 3)
        parts.append(array.transpose(0, 3, 1, 2) if last else array)
    return np.concatenate(parts, axis=0)


def _require_channels(name: str, pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.shape[1] != channels:
        shape = pixels.shape
        raise ImageError(f"{name} has {shape[1]} channels, not {channels}", code="E-IMAGE")
    return pixels


def _target(
    height: int, width: int, factor: int, size: tuple[int | None, int | None]
) -> tuple[int, int]:
    """Return height and width, rounded down to multiples of the factor."""
    sides = (size[0] or height, size[1] or width)
    rounded = tuple(side - side % factor for side in sides)
    if not all(rounded):
        raise ImageError(f"the image is smaller than {factor} x {factor}", code="E-IMAGE-SIZE")
    return rounded[0], rounded[1]


def _from_pillow(
    images: list[Image.Image],
    factor: int,
    size: tuple[int | None, int | None],
    crop: Crop | None,
    mode: str,
) -> np.ndarray:
    """Return Pillow images at the size of the result, (n, channels, height, width) in [0, 1].

    They are converted to `mode` after they were resized.
    """
    if crop is not None:
        images = [image.crop(crop.box) for image in images]
    height, width = _target(images[0].height, images[0].width, factor, size)
    if crop is None:
        images = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
    else:
        images = [resize_and_fill(image, width, height) for image in images]
    images = [image.convert(mode) for image in images]
    pixels = np.stack([np.asarray(image, np.float32) for image in images]) / np.float32(255.0)
    return pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)


def _resize(pixels: np.ndarray, factor: int, size: tuple[int | None, int | None]) -> np.ndarray:
    """Resize arrays (n, channels, height, width) by the nearest pixel, as torch does."""
    height, width = _target(pixels.shape[-2], pixels.shape[-1], factor, size)
    rows = _nearest(pixels.shape[-2], height)
    columns = _nearest(pixels.shape[-1], width)
    return pixels[:, :, rows][:, :, :, columns]


def _nearest(source: int, target: int) -> np.ndarray:
    scale = np.float32(source / target)
    indices = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(indices, source - 1)


def shrink_masks(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return masks (n, 1, H, W) at the size of the latents: the nearest pixel of each cell."""
    rows = _nearest(masks.shape[-2], height)
    columns = _nearest(masks.shape[-1], width)
    return masks[:, :, rows][:, :, :, columns]


def resize_and_fill(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fit an image into a size, and fill the rest with the pixels of its border."""
    ratio = width / height
    own = image.width / image.height
    w = width if ratio < own else image.width * height // image.height
    h = height if ratio >= own else image.height * width // image.width
    resized = image.resize((w, h), Image.Resampling.LANCZOS)
    filled = Image.new("RGB", (width, height))
    filled.paste(resized, (width // 2 - w // 2, height // 2 - h // 2))
    if ratio < own:
        rest = height // 2 - h // 2
        if rest > 0:
            above = resized.resize((width, rest), box=(0, 0, width, 0))
            below = resized.resize((width, rest), box=(0, h, width, h))
            filled.paste(above, (0, 0))
            filled.paste(below, (0, rest + h))
    elif ratio > own:
        rest = width // 2 - w // 2
        if rest > 0:
            left = resized.resize((rest, height), box=(0, 0, 0, height))
            right = resized.resize((rest, height), box=(w, 0, w, height))
            filled.paste(left, (0, 0))
            filled.paste(right, (rest + w, 0))
    return filled


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
