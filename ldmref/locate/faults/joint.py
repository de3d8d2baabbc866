"""Known faults of transformers of image and text: the two streams, and the table of positions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.modulation import ChangedOperations
from ldmref.locate.faults.variants import Given
from ldmref.locate.replay.points import FollowedRun, OperationChange, Point

READERS = (".to_out.0", ".to_add_out")  # of the two parts of what joint attention returns
EMBEDDING = "pos_embed"
PATCH = 2  # rows and columns of a patch
FIRST = ("transformer_blocks.0.norm1", "transformer_blocks.0.norm1.layer_norm")  # reads it


def other_split(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield joint attention whose tokens are split as if the streams were in the other order."""
    context = replay.arguments.get("context")
    if not isinstance(context, np.ndarray) or context.ndim != 3:
        return
    names = [call.name for call in point.suspects if call.kind == "attention"]
    for reader in READERS:
        if point.role == "input" and point.call.name.endswith(reader):
            names.append(f"{point.call.name.removesuffix(reader)}.attention")
    for name in dict.fromkeys(names):
        for shift in (context.shape[1], -context.shape[1]):
            text = f"image and text are split in the other order after {name}"
            yield text, {name: _rolled(shift)}


def _rolled(shift: int) -> OperationChange:
    def change(call: LayerCall, x: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.roll(call.compute(x), shift, axis=2)

    return change


def other_table(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield patches with other positions of SD3's table, of which the middle is right."""
    latents = _embedded_latents(replay, point)
    computed = np.asarray(point.computed)
    if latents is not None and computed.ndim == 3:
        for text, added in _other_positions(replay, latents, computed.shape[1]):
            yield text, computed + added


def other_table_before(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield other positions of a port of which no layer shows the tokens after they are added."""
    latents: Any = replay.arguments.get("x")
    if not isinstance(latents, np.ndarray) or latents.ndim != 4 or point.frame.name:
        return
    for text, added in _other_positions(replay, latents):
        yield text, {EMBEDDING: lambda call, x, added=added: call.compute(x) + added}


def _other_positions(replay: FollowedRun, latents: np.ndarray, tokens: int = 0) -> Iterator[Given]:
    """Yield what other positions of SD3's table add to those of the patches of latents.

    Args:
        replay: The replay.
        latents: The latents, (n, c, h, w).
        tokens: The number of patches. 0: those of two rows and columns.
    """
    table = replay.parameters_of(EMBEDDING)
    if table is None or table.ndim != 3:
        return
    height, width = latents.shape[2:]
    side = math.isqrt(table.shape[1])
    patch = math.isqrt(height * width // tokens) if tokens else PATCH
    rows, columns = (height // patch, width // patch) if patch else (0, 0)
    if not rows * columns or (tokens and rows * columns != tokens) or max(rows, columns) > side:
        return
    grid = table.reshape(side, side, -1)
    top, left = (side - rows) // 2, (side - columns) // 2
    right = _crop(grid, top, left, rows, columns)
    across = grid.swapaxes(0, 1)
    crops = {
        "the positions are those of the first rows and columns of the table, not of its middle": (
            _crop(grid, 0, 0, rows, columns)
        ),
        "the positions are cropped from the first row of the table, and not from its middle": (
            _crop(grid, 0, left, rows, columns)
        ),
        "the positions are cropped from the first column of the table, and not from its middle": (
            _crop(grid, top, 0, rows, columns)
        ),
        "the positions are the first rows of the table, without a crop": table[0, : rows * columns],
        "rows and columns are exchanged in the table of positions": _crop(
            across, top, left, rows, columns
        ),
        "rows and columns are exchanged in the table, which is not cropped in its middle": _crop(
            across, 0, 0, rows, columns
        ),
        "the positions run down the columns": _crop(grid, left, top, columns, rows)
        .reshape(columns, rows, -1)
        .swapaxes(0, 1)
        .reshape(rows * columns, -1),
        "the positions begin one row and column later": _crop(
            grid, top + 1, left + 1, rows, columns
        ),
        "the positions begin one row and column earlier": _crop(
            grid, top - 1, left - 1, rows, columns
        ),
        "the positions are not added": np.zeros_like(right),
        "the positions are added twice": 2.0 * right,
    }
    for text, crop in crops.items():
        if crop.shape == right.shape:
            yield text, crop - right


def _embedded_latents(replay: FollowedRun, point: Point) -> np.ndarray | None:
    """Return the latents (n, c, h, w) of which a point has the embedded patches; None: it has none.

    They are what the first norm reads, in a port that adds the positions in no layer of its own.
    """
    if point.call.name == EMBEDDING and not point.role:
        return point.inputs.get("input")
    latents: Any = replay.arguments.get("x")
    read = point.role == "input" and point.call.name in FIRST
    return latents if read and isinstance(latents, np.ndarray) and latents.ndim == 4 else None


def _crop(grid: np.ndarray, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    part = grid[max(top, 0) : top + rows, max(left, 0) : left + columns]
    return part.reshape(-1, grid.shape[2])
