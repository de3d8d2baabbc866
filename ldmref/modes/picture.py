"""Pictures and masks that a mode starts from: read, checked, brought to size."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ldmref.errors import ImageError, UsageError, did_you_mean
from ldmref.io.images import read_image, read_mask, to_array
from ldmref.models.config import ModelConfig
from ldmref.modes.checks import MAX_AREA

Source = str | Path | BinaryIO | Image.Image
RESIZE = ("crop", "stretch", "fill")


def fits(config: ModelConfig, image: Image.Image) -> bool:
    """Whether the model can take the picture at its own size."""
    m, d = config.size_multiple, config.defaults
    small = image.width * image.height <= MAX_AREA * d.width * d.height
    return image.width % m == 0 and image.height % m == 0 and small


def sized_picture(
    config: ModelConfig, source: Source, width: int | None, height: int | None, resize: str
) -> tuple[Image.Image, list[str]]:
    """The picture at the size to draw, and a warning where it was not asked for.

    Without width and height the picture keeps its own size if the model can take it, and is brought
    to the model's default size if not.
    """
    if resize not in RESIZE:
        raise UsageError(
            f"unknown resize {resize!r}", code="E-RESIZE", hint=did_you_mean(str(resize), RESIZE)
        )
    image, warnings = read_image(source), []
    if width is None and height is None and not fits(config, image):
        width, height = config.defaults.width, config.defaults.height
        sizes = f"{image.width} x {image.height}; resized ({resize}) to {width} x {height}"
        warnings.append(f"the picture is {sizes}")
    size = (width or image.width, height or image.height)
    if min(size) < 1 or max(size) > 8192:
        raise UsageError(f"cannot resize a picture to {size[0]} x {size[1]}", code="E-SIZE")
    return (image if image.size == size else resized(image, size, resize)), warnings


def exact_picture(config: ModelConfig, source: Source) -> Image.Image:
    """The picture at its own size, which the model must be able to take.

    Raises:
        ImageError: it cannot be read, or has another size.
    """
    image, m, d = read_image(source), config.size_multiple, config.defaults
    if not fits(config, image):
        raise ImageError(
            f"cannot inpaint a picture of {image.width} x {image.height}: width and height must "
            f"be multiples of {m}",
            code="E-SIZE",
            hint=f"resize picture and mask first; the model was trained at {d.width} x {d.height}",
        )
    return image


def resized(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """The picture at another size; `how` is one of `RESIZE`."""
    method = Image.Resampling.LANCZOS
    if how == "stretch":
        return image.resize(size, method)
    if how == "crop":
        return ImageOps.fit(image, size, method)
    return ImageOps.pad(image, size, method, color="white")


def mask_of(source: Source, image: Image.Image, blur: float) -> Image.Image:
    """The mask as 8-bit grey, softened outwards only: what was white stays white.

    Raises:
        ImageError: the mask has not the picture's size.
    """
    mask = read_mask(source)
    if mask.size != image.size:
        raise ImageError(
            f"the mask is {mask.width} x {mask.height}, the picture {image.width} x {image.height}",
            code="E-MASK-SIZE",
            hint="give a mask of the picture's size",
        )
    mask = Image.fromarray(np.where(np.asarray(mask) >= 128, 255, 0).astype(np.uint8))
    if blur > 0:
        soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)))
        mask = Image.fromarray(np.maximum(soft, np.asarray(mask)))
    return mask


def latent_keep(mask: Image.Image, factor: int) -> np.ndarray:
    """1 for the latent cells without a single pixel to repaint, (1, 1, h, w) float32."""
    pixels = np.asarray(mask) > 0
    h, w = pixels.shape[0] // factor, pixels.shape[1] // factor
    cells = pixels.reshape(h, factor, w, factor).any(axis=(1, 3))
    return np.where(cells, 0.0, 1.0).astype(np.float32)[None, None]


def masked_picture(image: Image.Image, mask: Image.Image, hole: float = 0.0) -> np.ndarray:
    """The picture with `hole` (0: grey) where the mask is at least one half, (1, 3, H, W)."""
    kept = np.asarray(mask) < 128
    return np.where(kept[None, None], to_array([image]), np.float32(hole))


def latent_mask(mask: Image.Image, factor: int) -> np.ndarray:
    """The mask cut at one half, at every factor-th pixel (nearest), (1, 1, h, w) float32."""
    return (np.asarray(mask)[None, None, ::factor, ::factor] >= 128).astype(np.float32)


def paste(drawn: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """`drawn` where the mask is white, `original` bit for bit where it is black."""
    m = np.asarray(mask, np.uint32)[..., None]
    new, old = np.asarray(drawn, np.uint32), np.asarray(original, np.uint32)
    return Image.fromarray(((new * m + old * (255 - m) + 127) // 255).astype(np.uint8))
