"""One row of the key tables in `keys.py`: where one of our tensors lies in a CompVis file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """Where one of our tensors is in a CompVis file: `name`, and how it lies there.

    `third`: which of query (0), key (1) and value (2) it is, where they are stacked along the first
    axis; with several `heads`, query, key and value of the first head come first, then those of
    the next (QKVAttentionLegacy). `form`: "" as ours, "conv1d" or "conv" with one or two trailing
    axes of length 1, or "transposed"; `shape`: ours.
    """

    name: str
    shape: Shape
    third: int | None = None
    form: str = ""
    heads: int = 1

    @property
    def stored_shape(self) -> Shape:
        """The shape in the CompVis file."""
        shape = self.shape if self.third is None else (3 * self.shape[0], *self.shape[1:])
        forms = {"conv1d": (*shape, 1), "conv": (*shape, 1, 1), "transposed": shape[::-1]}
        return forms.get(self.form, shape)

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Our tensor from the stored one."""
        if self.form == "transposed":  # contiguous: else another BLAS routine, and other last bits
            return np.ascontiguousarray(stored.T)
        if self.third is None:
            return stored.reshape(self.shape)
        rows, rest = self.shape[0] // self.heads, self.shape[1:]
        return stored.reshape(self.heads, 3, rows, *rest)[:, self.third].reshape(self.shape)


def stored_shapes(table: Mapping[str, Entry]) -> dict[str, Shape]:
    """Names and shapes of a file that a table describes."""
    return {entry.name: entry.stored_shape for entry in table.values()}


def as_stored(shapes: Mapping[str, Shape], table: Mapping[str, Entry]) -> dict[str, Shape]:
    """The shapes of a file, with matrices that some programs store as such in place of the
    convolutions of size 1 that the table has."""
    want = {e.name: e.stored_shape for e in table.values() if e.form.startswith("conv")}
    return {
        name: want[name] if name in want and bare(shape) == bare(want[name]) else shape
        for name, shape in shapes.items()
    }


def bare(shape: Shape) -> Shape:
    """A shape without its trailing axes of length 1."""
    while shape[-1:] == (1,):
        shape = shape[:-1]
    return shape


def stack(parts: Iterable[tuple[Entry, np.ndarray]]) -> np.ndarray:
    """The tensor that holds these of ours: one, or query, key and value in any order."""
    found = sorted(parts, key=lambda part: part[0].third or 0)
    entry, tensor = found[0]
    if entry.third is None:
        return tensor.T if entry.form == "transposed" else tensor.reshape(entry.stored_shape)
    rows, rest = entry.shape[0] // entry.heads, entry.shape[1:]
    thirds = [tensor.reshape(entry.heads, rows, *rest) for _, tensor in found]
    return np.stack(thirds, axis=1).reshape(entry.stored_shape)


def prefixed(ours: str, theirs: str, table: Mapping[str, Entry]) -> dict[str, Entry]:
    """The table with a prefix before our names and one before theirs."""
    return {ours + n: replace(e, name=theirs + e.name) for n, e in table.items()}


def spread(blocks: Iterable[tuple[str, str]], shapes: Mapping[str, Shape]) -> dict[str, Entry]:
    """Every tensor below the given (our prefix, their prefix) pairs; the longest prefix wins."""
    theirs, table = dict(blocks), {}
    for name, shape in shapes.items():
        ours = name.rpartition(".")[0]
        while ours and ours not in theirs:
            ours = ours.rpartition(".")[0]
        table[name] = Entry(theirs[ours] + name[len(ours) :], shape)
    return table
