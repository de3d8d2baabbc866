"""Masks of images and of latents, and the regions and contents that belong to them.

In a mask, white (1) is repainted and black (0) is kept.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from PIL import Image, ImageFilter

from ldmref.io.images.pil import Source, image_warnings, read_mask, to_array
from ldmref.modes.initial import Posterior
from ldmref.modes.sizing import resize_image
from ldmref.samplers.noise import follows_diffusers

Box = tuple[int, int, int, int]  # left, top, right, bottom
PREVIEW_SIDE = 256  # pixels; the longest side of a preview
MAX_BLUR = 16.0  # pixels; the largest blur of `fill_surroundings`


def size_mask(
    source: Source, image: Image.Image, blur: float = 0.0, invert: bool = False
) -> Image.Image:
    """Return the mask as 8-bit grey, blurred outwards only: white pixels stay white.

    A mask of another size is stretched to the image's size (Lanczos), as in A1111. It is cut at one
    half before it is blurred.
    """
    mask = read_mask(source)
    if invert:
        mask = mask.point(lambda value: 255 - value)
    if mask.size != image.size:
        mask = resize_image(mask, image.size, "stretch")
    mask = Image.fromarray(np.where(np.asarray(mask) >= 128, 255, 0).astype(np.uint8))
    if blur > 0:
        soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)))
        mask = Image.fromarray(np.maximum(soft, np.asarray(mask)))
    return mask


def mask_warnings(mask: Image.Image, image: Image.Image) -> list[str]:
    """Return warnings about how a mask was read, and fitted to its image."""
    lines = image_warnings("the mask", mask)
    if mask.size != image.size:
        lines.append(
            f"the mask is {mask.width} x {mask.height}, the image {image.width} x {image.height}: "
            "the mask is stretched to the image's size"
        )
    return lines


def find_kept_cells(mask: Image.Image, factor: int, nearest: bool = False) -> np.ndarray:
    """Return 1 for the latent cells that are kept, (1, 1, h, w) float32.

    Cells without a single white pixel are kept, so everything white is generated anew. With
    `nearest`, cells whose first pixel is below one half are kept, as in diffusers. White pixels in
    a cell that the mask only touches then show the given image, encoded and decoded.
    """
    if nearest:
        return 1.0 - shrink_mask(mask, factor)
    pixels = np.asarray(mask) > 0
    h = pixels.shape[0] // factor
    w = pixels.shape[1] // factor
    cells = pixels.reshape(h, factor, w, factor).any(axis=(1, 3))
    return np.where(cells, 0.0, 1.0).astype(np.float32)[None, None]


def vanishes(mask: Image.Image, factor: int, rng: str, channels: bool) -> bool:
    """Return whether no latent cell is repainted although the mask is not black.

    This happens where the first pixel of a cell decides: with the noise of PyTorch, and for
    networks with channels for the mask.
    """
    return (channels or follows_diffusers(rng)) and not shrink_mask(mask, factor).any()


def cut_hole(image: Image.Image, mask: Image.Image, hole: float = 0.0) -> np.ndarray:
    """Return the image with `hole` (0: grey) where the mask is at least one half, (1, 3, H, W)."""
    return np.where(masked_pixels(mask), np.float32(hole), to_array([image]))


def masked_pixels(mask: Image.Image) -> np.ndarray:
    """Return where the mask is at least one half, (1, 1, H, W) of booleans."""
    return (np.asarray(mask) >= 128)[None, None]


def shrink_mask(mask: Image.Image, factor: int) -> np.ndarray:
    """Return the mask cut at one half, at every factor-th pixel (nearest), (1, 1, h, w) float32."""
    return (np.asarray(mask)[None, None, ::factor, ::factor] >= 128).astype(np.float32)


def fold_mask(mask: Image.Image, factor: int) -> np.ndarray:
    """Return the mask cut at one half, with a channel per pixel of a cell, row by row.

    The result is (1, factor^2, h, w) float32, as Flux.1 [Fill] reads it.
    """
    m = (np.asarray(mask) >= 128).astype(np.float32)
    h, w = (side // factor for side in m.shape)
    cells = m.reshape(h, factor, w, factor).transpose(1, 3, 0, 2)
    return cells.reshape(1, factor * factor, h, w)


def paste(image: Image.Image, whole: Image.Image, mask: Image.Image) -> Image.Image:
    """Return `image` where the mask is white, and `whole` bit for bit where it is black."""
    m = np.asarray(mask, np.uint32)[..., None]
    new = np.asarray(image, np.uint32)
    old = np.asarray(whole, np.uint32)
    return Image.fromarray(((new * m + old * (255 - m) + 127) // 255).astype(np.uint8))


def find_region(mask: Image.Image, padding: int, size: tuple[int, int]) -> Box:
    """Return the part of an image to generate: around the mask, with the proportions of `size`.

    It holds everything that is not 0 in the mask, `padding` pixels around that, and as much more as
    the proportions need, inside the image. If the image is too small for the proportions, the
    region is as large as possible.
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
    """Return a region of image and mask at a size; only pixels that are 0 in the mask remain 0."""
    part = image.crop(box).resize(size, Image.Resampling.LANCZOS)
    soft = mask.crop(box).convert("F").resize(size, Image.Resampling.BOX)
    return part, Image.fromarray(np.ceil(np.asarray(soft)).astype(np.uint8))


def paste_region(
    image: Image.Image, whole: Image.Image, mask: Image.Image, box: Box
) -> Image.Image:
    """Return `whole` with the region pasted where the mask is white, and otherwise exact."""
    repainted = whole.copy()
    size = box[2] - box[0], box[3] - box[1]
    repainted.paste(image.resize(size, Image.Resampling.LANCZOS), box[:2])
    return paste(repainted, whole, mask)


class PreviewPaste:
    """Pastes previews, of any size, into a small copy of an image, which is made only once.

    Args:
        whole: The image that was given, of any size.
        mask: Where it is repainted.
        box: The region that a preview shows; None for all of it.
    """

    def __init__(self, whole: Image.Image, mask: Image.Image, box: Box | None):
        self._masked = whole, mask
        self._box = box or (0, 0, *whole.size)

    @cached_property
    def _small(self) -> tuple[Image.Image, Image.Image, Box]:
        whole, mask = self._masked
        image = whole.copy()
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        scale = image.width / whole.width
        left, top, right, bottom = (round(edge * scale) for edge in self._box)
        box = left, top, max(right, left + 1), max(bottom, top + 1)
        return image, mask.resize(image.size, Image.Resampling.BOX), box

    def __call__(self, preview: Image.Image) -> Image.Image:
        """Return the small image with the preview where the mask is white."""
        return paste_region(preview, *self._small)


def fill_surroundings(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the image with the colours of the surroundings where the mask is not 0.

    Each pixel takes the colour of the nearest kept pixel, smoothed; grey if no pixel is kept.
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
    """Return the latents of an image with `content` where `hole` is 1, or zeros without content."""
    if content is None:
        return image._replace(mean=image.mean * (1.0 - hole), std=image.std * (1.0 - hole))
    mean, std = (i * (1.0 - hole) + c * hole for i, c in zip(image[:2], content[:2], strict=True))
    return image._replace(mean=mean, std=std)
