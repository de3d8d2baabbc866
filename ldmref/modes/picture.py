"""Pictures and masks that a mode starts from: read, checked, brought to size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ldmref.errors import ImageError, UsageError, did_you_mean
from ldmref.io.pictures.images import Source, read_image, read_mask, to_array
from ldmref.models.config import ModelConfig
from ldmref.modes.checks import MAX_AREA, MAX_SIDE

RESIZE = ("crop", "stretch", "fill")
OWN_AREA = 16  # up to this multiple of the trained area a picture is redrawn at its size unasked


class Sized(NamedTuple):
    """A picture at the size to draw, how it got it, and warnings."""

    picture: Image.Image
    resize: str
    warnings: list[str]


def own_size(config: ModelConfig, image: Image.Image, most: int) -> tuple[int, int] | None:
    """The picture's size, each side rounded down to what the model can draw; None where nothing is
    left, or more than `most` times the area on which the model was trained."""
    m, d = config.size_multiple, config.defaults
    width, height = image.width - image.width % m, image.height - image.height % m
    if not 0 < width * height <= most * d.width * d.height or max(width, height) > MAX_SIDE:
        return None
    return width, height


def sized_picture(
    config: ModelConfig, source: Source, width: int | None, height: int | None, resize: str
) -> Sized:
    """The picture at the size to draw, and a warning where it was not asked for.

    Without width and height that is the picture's own size, as diffusers takes it: each side
    rounded down to a multiple of `size_multiple`, and the picture stretched by that little. A
    picture too small for that, or of more than `OWN_AREA` times the area on which the model was
    trained, is brought to the model's default size, as `resize` says.
    """
    if resize not in RESIZE:
        raise UsageError(
            f"unknown resize {resize!r}", code="E-RESIZE", hint=did_you_mean(str(resize), RESIZE)
        )
    image, warnings = read_image(source), []
    if width is None and height is None:
        own = own_size(config, image, OWN_AREA)
        width, height = own or (config.defaults.width, config.defaults.height)
        if (width, height) != image.size:
            resize = resize if own is None else "stretch"
            sizes = f"{image.width} x {image.height}; resized ({resize}) to {width} x {height}"
            warnings.append(f"the picture is {sizes}")
    m = config.size_multiple
    size = (width or image.width // m * m, height or image.height // m * m)
    if min(size) < 1 or max(size) > MAX_SIDE:
        raise UsageError(f"cannot resize a picture to {size[0]} x {size[1]}", code="E-SIZE")
    return Sized(image if image.size == size else resized(image, size, resize), resize, warnings)


def exact_picture(config: ModelConfig, source: Source) -> Image.Image:
    """The picture at its own size, which the model must be able to take.

    Raises:
        ImageError: it cannot be read, or has another size.
    """
    image, m, d = read_image(source), config.size_multiple, config.defaults
    own = own_size(config, image, MAX_AREA)
    if own == image.size:
        return image
    sides = f"{image.width} x {image.height}"
    raise ImageError(
        f"cannot inpaint a picture of {sides}: it is too large"
        if own is None and min(image.size) >= m
        else f"cannot inpaint a picture of {sides}: width and height must be multiples of {m}",
        code="E-SIZE",
        hint="only_masked=True (--only-masked) takes any size; or resize picture and mask first"
        + (f", to {own[0]} x {own[1]}" if own else f"; the model draws {d.width} x {d.height}"),
    )


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


def latent_keep(mask: Image.Image, factor: int, nearest: bool = False) -> np.ndarray:
    """1 for the latent cells that are kept, (1, 1, h, w) float32.

    They are those without a single pixel to repaint, so that everything white is drawn anew; or,
    `nearest`, those whose first pixel is below one half, as in diffusers: white pixels of cells
    that the mask only touches then show the given picture, encoded and decoded.
    """
    if nearest:
        return 1.0 - latent_mask(mask, factor)
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
