"""Reference images as tokens of a transformer: each is cropped to whole tokens and encoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ldmref.math.arrays import Array
from ldmref.models.transformer_layers import split_cells

if TYPE_CHECKING:
    from ldmref.models.model import LatentDiffusion

AREA = 1024**2  # pixels that a reference has at most
CELL = 16  # pixels of a token


def encode_cells(model: LatentDiffusion, images: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Return the cells of the latents of all images as tokens, (1, k, z), and the latents of each.

    Args:
        model: A `LatentDiffusion`.
        images: Arrays of its backend, (1, 3, h, w) in [-1, 1].
    """
    latents = [model.encode_image(image) for image in images]
    return model.backend.xp.concat([split_cells(x) for x in latents], axis=1), latents


def crop_to_tokens(image: Image.Image, count: int = 1) -> Image.Image:
    """Scale a reference to 1024^2 pixels at most, and crop its middle to whole tokens.

    Args:
        image: The reference.
        count: The number of references of the request, which does not matter.
    """
    width, height = image.size
    if width * height > AREA:
        scale = math.sqrt(AREA / (width * height))
        width, height = (max(int(side * scale), CELL) for side in (width, height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    columns, rows = (max(side // CELL, 1) * CELL for side in (width, height))
    left, top = (width - columns) // 2, (height - rows) // 2
    return image.crop((left, top, left + columns, top + rows))
