"""Key tables: for each tensor of a network, its name and layout in a checkpoint format.

A table has one entry per tensor and is a bijection. It is built from the configuration by exact
names (`key_table`), never by rewriting the names of a file, so a file either fits a table, tensor
by tensor, or is refused with a report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np

from ldmref.io.key_report import KeyReport, compare
from ldmref.models.params import Shape
from ldmref.support.deferred import DeferredArray

Config = TypeVar("Config")
ONE_BY_ONE = {"matrix": (), "conv1d": (1,), "conv": (1, 1)}  # form -> trailing axes


@dataclass(frozen=True)
class KeyEntry:
    """Name and layout of one tensor in a checkpoint.

    Attributes:
        name: The name in the checkpoint.
        shape: Our shape.
        third: Query (0), key (1) or value (2), if the three are stacked along the first axis. None:
            they are not.
        form: "" for our layout; "matrix", "conv1d" or "conv" for a matrix with no, one or two
            trailing axes of length 1, each of which is accepted for the others; "transposed";
            "swapped", if the halves of the first axis are exchanged; or "flat", of one axis.
        heads: With several heads the stack is interleaved: query, key and value of the first head,
            then of the next (QKVAttentionLegacy).
        rows: The first row and the number of all rows, if the tensor is a part of another that
            stacks several, which may have different heights, along the first axis. None: it is
            not.
        frames: The number of frames of a causal kernel (out, in, frames, height, width), of which
            ours is the last one: an image sees no other. Written, the others are zero. 0: it has no
            frames.

    >>> KeyEntry("attn.qkv.weight", (8, 8), third=1).stored_shape
    (24, 8)
    >>> KeyEntry("linear1.weight", (32, 8), rows=(24, 56)).stored_shape
    (56, 8)
    >>> KeyEntry("conv_in.weight", (8, 3, 3, 3), frames=3).stored_shape
    (8, 3, 3, 3, 3)
    >>> KeyEntry("mod.lin", (6, 8), form="flat").stored_shape
    (48,)
    """

    name: str
    shape: Shape
    third: int | None = None
    form: str = ""
    heads: int = 1
    rows: tuple[int, int] | None = None
    frames: int = 0

    @property
    def stored_shape(self) -> Shape:
        """The shape in the checkpoint."""
        if self.rows is not None:
            return (self.rows[1], *self.shape[1:])
        if self.frames:
            return (*self.shape[:2], self.frames, *self.shape[2:])
        if self.form == "flat":
            return (math.prod(self.shape),)
        shape = self.shape if self.third is None else (3 * self.shape[0], *self.shape[1:])
        return shape[::-1] if self.form == "transposed" else shape + ONE_BY_ONE.get(self.form, ())

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Return our tensor from the stored one.

        Args:
            stored: The tensor of the checkpoint, whose shape is `stored_shape`, apart from axes of
                length 1.

        Returns:
            Our tensor, whose shape is `shape`; deferred, if the stored one is.
        """
        if isinstance(stored, DeferredArray):
            return cast(np.ndarray, stored.then(self.read, self.shape))
        stored = stored.reshape(self.stored_shape)
        if self.rows is not None:
            return stored[self.rows[0] : self.rows[0] + self.shape[0]]
        if self.frames:
            return np.ascontiguousarray(stored[:, :, -1])
        if self.form == "transposed":  # contiguous, as another BLAS routine has other last bits
            return np.ascontiguousarray(stored.T)
        if self.form == "swapped":
            return _swap_halves(stored)
        if self.third is None:
            return stored.reshape(self.shape)
        rows = self.shape[0] // self.heads
        stack = stored.reshape(self.heads, 3, rows, *self.shape[1:])
        return stack[:, self.third].reshape(self.shape)


KeyTable = Mapping[str, KeyEntry]  # our name -> entry


def key_table(
    shapes: Mapping[str, Shape], blocks: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> dict[str, KeyEntry]:
    """Build a table from exact pairs of paths (ours -> theirs).

    Args:
        shapes: The shape of every tensor of the network.
        blocks: Paths of blocks or tensors. The longest path that contains a tensor counts; ""
            contains all.
        modules: Paths within a block, of modules or tensors, that differ.

    Raises:
        KeyError: No block contains a tensor.
    """
    modules = modules or {}
    table = {}
    for name, shape in shapes.items():
        block = name
        while block not in blocks:
            if not block:
                raise KeyError(name)
            block = block.rpartition(".")[0]
        inner = name.removeprefix(block).removeprefix(".")
        module, _, leaf = inner.rpartition(".")
        path = (modules[inner],) if inner in modules else (modules.get(module, module), leaf)
        table[name] = KeyEntry(".".join(filter(None, (blocks[block], *path))), shape)
    return table


def add_prefixes(ours: str, theirs: str, table: KeyTable) -> dict[str, KeyEntry]:
    """Return the table with a prefix before our names and one before theirs."""
    return {ours + n: replace(e, name=theirs + e.name) for n, e in table.items()}


def with_attention_form(table: KeyTable, form: str) -> dict[str, KeyEntry]:
    """Return the table with the matrices of attention layers stored in another form."""
    return {
        name: replace(entry, form=form)
        if ".attentions." in name and ".to_" in name and len(entry.shape) == 2
        else entry
        for name, entry in table.items()
    }


def list_stored_shapes(table: KeyTable) -> dict[str, Shape]:
    """Return names and shapes of the file that a table describes."""
    return {entry.name: entry.stored_shape for entry in table.values()}


def fit(
    shapes: Mapping[str, Shape],
    table: KeyTable,
    ignorable: Collection[str] = (),
    squeezed: bool = False,
) -> KeyReport:
    """Compare the shapes of a file with a table.

    Args:
        shapes: Names and shapes of the file.
        table: The table.
        ignorable: Names that may be present although the table lacks them.
        squeezed: Whether the file may lack any axes of length 1; see `ModelFile`.
    """
    have = dict(shapes)
    for entry in table.values():
        if entry.name not in have or not (squeezed or entry.form in ONE_BY_ONE):
            continue
        want = entry.stored_shape
        bare = _squeeze if squeezed else _bare
        if bare(have[entry.name]) == bare(want):
            have[entry.name] = want
    return compare(have, list_stored_shapes(table), ignorable)


def find_matching(pattern: str, names: Iterable[str]) -> set[str]:
    """Return the names that a pattern matches in full."""
    fullmatch = re.compile(pattern).fullmatch
    return {name for name in names if fullmatch(name)}


def _bare(shape: Shape) -> Shape:
    """Return the shape without trailing axes of length 1."""
    while shape[-1:] == (1,):
        shape = shape[:-1]
    return shape


def _squeeze(shape: Shape) -> Shape:
    """Return the shape without axes of length 1."""
    return tuple(size for size in shape if size != 1)


def find_first_fit(
    shapes: Mapping[str, Shape],
    candidates: Iterable[tuple[Config, KeyTable]],
    what: str,
    hint: str = "",
    ignorable: Collection[str] = (),
) -> tuple[Config, KeyTable]:
    """Return the first candidate that a file fits.

    Raises:
        KeyMismatchError: No candidate fits. The message begins with `what` and lists the problems
            with the nearest one.
    """
    reports = []
    for config, table in candidates:
        reports.append(fit(shapes, table, ignorable))
        if reports[-1].fits:
            return config, table
    max(reports, key=lambda report: report.likeness).require(what, hint)
    raise AssertionError("one of the reports fits")


# -- tensors --------------------------------------------------------------------------------------


def to_native(tensors: Mapping[str, np.ndarray], table: KeyTable) -> dict[str, np.ndarray]:
    """Return our tensors from those of a checkpoint."""
    stored = {name: tensors[name] for name in {entry.name for entry in table.values()}}
    return {name: entry.read(stored[entry.name]) for name, entry in table.items()}


def to_compvis(flat: Mapping[str, np.ndarray], table: KeyTable) -> dict[str, np.ndarray]:
    """Return the tensors of a checkpoint from ours; the inverse of `to_native`."""
    members: dict[str, list[tuple[KeyEntry, np.ndarray]]] = {}
    for name, entry in table.items():
        members.setdefault(entry.name, []).append((entry, np.asarray(flat[name])))
    return {name: np.ascontiguousarray(_stack(tensors)) for name, tensors in members.items()}


def _stack(members: Iterable[tuple[KeyEntry, np.ndarray]]) -> np.ndarray:
    """Return the stored tensor of one entry, or of the parts of a stack in any order."""
    ordered = sorted(members, key=lambda member: (member[0].third or 0, member[0].rows or ()))
    entry, tensor = ordered[0]
    if entry.rows is not None:
        return np.concatenate([part for _, part in ordered])
    if entry.form == "swapped":
        return _swap_halves(tensor)
    if entry.frames:
        stored = np.zeros(entry.stored_shape, tensor.dtype)
        stored[:, :, -1] = tensor
        return stored
    if entry.third is None:
        return tensor.T if entry.form == "transposed" else tensor.reshape(entry.stored_shape)
    rows = entry.shape[0] // entry.heads
    rest = entry.shape[1:]
    thirds = [t.reshape(entry.heads, rows, *rest) for _, t in ordered]
    return np.stack(thirds, axis=1).reshape(entry.stored_shape)


def _swap_halves(x: np.ndarray) -> np.ndarray:
    """Return an array with the second half of its first axis before the first."""
    half = len(x) // 2
    return np.concatenate([x[half:], x[:half]])
