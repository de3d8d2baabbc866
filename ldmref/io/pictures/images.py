"""Pictures in and out: files that people have to RGB, arrays in [-1, 1] to 8 bits and back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ldmref.errors import ImageError

Source = str | Path | BinaryIO | Image.Image | np.ndarray
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000


def open_image(source: Source) -> Image.Image:
    """Open and fully decode a picture, upright, in the mode it is stored in.

    Args:
        source: a path or open file: PNG, JPEG or WebP; a Pillow picture; or a uint8 array (H, W, 3)
            of RGB, (H, W, 4) with transparency, or (H, W) of grey.

    Raises:
        ImageError: no such file, no PNG, JPEG or WebP, damaged, or more than 64 megapixels; an
            array of another type or shape.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if not isinstance(source, str | Path | Image.Image) and not hasattr(source, "read"):
        raise ImageError(
            f"a picture cannot be made of {type(source).__name__}",
            code="E-IMAGE",
            hint="allowed are a path, an open file, a Pillow picture, or a uint8 array (H, W, 3)",
        )
    name = repr(str(source)) if isinstance(source, str | Path) else "the picture"
    try:
        if isinstance(source, str | Path) and not Path(source).is_file():
            raise FileNotFoundError(f"no such file: {name}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            handed = isinstance(source, Image.Image)
            image = source if handed else Image.open(source, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{name} has {image.width} x {image.height} pixels, the limit is {MAX_PIXELS}",
                    code="E-IMAGE-SIZE",
                    hint="scale it down first",
                )
            image.load()
        return ImageOps.exif_transpose(image)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(str(error), code="E-IMAGE-MISSING", hint="check the path") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ImageError(
            f"cannot read {name} as a picture",
            code="E-IMAGE",
            hint="allowed are intact PNG, JPEG and WebP files",
        ) from error


def _of_array(pixels: np.ndarray) -> Image.Image:
    shape = pixels.shape
    good = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not good or not pixels.size:
        raise ImageError(
            f"an array is no picture as {pixels.dtype} {shape}",
            code="E-IMAGE",
            hint="allowed is uint8, 0 to 255: (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey",
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def read_image(source: Source) -> Image.Image:
    """A picture as 8-bit RGB: 16 bits scaled (not clipped), transparency laid on white."""
    return to_rgb(open_image(source))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as 8-bit RGB, with hidden colours under transparency left out."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.clip(np.asarray(image).astype(np.float64), 0, 65535)
        image = Image.fromarray(np.rint(values / 257.0).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError(
            "floating-point pictures have no fixed range", code="E-IMAGE", hint="save as PNG first"
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def read_mask(source: Source) -> Image.Image:
    """A mask as 8-bit grey: its transparency if that varies, else its luminance. White repaints."""
    image = open_image(source)
    if "A" in image.getbands():
        alpha = image.getchannel("A")
        low, high = alpha.getextrema()
        if low != high:
            return alpha
    return to_rgb(image).convert("L")


def to_array(images: list[Image.Image]) -> np.ndarray:
    """RGB pictures of one size as (n, 3, H, W) float32 in [-1, 1]."""
    pixels = np.stack([np.asarray(image, np.float32) for image in images])
    return (pixels / 127.5 - 1.0).transpose(0, 3, 1, 2)


def to_images(array: np.ndarray) -> list[Image.Image]:
    """(n, 3, H, W) in [-1, 1] as RGB pictures: clipped, scaled to 255 and rounded."""
    pixels = np.rint((np.clip(array.astype(np.float64), -1, 1) + 1) * 127.5).astype(np.uint8)
    return [Image.fromarray(np.ascontiguousarray(p)) for p in pixels.transpose(0, 2, 3, 1)]
