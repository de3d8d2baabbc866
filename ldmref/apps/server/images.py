"""Images as bytes: finished ones as PNG files, previews as small data URLs."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

from PIL import Image

from ldmref.io.images.metadata import encode_png

PREVIEW_SIDE = 256  # longest side in pixels


class FinishedImage(NamedTuple):
    """An image of a job: `png` are the bytes that `Result.save` writes for it."""

    png: bytes
    params: dict[str, Any]
    seed: int | None
    width: int
    height: int


def finish_image(image: Image.Image, params: dict[str, Any]) -> FinishedImage:
    """Encode an image and keep what a client asks about it."""
    png = encode_png(image, params)
    return FinishedImage(png, params, params.get("seed"), image.width, image.height)


def preview_url(image: Image.Image) -> str:
    """Return an image as a data URL, with at most `PREVIEW_SIDE` pixels on its longest side."""
    small = image.convert("RGB")
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
