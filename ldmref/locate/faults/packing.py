"""Known faults of packing: latents that are cut into tokens, or joined again, in another order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations

import numpy as np

from ldmref.locate.faults.variants import Given
from ldmref.locate.replay.points import FollowedRun, Point

PATCHES = ("x_embedder",)  # linear layers that read patches
TOKENS = ("proj_out",)  # layers whose output is joined to latents
AXES = ("channel", "row", "column")  # within a patch


def other_packing(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield tokens of latents that are cut in another order."""
    latents = point.frame.inputs.get("x")
    computed = np.asarray(point.computed)
    whole = point.call.name in PATCHES and point.role == "input" and point.frame.name == ""
    if not whole or not isinstance(latents, np.ndarray) or latents.ndim != 4 or computed.ndim != 3:
        return
    n, c, h, w = latents.shape
    side = _side(latents.shape, computed.shape)
    if side < 2:
        return
    axes = latents.reshape(n, c, h // side, side, w // side, side).transpose(0, 2, 4, 1, 3, 5)
    for order in permutations(range(3)):
        inner = tuple(3 + i for i in order)
        within = ", ".join(AXES[i] for i in order)
        for outer, lines in (((1, 2), ""), ((2, 1), ", and tokens run down the columns")):
            tokens = axes.transpose(0, *outer, *inner).reshape(computed.shape)
            if not np.array_equal(tokens, computed):
                yield f"a patch holds {within}{lines}", tokens


def other_unpacking(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield latents that are joined from the last tokens in another order."""
    computed = np.asarray(point.computed)
    last = next((x for name, x in reversed(replay.recent) if name in TOKENS), None)
    if point.call.name or last is None or computed.ndim != 4 or last.ndim != 3:
        return
    n, c, h, w = computed.shape
    side = _side(computed.shape, last.shape)
    if side < 2:
        return
    sizes = {"channel": c, "row": side, "column": side}
    for order in permutations(range(3)):
        names = [AXES[i] for i in order]
        for shape, rows, columns, lines in (
            ((h // side, w // side), 1, 2, ""),
            ((w // side, h // side), 2, 1, ", and tokens run down the columns"),
        ):
            grid = last.reshape(n, *shape, *(sizes[name] for name in names))
            place = {name: 3 + i for i, name in enumerate(names)}
            axes = (0, place["channel"], rows, place["row"], columns, place["column"])
            joined = grid.transpose(axes).reshape(computed.shape)
            if not np.array_equal(joined, computed):
                yield f"a patch is read as {', '.join(names)}{lines}", joined


def _side(latents: tuple[int, ...], tokens: tuple[int, ...]) -> int:
    """Return the side of the patches of which tokens, (n, l, d), are; 0: they are not of patches.

    >>> _side((1, 3, 4, 6), (1, 6, 12)), _side((1, 3, 4, 6), (1, 6, 13))
    (2, 0)
    """
    n, c, h, w = latents
    side = math.isqrt(tokens[2] // c)
    fits = side and not (h % side or w % side)
    return side if fits and tokens == (n, h * w // side**2, c * side**2) else 0
