"""Reference images of FLUX.2: tokens behind those of the image, each image at its own time.

Sources: github.com/black-forest-labs/flux2, src/flux2/sampling.py, `encode_image_refs`;
huggingface/diffusers, pipelines/flux2/pipeline_flux2_klein.py, whose sizes these are. The makers'
program lets a single reference have 2024^2 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ldmref.families.reference_images import crop_to_tokens, encode_cells
from ldmref.math.arrays import Array
from ldmref.models.declared_references import DeclaredReferences
from ldmref.models.transformer_layers import place_cells

if TYPE_CHECKING:
    from ldmref.models.model import LatentDiffusion

TIME = 10.0  # between one reference and the next; the generated image is at time 0
MOST = 10


def encode_references(
    model: LatentDiffusion, images: Sequence[Array], size: tuple[int, int]
) -> dict[str, Array]:
    """Return the tokens of references, (1, k, z), and their positions, (1, k, 4).

    The k-th image is at the time 10 k; its tokens have their rows and columns.
    """
    ops = model.backend
    xp = ops.xp
    tokens, latents = encode_cells(model, images)
    positions = []
    for number, plane in enumerate(latents, 1):
        cells = place_cells(ops, plane[0, 0, :, :])
        one = xp.ones_like(cells[:, :1])
        axes = [TIME * number * one, cells, xp.zeros_like(one)]
        positions.append(xp.concat(axes, axis=1)[None, :, :])
    return {"reference_tokens": tokens, "reference_positions": xp.concat(positions, axis=1)}


REFERENCES = DeclaredReferences(encode_references, MOST, prepare=crop_to_tokens)
