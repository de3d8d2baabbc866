"""Decoding in overlapping tiles: large pictures in bounded memory.

Every tile is decoded alone and laid over its neighbours with a ramp. The autoencoder's attention
and group norms see one tile at a time, so a tiled picture is not exactly the whole one; where the
picture fits one tile, it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array

OVERLAP = 4  # tiles overlap by a quarter


def ramps(length: int, tile: int, overlap: int) -> list[tuple[int, np.ndarray]]:
    """Where the tiles of an axis begin, and their weights, (tile,) float64, which add up to 1.

    A weight rises along the overlap with the tile before, and falls along that with the next.

    >>> [(start, w.round(2).tolist()) for start, w in ramps(6, 4, 2)]
    [(0, [1.0, 1.0, 0.75, 0.25]), (2, [0.25, 0.75, 1.0, 1.0])]
    """
    if length <= tile:
        return [(0, np.ones(length))]
    starts = [*range(0, length - tile, tile - overlap), length - tile]
    total, raw, middle = np.zeros(length), [], np.arange(tile) + 0.5
    for start in starts:
        rise = np.minimum(1.0, middle / overlap) if start else np.ones(tile)
        fall = np.minimum(1.0, middle[::-1] / overlap) if start + tile < length else np.ones(tile)
        raw.append(rise * fall)
        total[start : start + tile] += raw[-1]
    return [(s, w / total[s : s + tile]) for s, w in zip(starts, raw, strict=True)]


def decode_tiled(
    ops: Backend, decode: Callable[[Array], Array], latents: Array, factor: int, tile: int
) -> Array:
    """`decode(latents)`, in tiles.

    Args:
        decode: (n, z, h, w) -> (n, 3, f h, f w).
        factor: f, pixels per latent cell.
        tile: pixels of a tile's side, at least two cells.
    """
    (h, w), cells = latents.shape[2:], tile // factor
    if h <= cells and w <= cells:
        return decode(latents)
    overlap = max(1, cells // OVERLAP) * factor
    out = None
    for top, down in ramps(h * factor, cells * factor, overlap):
        for left, across in ramps(w * factor, cells * factor, overlap):
            y, x = top // factor, left // factor
            part = decode(latents[:, :, y : y + cells, x : x + cells])
            part = part * ops.asarray(down[:, None] * across)
            if out is None:
                out = ops.xp.concat([ops.xp.zeros_like(part[:, :, :1])] * (h * factor), axis=2)
                out = ops.xp.concat([out[:, :, :, :1]] * (w * factor), axis=3)
            out[:, :, top : top + len(down), left : left + len(across)] += part
    return out
