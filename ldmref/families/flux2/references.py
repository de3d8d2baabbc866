"""Reference images of FLUX.2: tokens behind those of the image, each image at its own time.

Sources: github.com/black-forest-labs/flux2, src/flux2/sampling.py, `encode_image_refs`;
huggingface/diffusers, pipelines/flux2/pipeline_flux2_klein.py, whose sizes these are. The makers'
program lets a single reference have 2024^2 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ldmref.math.arrays import Array
from ldmref.models.declared_references import DeclaredReferences
from ldmref.models.transformer_layers import place_cells, split_cells

TIME = 10.0  # between one reference and the next; the generated image is at time 0
AREA = 1024**2  # pixels that a reference has at most
CELL = 16  # pixels of a token
MOST = 10


def encode_references(
    model: Any, images: Sequence[Array], size: tuple[int, int]
) -> dict[str, Array]:
    """Return the tokens of references, (1, k, z), and their positions, (1, k, 4).

    The k-th image is at the time 10 k; its tokens have their rows and columns.
    """
    ops = model.backend
    xp = ops.xp
    tokens, positions = [], []
    for number, image in enumerate(images, 1):
        latents = model.encode_image(image)
        tokens.append(split_cells(latents))
        cells = place_cells(ops, latents[0, 0, :, :])
        one = xp.ones_like(cells[:, :1])
        positions.append(xp.concat([TIME * number * one, cells, 0.0 * one], axis=1)[None, :, :])
    return {
        "reference_tokens": xp.concat(tokens, axis=1),
        "reference_positions": xp.concat(positions, axis=1),
    }


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


REFERENCES = DeclaredReferences(encode_references, MOST, prepare=crop_to_tokens)
