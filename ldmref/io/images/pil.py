"""Read images and masks as 8-bit RGB or grey; convert to arrays in [-1, 1] and back."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ldmref.errors import ImageError, short_path
from ldmref.io.images.arrays import image_from_array, is_array
from ldmref.support.files import not_a_file, open_file

Source = str | os.PathLike | BinaryIO | Image.Image | np.ndarray
FRAMES = "ldmref frames"  # in `Image.info`: how many an animation has
ALPHA = "ldmref alpha"  # in `Image.info` of a mask: what its transparency means
ALPHA_DECIDES = (
    "is painted on transparency in dark colours only: its transparency decides, "
    "and opaque pixels count as white"
)
TRANSPARENT_KEEPS = "is partly transparent: transparent pixels count as black"
COLOURED = "ldmref coloured"  # in `Image.info` of a mask: how its colours are read
COLOURS_ARE_GREY = (
    "has colours, of which only the brightness counts: a mask is white where the image is "
    "repainted, and black where it is kept"
)
COLOUR = 48  # difference of a pixel's channels, of 255, that is more than the noise of a JPEG
SAMPLE = 1000  # pixels of a side, of those that are looked at
FORMATS = ("PNG", "JPEG", "WEBP")
ANIMATED = ("PNG", "WEBP", "GIF")  # the second image of a JPEG is a preview
# GIF, BMP and TIFF are refused by name: they are never needed, and each decoder is one more risk.
OTHER_FORMATS = {b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"8BPS": "Photoshop"}
MAX_PIXELS = 64_000_000


def open_image(source: Source, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open and fully decode an image, upright, in the mode it is stored in.

    Args:
        source: A path or open file (PNG, JPEG or WebP; the first frame of an animation), a Pillow
            image, or an array (`arrays.image_from_array`).
        formats: The formats of files that are accepted, as Pillow names them.

    Raises:
        ImageError: There is no such file, it is not PNG, JPEG or WebP, is damaged, or has more than
            64 megapixels; or the array has another type or shape.
    """
    if isinstance(source, np.ndarray) or is_array(source):
        return image_from_array(source)
    if isinstance(source, os.PathLike) and not isinstance(source, Path):
        source = Path(os.fsdecode(source))
    if not isinstance(source, str | Path | Image.Image) and not hasattr(source, "read"):
        raise ImageError(
            f"cannot read an image from {type(source).__name__}",
            code="E-IMAGE",
            hint="allowed are a path, an open file, a Pillow image, or an array (H, W, 3)",
        )
    name = short_path(source) if isinstance(source, str | Path) else "the image"
    try:
        if isinstance(source, str | Path):
            _require_file(source, name)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            in_memory = isinstance(source, Image.Image)
            image = source if in_memory else Image.open(source, formats=formats)
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(name, f"{image.width} x {image.height}")
            if not image.width * image.height:
                raise ImageError(f"{name} has no pixels", code="E-IMAGE-SIZE")
            image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF, which Pillow refuses in many ways
            upright = image.copy()
        animated = image.format in ANIMATED
        upright.info[FRAMES] = getattr(image, "n_frames", 1) if animated else 1
        return upright
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, "too many") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        other = _name_other_format(source)
        if other:
            raise ImageError(
                f"{name} is a {other} image, which is not read",
                code="E-IMAGE",
                hint="save it as PNG, JPEG or WebP",
            ) from error
        raise ImageError(
            f"cannot read {name} as an image",
            code="E-IMAGE",
            hint="allowed are intact PNG, JPEG and WebP files",
        ) from error


def _name_other_format(source: Source) -> str:
    """Return the format of an image file that is refused, by its first bytes; "" if unknown."""
    try:
        if isinstance(source, str | os.PathLike):
            with open_file(Path(source), "E-IMAGE") as file:
                start = file.read(12)
        else:
            source.seek(0)  # pyright: ignore
            start = source.read(12)  # pyright: ignore
    except Exception:
        return ""
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return "BMP"
    if start[4:8] == b"ftyp":
        return "HEIC or AVIF"
    return next((name for magic, name in OTHER_FORMATS.items() if start.startswith(magic)), "")


def _require_file(path: str | Path, name: str) -> None:
    """Refuse anything but a regular file before it is opened; a pipe would block."""
    if problem := not_a_file(path):
        remote = "://" in name
        hint = "download it first: URLs are not opened" if remote else "name an image file"
        raise ImageError(f"{name} {problem}", code="E-IMAGE-MISSING", hint=hint)


def _too_large(name: str, pixels: str) -> ImageError:
    return ImageError(
        f"{name} has {pixels} pixels, the limit is {MAX_PIXELS}",
        code="E-IMAGE-SIZE",
        hint="scale it down first",
    )


def read_image(source: Source) -> Image.Image:
    """Read an image as 8-bit RGB.

    Images of 16 bits are scaled, not clipped, and transparency becomes white.

    Args:
        source: A path or open file (PNG, JPEG or WebP; the first frame of an animation), a Pillow
            image, or an array (H, W, 3) or (H, W) of uint8, or of floats from 0 to 1.

    Returns:
        A Pillow image of mode RGB, upright.

    Raises:
        ImageError: There is no such file, it is not PNG, JPEG or WebP, is damaged, or has more than
            64 megapixels; or the array has another type or shape.

    >>> import numpy as np
    >>> from ldmref.io import read_image
    >>> read_image(np.zeros((4, 6, 3), np.uint8)).size
    (6, 4)
    """
    return to_rgb(open_image(source))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to 8-bit RGB, over white where it is transparent."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.clip(np.asarray(image).astype(np.float64), 0, 65535)
        image = Image.fromarray(np.rint(values / 257.0).astype(np.uint8))
    elif image.mode == "F":
        image = image_from_array(np.asarray(image))
    if has_alpha(image):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Return whether pixels may be transparent: by a channel, a palette or one colour."""
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def image_warnings(what: str, image: Image.Image) -> list[str]:
    """Return warnings about how a file was read: frames, colour profile, a mask's transparency."""
    lines = []
    frames = image.info.get(FRAMES, 1)
    if frames > 1:
        lines.append(f"{what} is an animation; the first of its {frames} frames is used")
    profile = image.info.get("icc_profile") or b"sRGB"
    if not any("sRGB".encode(encoding) in profile for encoding in ("ascii", "utf-16-be")):
        lines.append(f"{what} has a colour profile other than sRGB, which is ignored")
    lines += [f"{what} {image.info[key]}" for key in (ALPHA, COLOURED) if key in image.info]
    return lines


def read_mask(source: Source) -> Image.Image:
    """Read a mask as 8-bit grey: its luminance on black, so a transparent pixel keeps.

    A mask that is painted on transparency in dark colours only has a luminance that says nothing:
    its alpha decides then. `image_warnings` tells both from the returned image, and whether it has
    colours, as a photograph has that was taken for a mask.

    Args:
        source: A path or open file (PNG, JPEG or WebP; the first frame of an animation), a Pillow
            image, or an array (H, W, 3) or (H, W) of uint8, or of floats from 0 to 1.

    Returns:
        A Pillow image of mode L: white (255) repaints, black (0) keeps. It is rint(L alpha / 255),
        or alpha, if alpha is at least 128 at some but not all pixels, and L nowhere among them.

    Raises:
        ImageError: There is no such file, it is not PNG, JPEG or WebP, is damaged, or has more than
            64 megapixels; or the array has another type or shape.

    >>> import numpy as np
    >>> from ldmref.io import read_mask
    >>> read_mask(np.ones((4, 6))).getextrema()
    (255, 255)
    """
    image = open_image(source)
    if not has_alpha(image) or image.mode.startswith(("I", "F")):
        plain = to_rgb(image)
        mask = plain.convert("L")
        mask.info |= {COLOURED: COLOURS_ARE_GREY} if has_colours(plain) else {}
        return mask
    colours = image.convert("RGBA")
    luminance = np.asarray(colours.convert("L"), np.uint16)
    alpha = np.asarray(colours.getchannel("A"), np.uint16)
    opaque = alpha >= 128
    silent = not opaque.all() and opaque.any() and not (luminance[opaque] >= 128).any()
    values = alpha if silent else (luminance * alpha + 127) // 255
    mask = Image.fromarray(values.astype(np.uint8))
    mask.info = dict(image.info)
    mask.info.pop("transparency", None)
    if (alpha < 255).any():
        mask.info[ALPHA] = ALPHA_DECIDES if silent else TRANSPARENT_KEEPS
    if not silent and has_colours(to_rgb(image)):
        mask.info[COLOURED] = COLOURS_ARE_GREY
    return mask


def has_colours(image: Image.Image) -> bool:
    """Return whether one pixel in a thousand of an RGB image is clearly no grey.

    >>> has_colours(Image.new("RGB", (8, 8), (200, 30, 30)))
    True
    """
    step = max(image.size) // SAMPLE + 1
    pixels = np.asarray(image)[::step, ::step]
    return bool((np.ptp(pixels, axis=-1) > COLOUR).mean() >= 0.001)


def to_array(images: list[Image.Image]) -> np.ndarray:
    """Convert RGB images of one size to (n, 3, H, W) float32 in [-1, 1]."""
    pixels = np.stack([np.asarray(image, np.float32) for image in images])
    return (pixels / 127.5 - 1.0).transpose(0, 3, 1, 2)


def to_images(array: np.ndarray) -> list[Image.Image]:
    """Convert arrays to RGB images: clipped, scaled to 255 and rounded.

    Args:
        array: (n, 3, H, W), in [-1, 1].

    Returns:
        n images of W x H pixels.

    >>> import numpy as np
    >>> from ldmref.io import to_images
    >>> to_images(np.zeros((1, 3, 4, 6)))[0].size
    (6, 4)
    """
    pixels = np.rint((np.clip(array.astype(np.float64), -1, 1) + 1) * 127.5).astype(np.uint8)
    return [Image.fromarray(np.ascontiguousarray(p)) for p in pixels.transpose(0, 2, 3, 1)]
