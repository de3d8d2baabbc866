"""Reference images of FLUX.3: their latents as tokens, each at its number on the last axis.

Black Forest Labs 2026, as in diffusers 0.42.1, modular_pipelines/flux3/image_processor.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ldmref.families.flux3.positions import place_references
from ldmref.families.reference_images import CELL, crop_to_tokens, encode_cells
from ldmref.math.arrays import Array
from ldmref.models.declared_references import DeclaredReferences

if TYPE_CHECKING:
    from ldmref.models.model import LatentDiffusion

MOST = 10
ALONE_AREA, ALONE_SIDES = 4 * 1024**2, (64, 4096)  # of a single reference
SHRINK = 0.995  # until the canvas fits, too


def encode_references(
    model: LatentDiffusion, images: Sequence[Array], size: tuple[int, int]
) -> dict[str, Array]:
    """Return the tokens of references, (1, k, c), and their positions, (1, k, 4)."""
    ops = model.backend
    tokens, latents = encode_cells(model, images)
    cells = place_references([x.shape[2:] for x in latents])
    positions = ops.asarray(cells, ops.state_dtype)
    return {"reference_tokens": tokens, "reference_places": positions}


def prepare_reference(image: Image.Image, count: int) -> Image.Image:
    """Return an image as it is encoded, of `count` references of a request."""
    return place_on_canvas(image) if count == 1 else crop_to_tokens(image)


def place_on_canvas(image: Image.Image) -> Image.Image:
    """Keep a single reference whole: of 4 megapixels at most, and mirrored up to whole cells.

    An image of less than a cell is mirrored with its last row or column, others without it.
    """
    (width, height), canvas = find_canvas(*image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (canvas[0] - width) // 2, (canvas[1] - height) // 2
    rows, columns = (top, canvas[1] - height - top), (left, canvas[0] - width - left)
    mode = "reflect" if min(image.size) > CELL else "symmetric"
    return Image.fromarray(np.pad(np.asarray(image), (rows, columns, (0, 0)), mode=mode))


def find_canvas(width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size to which a single reference is scaled, and that of its canvas."""
    least, most = ALONE_SIDES
    scale = min(1.0, math.sqrt(ALONE_AREA / (width * height)), most / max(width, height))
    while True:
        scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        columns, rows = (min(most, max(least, -(-side // CELL) * CELL)) for side in scaled)
        if columns * rows <= ALONE_AREA:
            return scaled, (columns, rows)
        scale *= SHRINK


REFERENCES = DeclaredReferences(encode_references, most=MOST, prepare=prepare_reference)
