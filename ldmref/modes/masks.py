"""Masks: read, brought to the latents, and what inpainting does around them.

In a mask, white (1) is repainted and black (0) is kept.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from ldmref.errors import ImageError
from ldmref.io.images.pil import Source, read_mask, to_array
from ldmref.modes.start import Posterior

Box = tuple[int, int, int, int]  # left, top, right, bottom
MAX_BLUR = 16.0  # pixels by which `fill_surroundings` smooths at most


def sized_mask(
    source: Source, image: Image.Image, blur: float = 0.0, invert: bool = False
) -> Image.Image:
    """The mask as 8-bit grey, blurred outwards only: white pixels stay white.

    Raises:
        ImageError: the mask has not the image's size.
    """
    mask = read_mask(source)
    if invert:
        mask = mask.point(lambda value: 255 - value)
    if mask.size != image.size:
        raise ImageError(
            f"the mask is {mask.width} x {mask.height}, the image {image.width} x {image.height}",
            code="E-MASK-SIZE",
            hint="give a mask of the image's size",
        )
    mask = Image.fromarray(np.where(np.asarray(mask) >= 128, 255, 0).astype(np.uint8))
    if blur > 0:
        soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)))
        mask = Image.fromarray(np.maximum(soft, np.asarray(mask)))
    return mask


def kept_latents(mask: Image.Image, factor: int, nearest: bool = False) -> np.ndarray:
    """1 for the latent cells that are kept, (1, 1, h, w) float32.

    Kept are cells without a single pixel to repaint, so that everything white is drawn anew; or,
    with `nearest`, cells whose first pixel is below one half, as in diffusers: white pixels in a
    cell that the mask only touches then show the given image, encoded and decoded.
    """
    if nearest:
        return 1.0 - latent_mask(mask, factor)
    pixels = np.asarray(mask) > 0
    h = pixels.shape[0] // factor
    w = pixels.shape[1] // factor
    cells = pixels.reshape(h, factor, w, factor).any(axis=(1, 3))
    return np.where(cells, 0.0, 1.0).astype(np.float32)[None, None]


def vanishes(mask: Image.Image, factor: int, rng: str, channels: bool) -> bool:
    """Whether no latent cell is repainted, though the mask is not black: cells are then taken by
    their first pixel, with `rng="torch"` and by U-Nets with channels for the mask."""
    return (channels or rng == "torch") and not latent_mask(mask, factor).any()


def masked_image(image: Image.Image, mask: Image.Image, hole: float = 0.0) -> np.ndarray:
    """The image with `hole` (0: grey) where the mask is at least one half, (1, 3, H, W)."""
    kept = np.asarray(mask) < 128
    return np.where(kept[None, None], to_array([image]), np.float32(hole))


def latent_mask(mask: Image.Image, factor: int) -> np.ndarray:
    """The mask cut at one half, at every factor-th pixel (nearest), (1, 1, h, w) float32."""
    return (np.asarray(mask)[None, None, ::factor, ::factor] >= 128).astype(np.float32)


def paste(image: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """`image` where the mask is white, `original` bit for bit where it is black."""
    m = np.asarray(mask, np.uint32)[..., None]
    new = np.asarray(image, np.uint32)
    old = np.asarray(original, np.uint32)
    return Image.fromarray(((new * m + old * (255 - m) + 127) // 255).astype(np.uint8))


def region_of(mask: Image.Image, padding: int, size: tuple[int, int]) -> Box:
    """The part of an image to draw: around the mask, with the proportions of `size`.

    What is not 0 in the mask, `padding` pixels around it, and then as much more as the proportions
    need; all of it inside the image. Where the image is too small for the proportions, the
    region is as large as it can be.
    """
    box = mask.getbbox() or (0, 0, *mask.size)
    sides = [(max(0, box[i] - padding), min(mask.size[i], box[i + 2] + padding)) for i in range(2)]
    w, h = (b - a for a, b in sides)
    want = max(w, round(h * size[0] / size[1])), max(h, round(w * size[1] / size[0]))
    grown = []
    for (a, b), length, most in zip(sides, want, mask.size, strict=True):
        length = min(length, most)
        first = min(max(0, a - (length - (b - a)) // 2), most - length)
        grown.append((first, first + length))
    (left, right), (top, bottom) = grown
    return left, top, right, bottom


def crop_region(
    image: Image.Image, mask: Image.Image, box: Box, size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """Region of image and mask at the size to draw; what is not 0 in the mask never becomes 0."""
    part = image.crop(box).resize(size, Image.Resampling.LANCZOS)
    soft = mask.crop(box).convert("F").resize(size, Image.Resampling.BOX)
    return part, Image.fromarray(np.ceil(np.asarray(soft)).astype(np.uint8))


def paste_region(
    image: Image.Image, original: Image.Image, mask: Image.Image, box: Box
) -> Image.Image:
    """`original` with the region redrawn where the mask is white, bit for bit where it is black."""
    redrawn = original.copy()
    size = box[2] - box[0], box[3] - box[1]
    redrawn.paste(image.resize(size, Image.Resampling.LANCZOS), box[:2])
    return paste(redrawn, original, mask)


def fill_surroundings(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with the colours of the surroundings where the mask is not 0.

    Each pixel takes the colour of the nearest one that is kept, smoothed; grey where none is kept.
    """
    from scipy import ndimage

    hole = np.asarray(mask) > 0
    pixels = np.asarray(image, np.float64)
    if hole.all():
        return Image.new("RGB", image.size, (128, 128, 128))
    distance, nearest = ndimage.distance_transform_edt(hole, return_indices=True)  # type: ignore
    spread = pixels[tuple(nearest)]
    blur = min(MAX_BLUR, float(distance.max()) / 2.0)
    smooth = ndimage.gaussian_filter(spread, (blur, blur, 0.0), mode="nearest")
    return Image.fromarray(np.where(hole[..., None], np.rint(smooth), pixels).astype(np.uint8))


def fill_latents(image: Posterior, hole: np.ndarray, content: Posterior | None) -> Posterior:
    """The latents of an image with others where `hole` is 1; without `content`, zeros."""
    if content is None:
        return Posterior(image.mean * (1.0 - hole), image.std * (1.0 - hole))
    return Posterior(*(i * (1.0 - hole) + c * hole for i, c in zip(image, content, strict=True)))
