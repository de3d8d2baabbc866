"""What inpainting does around the mask: other content below it, or only a region of the picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ldmref.errors import UsageError
from ldmref.io.pictures.images import read_image
from ldmref.models.config import ModelConfig
from ldmref.modes.draws import Posterior
from ldmref.modes.picture import Source, exact_picture, paste

Box = tuple[int, int, int, int]  # left, top, right, bottom
MAX_BLUR = 16.0  # pixels by which `filled` smooths at most


def picture_and_size(
    config: ModelConfig, source: Source, only_masked: bool, width: int | None, height: int | None
) -> tuple[Image.Image, tuple[int, int]]:
    """The picture to inpaint, and the size at which the networks draw.

    Raises:
        ImageError: the picture cannot be read, or taken at its own size where it must.
        UsageError: a size is given, but the whole picture is drawn.
    """
    if only_masked:
        size = width or config.defaults.width, height or config.defaults.height
        return read_image(source), size
    picture = exact_picture(config, source)
    if (width or picture.width, height or picture.height) != picture.size:
        raise UsageError(
            "inpaint draws at the picture's own size",
            code="E-SIZE",
            hint="leave width and height away, or repaint with only_masked",
        )
    return picture, picture.size


def region_of(mask: Image.Image, padding: int, size: tuple[int, int]) -> Box:
    """The part of a picture to draw: around the mask, with the proportions of `size`.

    What is not 0 in the mask, `padding` pixels around it, and then as much more as the proportions
    need; all of it inside the picture. Where the picture is too small for the proportions, the
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


def crop(
    image: Image.Image, mask: Image.Image, box: Box, size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """Region of picture and mask at the size to draw; what is not 0 in the mask never becomes 0."""
    part = image.crop(box).resize(size, Image.Resampling.LANCZOS)
    soft = mask.crop(box).convert("F").resize(size, Image.Resampling.BOX)
    return part, Image.fromarray(np.ceil(np.asarray(soft)).astype(np.uint8))


def paste_region(
    drawn: Image.Image, original: Image.Image, mask: Image.Image, box: Box
) -> Image.Image:
    """`original` with the region redrawn where the mask is white, bit for bit where it is black."""
    whole = original.copy()
    size = box[2] - box[0], box[3] - box[1]
    whole.paste(drawn.resize(size, Image.Resampling.LANCZOS), box[:2])
    return paste(whole, original, mask)


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours of the surroundings where the mask is not 0.

    Each pixel takes the colour of the nearest one that is kept, smoothed; grey where none is kept.
    """
    from scipy import ndimage

    hole, pixels = np.asarray(mask) > 0, np.asarray(image, np.float64)
    if hole.all():
        return Image.new("RGB", image.size, (128, 128, 128))
    distance, nearest = (
        np.asarray(ndimage.distance_transform_edt(hole)),
        np.asarray(
            ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
        ),
    )
    spread = pixels[tuple(nearest)]
    blur = min(MAX_BLUR, float(distance.max()) / 2.0)
    smooth = ndimage.gaussian_filter(spread, (blur, blur, 0.0), mode="nearest")
    return Image.fromarray(np.where(hole[..., None], np.rint(smooth), pixels).astype(np.uint8))


def in_hole(known: Posterior, hole: np.ndarray, content: Posterior | None) -> Posterior:
    """The known latents with others where `hole` is 1; without `content`, zeros."""
    if content is None:
        return Posterior(known.mean * (1.0 - hole), known.std * (1.0 - hole))
    return Posterior(*(k * (1.0 - hole) + c * hole for k, c in zip(known, content, strict=True)))
