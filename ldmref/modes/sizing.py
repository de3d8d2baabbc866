"""The size of a given image: kept, or changed to one that the model can generate."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageOps

from ldmref.errors import ImageError, UsageError
from ldmref.io.images.pil import Source, image_warnings, read_image
from ldmref.models.config import ModelConfig
from ldmref.modes.validation import MAX_SIDE

MAX_AREA = 64  # largest area of an image, as a multiple of the area the model was trained on
OWN_AREA = 16  # largest area, as such a multiple, at which a given image keeps its size by default


class Sized(NamedTuple):
    """An image at the size to generate, how it was resized, and warnings."""

    image: Image.Image
    resize: str
    warnings: list[str]


def round_size(config: ModelConfig, image: Image.Image, most: int) -> tuple[int, int] | None:
    """Return the image's size, with each side rounded down to one that the model can generate.

    None if a side becomes 0 or is longer than the model can take, or the area exceeds `most` times
    that on which the model was trained.
    """
    m = config.size_multiple
    d = config.defaults
    width = image.width - image.width % m
    height = image.height - image.height % m
    longest = min(MAX_SIDE, config.max_side or MAX_SIDE)
    if not 0 < width * height <= most * d.width * d.height or max(width, height) > longest:
        return None
    return width, height


def size_image(
    config: ModelConfig, source: Source, width: int | None, height: int | None, resize: str
) -> Sized:
    """Return the image at the size to generate, and a warning if the size changed without request.

    Without width and height, the size is the image's own, as in diffusers: each side is rounded
    down to a multiple of `size_multiple`, and the image is stretched to it. An image smaller than
    that multiple, or with more than `OWN_AREA` times the area on which the model was trained, is
    brought to the model's default size by the method `resize`. If the model knows one size, so is
    an image of a very different size.
    """
    image = read_image(source)
    warnings = image_warnings("the image", image)
    if width is None and height is None:
        own = round_size(config, image, OWN_AREA)
        if own and config.defaults.one_size and not config.defaults.is_near(*own):
            own = None
        width, height = own or (config.defaults.width, config.defaults.height)
        if own and own != image.size and resize == "fill":
            warnings.append(
                "resize=fill changes nothing without width and height: each side is rounded down "
                f"to a multiple of {config.size_multiple}"
            )
        if (width, height) != image.size:
            resize = resize if own is None else "stretch"
            sizes = f"{image.width} x {image.height}; resized ({resize}) to {width} x {height}"
            warnings.append(f"the image is {sizes}")
    m = config.size_multiple
    size = (width or image.width // m * m, height or image.height // m * m)
    if min(size) < 1 or max(size) > MAX_SIDE:
        raise UsageError(f"cannot resize an image to {size[0]} x {size[1]}", code="E-SIZE")
    if image.size == size and resize != "crop":
        warnings.append(
            f"resize={resize} changes nothing: the image is {size[0]} x {size[1]} already"
        )
    return Sized(
        image if image.size == size else resize_image(image, size, resize), resize, warnings
    )


def require_exact(config: ModelConfig, image: Image.Image) -> None:
    """Check that the model can take an image at its own size.

    Raises:
        ImageError: It cannot; the message says which size it can take.
    """
    m = config.size_multiple
    d = config.defaults
    own = round_size(config, image, MAX_AREA)
    if own == image.size:
        return
    sides = f"{image.width} x {image.height}"
    raise ImageError(
        f"cannot inpaint an image of {sides}: it is too large"
        if own is None and min(image.size) >= m
        else f"cannot inpaint an image of {sides}: width and height must be multiples of {m}",
        code="E-SIZE",
        hint="only_masked=True (--only-masked) takes any size; or resize image and mask first"
        + (f", to {own[0]} x {own[1]}" if own else f"; the model generates {d.width} x {d.height}"),
    )


def resize_image(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """Return the image at another size; `how` is `crop`, `stretch` or `fill`."""
    method = Image.Resampling.LANCZOS
    if how == "stretch":
        return image.resize(size, method)
    if how == "crop":
        return ImageOps.fit(image, size, method)
    return ImageOps.pad(image, size, method, color="white")
