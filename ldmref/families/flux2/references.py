"""Reference images of FLUX.2: tokens behind those of the image, each image at its own time.

Sources: github.com/black-forest-labs/flux2, src/flux2/sampling.py, `encode_image_refs`;
huggingface/diffusers, pipelines/flux2/pipeline_flux2_klein.py, whose sizes these are. The makers'
program lets a single reference have 2024^2 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ldmref.families.flux2.network import count_from_zero
from ldmref.math.arrays import Array
from ldmref.models.declared_references import DeclaredReferences

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
        latents = xp.permute_dims(model.encode_image(image), (0, 2, 3, 1))
        _, height, width, z = latents.shape
        tokens.append(xp.reshape(latents, (1, height * width, z)))
        one = xp.ones_like(latents[0, :, :, 0])
        rows = count_from_zero(ops, one[:, 0])[:, None]
        columns = count_from_zero(ops, one[0, :])[None, :]
        axes = (TIME * number * one, rows * one, columns * one, 0.0 * one)
        positions.append(xp.concat([xp.reshape(axis, (1, -1, 1)) for axis in axes], axis=2))
    return {
        "reference_tokens": xp.concat(tokens, axis=1),
        "reference_positions": xp.concat(positions, axis=1),
    }


def scale_reference(width: int, height: int) -> tuple[int, int]:
    """Return the size to which a reference is scaled: its own, or one of 1024^2 pixels."""
    if width * height <= AREA:
        return width, height
    scale = math.sqrt(AREA / (width * height))
    return max(int(width * scale), CELL), max(int(height * scale), CELL)


def fit_reference(width: int, height: int) -> tuple[int, int]:
    """Return the size of the middle of a scaled reference: whole tokens."""
    width, height = scale_reference(width, height)
    return max(width // CELL * CELL, CELL), max(height // CELL * CELL, CELL)


REFERENCES = DeclaredReferences(encode_references, MOST, fit_reference, scale_reference)
