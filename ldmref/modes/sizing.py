"""The size of an image that a mode starts from: kept, or brought to what the model can draw."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageOps

from ldmref.errors import ImageError, UsageError
from ldmref.io.images.pil import Source, image_warnings, read_image
from ldmref.models.config import ModelConfig
from ldmref.modes.validation import MAX_SIDE

MAX_AREA = 64  # an image's pixels at most, as a multiple of the area the model was trained on
OWN_AREA = 16  # up to this multiple of the trained area an image is redrawn at its size unasked


class Sized(NamedTuple):
    """An image at the size to draw, how it was resized, and warnings."""

    image: Image.Image
    resize: str
    warnings: list[str]


def own_size(config: ModelConfig, image: Image.Image, most: int) -> tuple[int, int] | None:
    """The image's size, each side rounded down to what the model can draw.

    None if a side becomes 0, or for more than `most` times the area the model was trained on.
    """
    m = config.size_multiple
    d = config.defaults
    width = image.width - image.width % m
    height = image.height - image.height % m
    if not 0 < width * height <= most * d.width * d.height or max(width, height) > MAX_SIDE:
        return None
    return width, height


def sized_image(
    config: ModelConfig, source: Source, width: int | None, height: int | None, resize: str
) -> Sized:
    """The image at the size to draw, and a warning if it was resized unasked.

    Without width and height that is the image's own size, as diffusers takes it: each side
    rounded down to a multiple of `size_multiple`, and the image stretched to it. An image
    smaller than that multiple, or of more than `OWN_AREA` times the area the model was trained on,
    is brought to the model's default size, as `resize` says; so is an image of any size far from
    the trained one, if the model knows one size.
    """
    image = read_image(source)
    warnings = image_warnings("the image", image)
    if width is None and height is None:
        own = own_size(config, image, OWN_AREA)
        if own and config.defaults.one_size and not config.defaults.is_near(*own):
            own = None
        width, height = own or (config.defaults.width, config.defaults.height)
        if (width, height) != image.size:
            resize = resize if own is None else "stretch"
            sizes = f"{image.width} x {image.height}; resized ({resize}) to {width} x {height}"
            warnings.append(f"the image is {sizes}")
    m = config.size_multiple
    size = (width or image.width // m * m, height or image.height // m * m)
    if min(size) < 1 or max(size) > MAX_SIDE:
        raise UsageError(f"cannot resize an image to {size[0]} x {size[1]}", code="E-SIZE")
    return Sized(image if image.size == size else resized(image, size, resize), resize, warnings)


def require_exact(config: ModelConfig, image: Image.Image) -> None:
    """Refuse an image whose own size the model cannot take.

    Raises:
        ImageError: says which size it can.
    """
    m = config.size_multiple
    d = config.defaults
    own = own_size(config, image, MAX_AREA)
    if own == image.size:
        return
    sides = f"{image.width} x {image.height}"
    raise ImageError(
        f"cannot inpaint an image of {sides}: it is too large"
        if own is None and min(image.size) >= m
        else f"cannot inpaint an image of {sides}: width and height must be multiples of {m}",
        code="E-SIZE",
        hint="only_masked=True (--only-masked) takes any size; or resize image and mask first"
        + (f", to {own[0]} x {own[1]}" if own else f"; the model draws {d.width} x {d.height}"),
    )


def resized(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """The image at another size; `how` is one of `RESIZE`."""
    method = Image.Resampling.LANCZOS
    if how == "stretch":
        return image.resize(size, method)
    if how == "crop":
        return ImageOps.fit(image, size, method)
    return ImageOps.pad(image, size, method, color="white")
