"""Tiled decoding: large images in bounded memory.

Tiles are decoded one by one and blended linearly where they overlap. The autoencoder's attention
and group norms see one tile at a time, so the result differs from decoding all at once, unless the
image fits into one tile.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from array_api_compat import device

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array

OVERLAP = 4  # tiles overlap by a quarter


def compute_ramps(length: int, tile: int, overlap: int) -> list[tuple[int, np.ndarray]]:
    """Compute the start of each tile along an axis and its blending weights, (tile,) float64.

    Weights rise across the overlap with the previous tile, fall across the overlap with the next,
    and sum to 1 at every position.

    >>> [(start, w.round(2).tolist()) for start, w in compute_ramps(6, 4, 2)]
    [(0, [1.0, 1.0, 0.75, 0.25]), (2, [0.25, 0.75, 1.0, 1.0])]
    """
    if length <= tile:
        return [(0, np.ones(length))]
    starts = [*range(0, length - tile, tile - overlap), length - tile]
    total = np.zeros(length)
    raw = []
    middle = np.arange(tile) + 0.5
    for start in starts:
        rise = np.minimum(1.0, middle / overlap) if start else np.ones(tile)
        fall = np.minimum(1.0, middle[::-1] / overlap) if start + tile < length else np.ones(tile)
        raw.append(rise * fall)
        total[start : start + tile] += raw[-1]
    return [(s, w / total[s : s + tile]) for s, w in zip(starts, raw, strict=True)]


def decode_tiled(
    ops: Backend, decode: Callable[[Array], Array], latents: Array, factor: int, tile: int | None
) -> Array:
    """Compute `decode(latents)` in tiles.

    Args:
        ops: The backend.
        decode: A function of latents (n, z, h, w) that returns images (n, 3, f h, f w).
        latents: Scaled latents, (n, z, h, w).
        factor: f, the number of pixels per latent cell.
        tile: Width and height of a tile in pixels, at least 2 f; None: a single tile.
    """
    h, w = latents.shape[2:]
    cells = max(h, w) if tile is None else tile // factor
    if h <= cells and w <= cells:
        return decode(latents)
    overlap = max(1, cells // OVERLAP) * factor
    out = None
    for top, down in compute_ramps(h * factor, cells * factor, overlap):
        for left, across in compute_ramps(w * factor, cells * factor, overlap):
            y = top // factor
            x = left // factor
            image = decode(latents[:, :, y : y + cells, x : x + cells])
            image = image * ops.asarray(down[:, None] * across)
            if out is None:
                shape = (*image.shape[:2], h * factor, w * factor)
                out = ops.xp.zeros(shape, dtype=image.dtype, device=device(image))
            out[:, :, top : top + len(down), left : left + len(across)] += image
    return out
