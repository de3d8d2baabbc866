"""Helpers that examples of diffusers import from `diffusers.utils`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ldmref.errors import ImageError, UsageError, short_repr
from ldmref.io.images.display import arrange
from ldmref.io.images.pil import read_image

__all__ = ["load_image", "make_image_grid"]


def load_image(
    image: str | Path | Image.Image,
    convert_method: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """Return an image file, or a Pillow image, as RGB.

    Args:
        image: A path to a PNG, JPEG or WebP file, or a Pillow image.
        convert_method: Applied to the image. None: nothing.

    Returns:
        The image, mode RGB.

    Raises:
        ImageError: There is no such image, or it is a URL, which is not opened.

    >>> from PIL import Image
    >>> from ldmref.compat.diffusers.utils import load_image
    >>> load_image(Image.new("L", (4, 4))).mode
    'RGB'
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
        rows: The number of rows.
        cols: The number of columns.
        resize: The side in pixels to which each image is resized. None: unchanged.

    Returns:
        One image, cols x rows times the size of the first.

    Raises:
        UsageError: Another number of images than cells.

    >>> from PIL import Image
    >>> from ldmref.compat.diffusers.utils import make_image_grid
    >>> make_image_grid([Image.new("RGB", (4, 4))] * 6, rows=2, cols=3).size
    (12, 8)
    """
    if len(images) != rows * cols:
        message = f"{len(images)} images for a grid of {rows} x {cols}"
        raise UsageError(message, code="E-GRID")
    if resize is not None:
        images = [image.resize((resize, resize)) for image in images]
    return arrange(images, cols)
