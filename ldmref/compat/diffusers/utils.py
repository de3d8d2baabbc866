"""Helpers that examples of diffusers import from `diffusers.utils`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ldmref.errors import ImageError, UsageError, short_repr
from ldmref.io.images.pil import read_image
from ldmref.modes.display import arrange

__all__ = ["load_image", "make_image_grid"]


def load_image(
    image: str | Path | Image.Image,
    convert_method: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """Return an image file, or a Pillow image, as RGB.

    Args:
        image: A path to a PNG, JPEG or WebP file, or a Pillow image.
        convert_method: Applied to the image.

    Raises:
        ImageError: There is no such image, or it is a URL, which is not opened.
    """
    if isinstance(image, str) and "://" in image:
        message = f"URLs are not opened: {short_repr(image)}"
        raise ImageError(message, code="E-IMAGE", hint="download the file, and give its path")
    loaded = read_image(image)
    return loaded if convert_method is None else convert_method(loaded)


def make_image_grid(
    images: Sequence[Image.Image], rows: int, cols: int, resize: int | None = None
) -> Image.Image:
    """Return images in a grid, row by row.

    Args:
        images: As many images as cells.
        rows, cols: The size of the grid.
        resize: The side in pixels to which each image is resized; None: unchanged.

    Raises:
        UsageError: Another number of images than cells.
    """
    if len(images) != rows * cols:
        message = f"{len(images)} images for a grid of {rows} x {cols}"
        raise UsageError(message, code="E-GRID")
    if resize is not None:
        images = [image.resize((resize, resize)) for image in images]
    return arrange(images, cols)
