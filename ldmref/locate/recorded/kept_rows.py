"""Rows of tokens that a port has more or fewer of than ldmref, which no result reads.

Programs fill up tokens to another length and mask the rest, embed a caption before they fill
it up, leave padding out, or cut a sequence before or after the last layers. Such an array has the
expected rows in their order, with others in front, between or behind; or it lacks some of them. It
is judged by the rows that both have.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.replay.points import FollowedRun, Point

MASK = "mask"  # the argument that says which tokens are not padding
RowCounts: TypeAlias = tuple[int, ...]
KnownRows: TypeAlias = Mapping[RowCounts, tuple[np.ndarray, ...]]
NO_ROWS: KnownRows = MappingProxyType({})
COMPARED = 8  # rows of those whose place among more is looked for
ALIKE = 0.5  # relative error of rows that are the same rows, perhaps wrong ones


class KeptRows(NamedTuple):
    """A recorded array with the expected rows.

    Attributes:
        text: In words what it had.
        array: The array, of the expected shape; rows that it lacks are as computed.
        lacks: The rows (...,) of the array (..., d) that it lacks.
        counts: The numbers of rows that each image had, and of those that were expected.
        taken: For each image the indices of the rows that were taken. (): some had no more.
    """

    text: str
    array: np.ndarray
    lacks: np.ndarray
    counts: RowCounts = ()
    taken: tuple[np.ndarray, ...] = ()


def find_rows(
    replay: FollowedRun, point: Point, allowed: float, known: KnownRows = NO_ROWS
) -> KeptRows | None:
    """Return the rows of a recorded array that are expected; None if it has others.

    Args:
        replay: The replay that computed it.
        point: The array, of another shape than the computed one.
        allowed: The relative error that is rounding.
        known: The rows of earlier arrays, by the numbers of their rows: those of an array that is
            wrong.
    """
    recorded, computed = np.asarray(point.recorded), np.asarray(point.computed)
    if computed.ndim not in (3, 4) or computed.dtype.kind != "f":
        return None
    parts = _by_image(replay, recorded, computed)
    if parts is None:
        return None
    made, lacks = computed.copy(), np.zeros(computed.shape[:-1], bool)
    taken: list[np.ndarray] = []
    read = _read_rows(replay, parts, computed)
    for number, rows in enumerate(parts):
        if read is not None:
            made[number][..., read[number], :] = rows
            lacks[number][..., ~read[number]] = True
        elif rows.shape[-2] > computed.shape[-2]:
            padding = None if point.padding is None else point.padding[number]
            taken.append(_choose(rows, computed[number], allowed, padding))
            made[number] = rows[..., taken[-1], :]
        else:
            made[number], lacks[number] = _place(rows, computed[number])
    sizes = (*(rows.shape[-2] for rows in parts), computed.shape[-2])
    if lacks.all():
        return None
    error = relative_error(point.kept(made), computed)
    if read is None and sizes in known and error > allowed:
        taken = [*known[sizes]]
        made = np.stack([x[..., at, :] for x, at in zip(parts, taken, strict=True)])
    elif read is None and error > ALIKE:
        return None
    whole = tuple(taken) if len(taken) == len(parts) else ()
    counts = sorted({rows.shape[-2] for rows in parts})
    text = f"{' and '.join(map(str, counts))} rows of tokens for {computed.shape[-2]}"
    return KeptRows(text, made, lacks, sizes, whole)


def _by_image(
    replay: FollowedRun, recorded: np.ndarray, computed: np.ndarray
) -> list[np.ndarray] | None:
    """Return the rows of each image of the batch, (..., l, d); None if they are not tokens."""
    n, width = len(computed), computed.shape[-1]
    if recorded.ndim == computed.ndim:
        sizes = [(*x.shape[:-2], x.shape[-1]) for x in (recorded, computed)]
        return [*recorded] if sizes[0] == sizes[1] else None
    if n == 1 and recorded.ndim < computed.ndim:
        return _by_image(replay, recorded[None], computed)
    if recorded.ndim != 2 or computed.ndim != 3 or recorded.shape[-1] != width:
        return None
    mask: Any = replay.arguments.get(MASK)
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and len(mask) == n:
        lengths = np.count_nonzero(mask, axis=1)
        if lengths.sum() == len(recorded):  # the tokens of all texts, without padding
            return np.split(recorded, np.cumsum(lengths)[:-1])
    whole = len(recorded) % n == 0
    return [*recorded.reshape(n, -1, width)] if whole else None


def _read_rows(
    replay: FollowedRun, parts: list[np.ndarray], computed: np.ndarray
) -> np.ndarray | None:
    """Return which rows of a text (n, l) are read, if these are what a port has; None: others."""
    mask: Any = replay.arguments.get(MASK)
    if not isinstance(mask, np.ndarray) or mask.shape != (len(parts), computed.shape[-2]):
        return None
    counts = [rows.shape[-2] for rows in parts]
    return mask > 0 if counts == np.count_nonzero(mask, axis=1).tolist() else None


def _choose(
    rows: np.ndarray, expected: np.ndarray, allowed: float, padding: np.ndarray | None
) -> np.ndarray:
    """Return the indices of the expected rows among more, with others before, between or behind.

    Those with others between are the first that agree, and the rest from the end. Of no more rows
    than expected, all are. What rows of padding hold does not matter.
    """
    length, more = expected.shape[-2], rows.shape[-2] - expected.shape[-2]
    first = np.arange(min(length, rows.shape[-2]))
    if more <= 0:
        return first
    scale = max(float(np.max(np.abs(expected))), float(np.finfo(np.float64).tiny))
    known = np.ones(expected.shape[:-1], bool) if padding is None else ~padding

    def take(indices: np.ndarray) -> np.ndarray:
        return np.where(known[..., None], rows[..., indices, :], expected)

    apart = np.abs(take(first) - expected) / scale
    axes = tuple(axis for axis in range(apart.ndim) if axis != apart.ndim - 2)
    agree = np.max(apart, axis=axes) <= allowed
    head = length if agree.all() else int(np.argmin(agree))
    joined = np.where(first < head, first, first + more)
    tried = (joined, first, first + more, first + find_begin(rows, expected, padding))
    return min(tried, key=lambda indices: relative_error(take(indices), expected))


def find_begin(rows: np.ndarray, expected: np.ndarray, padding: np.ndarray | None = None) -> int:
    """Return where the expected rows begin among more of them, by some that are compared.

    Args:
        rows: The rows, (..., l, d).
        expected: Those that are looked for, (..., m, d) of at most as many.
        padding: Those of them that are not compared, (..., m). None: all are.
    """
    length = expected.shape[-2]
    begins = rows.shape[-2] - length + 1
    apart = np.zeros(begins)
    for k in np.unique(np.linspace(0, length - 1, COMPARED).astype(int)):
        moved = np.abs(rows[..., k : k + begins, :] - expected[..., k : k + 1, :])
        if padding is not None:
            moved = np.where(padding[..., k : k + 1, None], 0.0, moved)
        apart += np.moveaxis(moved, -2, 0).reshape(begins, -1).max(axis=1)
    return int(np.argmin(apart))


def keep_rows(recorded: np.ndarray, computed: np.ndarray) -> KeptRows:
    """Return rows of which a port left out some at one place.

    Args:
        recorded: The rows of each image, (n, ..., l, d).
        computed: What ldmref has, (n, ..., m, d) of at least as many.
    """
    pairs = [_place(x, y) for x, y in zip(recorded, computed, strict=True)]
    made, lacks = (np.stack(parts) for parts in zip(*pairs, strict=True))
    return KeptRows(f"{recorded.shape[-2]} rows of tokens for {computed.shape[-2]}", made, lacks)


def _place(rows: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (..., m, d) with fewer recorded ones in their places, and those that these lack.

    The first rows are those before the gap, and the rest are the last of the expected ones.
    """
    count, length = rows.shape[-2], expected.shape[-2]
    gap = length - count
    scale = max(float(np.max(np.abs(expected))), float(np.finfo(np.float64).tiny))
    axes = tuple(axis for axis in range(rows.ndim) if axis != rows.ndim - 2)
    before = np.max(np.abs(rows - expected[..., :count, :]), axis=axes) / scale
    behind = np.max(np.abs(rows - expected[..., gap:, :]), axis=axes) / scale
    costs = np.concatenate([[0.0], np.cumsum(before)])
    costs += np.concatenate([np.cumsum(behind[::-1])[::-1], [0.0]])
    head = count - int(np.argmin(costs[::-1]))  # the last of equals: rows are lacking at the end
    made, lacks = expected.copy(), np.zeros(expected.shape[:-1], bool)
    made[..., :head, :], made[..., gap + head :, :] = rows[..., :head, :], rows[..., head:, :]
    lacks[..., head : gap + head] = True
    return made, lacks
