"""Tiled decoding: large images in bounded memory.

Tiles are decoded one by one and blended linearly where they overlap. The autoencoder's attention
and group norms see one tile at a time, so the result differs from decoding all at once, unless the
image fits into one tile.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

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
    vertical = compute_ramps(h * factor, cells * factor, overlap)
    horizontal = compute_ramps(w * factor, cells * factor, overlap)
    tiles = []
    for top, down in vertical:
        for left, across in horizontal:
            y = top // factor
            x = left // factor
            image = decode(latents[:, :, y : y + cells, x : x + cells])
            tiles.append((top, left, image * ops.asarray(down[:, None] * across)))
    rows = []
    for top, bottom in pairwise(_find_edges(vertical)):
        columns = [
            _sum_tiles(tiles, top, bottom, left, right)
            for left, right in pairwise(_find_edges(horizontal))
        ]
        rows.append(ops.xp.concat(columns, axis=3))
    return ops.xp.concat(rows, axis=2)


def _find_edges(ramps: list[tuple[int, np.ndarray]]) -> list[int]:
    """Return the positions along an axis where a tile begins or ends."""
    return sorted({edge for start, ramp in ramps for edge in (start, start + len(ramp))})


def _sum_tiles(
    tiles: list[tuple[int, int, Array]], top: int, bottom: int, left: int, right: int
) -> Array:
    """Sum the weighted tiles on a rectangle that no tile covers in part."""
    total = None
    for y, x, image in tiles:
        height, width = image.shape[2:]
        if y <= top and bottom <= y + height and x <= left and right <= x + width:
            part = image[:, :, top - y : bottom - y, left - x : right - x]
            total = part if total is None else total + part
    assert total is not None  # tiles cover every pixel
    return total
