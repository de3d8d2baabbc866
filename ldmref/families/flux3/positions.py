"""Positions of tokens on four axes: time, row, column, and place in the text or number.

Su et al. 2021, arXiv:2104.09864. Image and references have half the numbers of their rows and
columns; text has its place on the last axis, and the k-th reference has -k there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.transformer_layers import place_cells

Waves: TypeAlias = tuple[Array, Array]
"""Cosines and sines of the angles of tokens, (n or 1, 1, l, head / 2) each."""

ROW_SCALE = 0.5  # of the numbers of rows and columns


def join_waves(ops: Backend, parts: Sequence[Waves]) -> Waves:
    """Return the waves of tokens that follow each other."""
    firsts = [cos[:, :, :1, :1] for cos, _ in parts]  # any of them may have more rows than others

    def join(side: Sequence[Array]) -> Array:
        return ops.xp.concat([ops.broadcast_like(x, *firsts) for x in side], axis=2)

    cos, sin = zip(*parts, strict=True)
    return join(cos), join(sin)


def place_text(ops: Backend, states: Array) -> Array:
    """Return the positions of the hidden states of a text, (n, l, k): (1, l, 4)."""
    place = ops.count_from_zero(states[:1, :, :1], axis=1)
    zero = ops.xp.zeros_like(place)
    return ops.xp.concat([zero, zero, zero, place], axis=2)


def place_image(ops: Backend, x: Array) -> Array:
    """Return the positions of the cells of latents (n, c, h, w): (1, h * w, 4)."""
    cells = place_cells(ops, x[0, 0, :, :])[None, :, :]
    zero = ops.xp.zeros_like(cells[:, :, :1])
    return ops.xp.concat([zero, ROW_SCALE * cells, zero], axis=2)


def place_references(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the positions of the cells of references of these numbers of rows and columns.

    (1, k, 4), the cells of the first reference first.
    """
    found = []
    for number, (height, width) in enumerate(sizes, 1):
        rows, columns = np.mgrid[:height, :width].reshape(2, -1) * ROW_SCALE
        numbers = np.full_like(rows, -number)
        found.append(np.stack([np.zeros_like(rows), rows, columns, numbers], axis=1))
    return np.concatenate(found)[None]
