"""A recorded run under the names of a run of ldmref, in whose coordinates it has its arrays.

Another program calls the same arrays otherwise, splits a batch into other calls, or scales its
states. A table of parts says which array is made of which; it has no formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ldmref.locate.run.calls import INPUT, ArrayName
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace.calls import REQUESTED, TraceCall
from ldmref.trace.model import Trace, TraceEntry, tensor_name

Known = TypeVar("Known")
CLEARLY = 4  # times less is the error of a text whose padding is elsewhere than its mask says
SAME_TEXT = 0.05  # relative error of a text that was rounded to a narrow format
ChangeArray = Callable[[np.ndarray], np.ndarray]
ReadArray = Callable[[ArrayName], np.ndarray | None]


class ArrayPart(NamedTuple):
    """An array, or rows of one, of which another is made.

    Attributes:
        name: Its name.
        rows: The rows that are taken. None: all.
        factor: By which it is multiplied.
        channels: How many channels are taken, (n, c, ...). None: all.
    """

    name: ArrayName
    rows: slice | None = None
    factor: float = 1.0
    channels: int | None = None

    def taken(self, read: ReadArray) -> np.ndarray | None:
        """Return the part of the array that `read` returns; None if there is none."""
        x = read(self.name)
        if x is None:
            return None
        if self.rows is not None:
            x = np.atleast_1d(x)[self.rows]
            if len(x) < self.rows.stop - self.rows.start:
                return None
        if self.channels is not None and np.ndim(x) > 1:
            x = x[:, : self.channels]
        return x if self.factor == 1.0 else self.factor * np.asarray(x, np.float64)


ArrayParts = tuple[ArrayPart, ...]


def join_parts(parts: ArrayParts, read: ReadArray) -> np.ndarray | None:
    """Return the array that is made of parts, one after the other; None if one is missing.

    Args:
        parts: The parts.
        read: Returns an array by its name.

    >>> name = ArrayName("unet.000/", "input", "sample")
    >>> parts = (ArrayPart(name, slice(1, 2)), ArrayPart(name, slice(0, 1), 2.0))
    >>> join_parts(parts, lambda name: np.array([1.0, 3.0]))
    array([3., 2.])
    """
    found = [part.taken(read) for part in parts]
    if len(found) == 1:
        return found[0]
    known = [x for x in found if x is not None]
    same = len({x.shape[1:] for x in known}) == 1
    return np.concatenate(known) if len(known) == len(found) and same else None


@dataclass
class RunView:
    """Which arrays of a recorded run are those of a run of ldmref, and the reverse.

    Attributes:
        port: The recorded run.
        request: The parameters of the run of ldmref, as one records them.
        arrays: The arrays of its request, by parameter.
        own: The arrays of the run of ldmref, of recorded ones.
        recorded: The recorded arrays, of those of the run of ldmref.
        numbers: Recorded numbers that no call of ldmref has, by what they should be.
        least: The relative errors that are allowed at least of recorded arrays.
        nearest: The absolute errors that are allowed, of times that may be almost 0.
        masks: Of texts (n, l, d), their masks (n, l): of padding, nothing is read. A program that
            has no mask reads all of its shorter texts.
        changed: Of recorded arrays, what the program makes of those of the run.
        unread: Of recorded arrays, where nothing reads them: 1 there, 0 elsewhere.
        changeable: Arrays that a callback of the program may have changed, and what rows say then.
        assumed: Arrays from which the request was read, so that they say nothing, and why.
        silent: What is returned by networks that the program does not call, since nothing reads it.
    """

    port: Trace
    request: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    own: dict[ArrayName, ArrayParts] = field(default_factory=dict)
    recorded: dict[ArrayName, ArrayParts] = field(default_factory=dict)
    numbers: dict[ArrayName, np.ndarray] = field(default_factory=dict)
    least: dict[ArrayName, float] = field(default_factory=dict)
    nearest: dict[ArrayName, float] = field(default_factory=dict)
    masks: dict[ArrayName, ArrayName] = field(default_factory=dict)
    changed: dict[ArrayName, ChangeArray] = field(default_factory=dict)
    unread: dict[ArrayName, np.ndarray] = field(default_factory=dict)
    changeable: dict[ArrayName, str] = field(default_factory=dict)
    assumed: dict[ArrayName, str] = field(default_factory=dict)
    silent: dict[ArrayName, np.ndarray] = field(default_factory=dict)

    def pair(self, own: ArrayName, recorded: ArrayName, factor: float = 1.0) -> None:
        """Note that two arrays are the same: the recorded one, times a factor, is ldmref's."""
        if recorded.tensor_name_in(self.port) is not None:
            self.own[own] = (ArrayPart(recorded, None, factor),)
            self.recorded[recorded] = (ArrayPart(own, None, 1.0 / factor),)

    def own_name(self, recorded: ArrayName) -> ArrayName | None:
        """Return the array of the run of ldmref that a recorded one is; None: it is of several."""
        names = {part.name for part in self.recorded.get(recorded, ())}
        return names.pop() if len(names) == 1 else None

    def as_recorded_names(self, known: Mapping[ArrayName, Known]) -> dict[ArrayName, Known]:
        """Return what is known of arrays of the run, by the names of the recorded arrays."""
        return {
            name: known[part.name]
            for name, parts in self.recorded.items()
            for part in parts
            if part.name in known
        }

    def trace(self) -> Trace:
        """Return the trace that ldmref would have recorded, whose arrays are read when needed."""
        roles: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        sources: dict[str, ArrayParts | np.ndarray] = {}
        requested = {ArrayName(f"{REQUESTED}/", INPUT, k): x for k, x in self.arrays.items()}
        known: dict[ArrayName, ArrayParts | np.ndarray] = {**self.own, **self.silent, **requested}
        for name, source in known.items():
            call, layer = name.entry.split("/", 1)
            tensor = tensor_name(call, layer, name.side, name.role)
            inputs, outputs = roles.setdefault(name.entry, ({}, {}))
            (inputs if name.side == INPUT else outputs)[name.role] = tensor
            sources[tensor] = source
        entries = (
            TraceEntry(TraceCall(entry.split("/", 1)[0]), entry.split("/", 1)[1], *sides)
            for entry, sides in roles.items()
        )
        manifest = {**self.port.manifest, "params": dict(self.request)}
        tensors = ViewedArrays(self.port, sources)
        return replace(self.port, tensors=tensors, entries=tuple(entries), manifest=manifest)

    def as_recorded(self, computed: Mapping[ArrayName, np.ndarray]) -> dict[ArrayName, np.ndarray]:
        """Return what a run computed, by the names of the recorded arrays."""
        found = {}
        for name, parts in self.recorded.items():
            x, recorded = join_parts(parts, computed.get), name.tensor_in(self.port)
            if x is not None and recorded is not None:
                x = self.changed.get(name, np.asarray)(x)
                same = x.size == recorded.size and min(x.ndim, recorded.ndim) < 2
                found[name] = np.reshape(x, recorded.shape) if same else x
        numbers = self.numbers.items()
        found |= {k: x for k, x in numbers if k.tensor_name_in(self.port) is not None}
        for text, mask in self.masks.items():
            got, kept = text.tensor_in(self.port), join_parts(self.recorded[mask], computed.get)
            if text in found and got is not None and kept is not None:
                there = mask.tensor_in(self.port)
                found[text], kept = place_text(found[text], kept, got, there)
                if mask in found:
                    found[mask] = kept
        for name, there in self.unread.items():
            got = name.tensor_in(self.port)
            if name in found and got is not None and got.shape == found[name].shape:
                found[name] = np.where(there != 0, got, found[name])
        for name, allowed in self.nearest.items():
            got = name.tensor_in(self.port)
            if name in found and got is not None and got.shape == found[name].shape:
                found[name] = np.where(np.abs(found[name] - got) <= allowed, got, found[name])
        return found


def place_text(
    x: np.ndarray, mask: np.ndarray, recorded: np.ndarray, recorded_mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a text and its mask with padding where, and as, a recorded text has it.

    A program may fill up a text before it, after it, or before the end of its template. Where it
    does, the text itself says best: its mask may be wrong.

    Args:
        x: The text, (n, l, d).
        mask: (n, l), 0 for padding.
        recorded: The recorded text, (n, m, d).
        recorded_mask: (n, m), 0 for padding. None: the program has no mask and reads the whole
            text, so its padding is that of `x`.

    Returns:
        (n, m, d) and (n, m); as they were if that would leave out tokens.

    >>> recorded = np.array([[[2.0], [9.0], [3.0]]])
    >>> args = np.array([[[2.0], [3.0]]]), np.array([[1, 1]]), recorded, np.array([[1, 1, 0]])
    >>> text, mask = place_text(*args)
    >>> text.ravel(), mask
    (array([2., 9., 3.]), array([[1, 0, 1]]))
    """
    if x.shape[:2] != mask.shape or recorded.ndim != 3 or x.ndim != 3 or len(recorded) != len(x):
        return x, mask
    n = recorded.shape[1]
    if recorded_mask is None:
        if mask[:, n:].any():
            return x, mask
        more = max(n - x.shape[1], 0)
        x, mask = x[:, :n], mask[:, :n]
        return np.pad(x, [(0, 0), (0, more), (0, 0)]), np.pad(mask, [(0, 0), (0, more)])
    real = mask != 0
    if real.sum(axis=1).max() > n or x.shape[2:] != recorded.shape[2:]:
        return x, mask
    seen = recorded_mask.reshape(len(x), -1) != 0 if recorded_mask.size == len(x) * n else None
    placed, shown = np.array(recorded, x.dtype), np.zeros((len(x), n), mask.dtype)
    for i, text in enumerate(x):
        kept = text[real[i]]
        before = _choose_place(kept, recorded, seen, i)
        after = n - len(kept) + before
        placed[i, :before], placed[i, after:] = kept[:before], kept[before:]
        shown[i, :before] = shown[i, after:] = 1
    return placed, shown


def _choose_place(text: np.ndarray, recorded: np.ndarray, seen: np.ndarray | None, row: int) -> int:
    """Return how many tokens of a text (k, d) stand before the padding of a row, of (n, m, d).

    Where its own row has other tokens, a row that has them may say it: texts were exchanged.
    """
    own, fits = _tokens_before_padding(text, recorded[row], None if seen is None else seen[row])
    for other in () if fits else np.delete(np.arange(len(recorded)), row):
        mask = None if seen is None else seen[other]
        before, found = _tokens_before_padding(text, recorded[other], mask)
        if found:
            return before
    return own


def _tokens_before_padding(
    text: np.ndarray, recorded: np.ndarray, seen: np.ndarray | None
) -> tuple[int, bool]:
    """Return how many tokens of a text (k, d) stand before the padding of one (m, d).

    By its mask `seen` (m,), unless the tokens are clearly those of another place. The second value
    tells whether the tokens there are those of the text.
    """
    k, m = len(text), len(recorded)
    first = k if seen is None or seen.all() else int(np.argmin(seen))
    fits = seen is not None and seen.sum() == k and seen[m - k + first :].all()
    said = first if fits and first <= k else k
    if not k or not (np.isfinite(recorded).all() and np.isfinite(text).all()):
        return said, True
    apart = [np.abs(x - text).reshape(k, -1).max(axis=1) for x in (recorded[:k], recorded[m - k :])]
    zero = np.zeros(1)
    until = np.concatenate([zero, np.maximum.accumulate(apart[0])])
    since = np.concatenate([np.maximum.accumulate(apart[1][::-1])[::-1], zero])
    errors = np.maximum(until, since)
    best = int(np.argmin(errors))
    before = best if errors[best] < errors[said] / CLEARLY else said
    return before, bool(errors[before] <= SAME_TEXT * np.abs(text).max())


class ViewedArrays(LazyMapping[np.ndarray]):
    """The arrays of a view by tensor name, each made when it is read.

    Args:
        port: The recorded run.
        sources: Parts of its arrays, or an array, by tensor name.
    """

    def __init__(self, port: Trace, sources: Mapping[str, ArrayParts | np.ndarray]):
        self.port = port
        self.sources = sources
        self._recorded = [name for name, source in sources.items() if self._was_recorded(source)]

    def __getitem__(self, name: str) -> np.ndarray:
        source = self.sources[name]
        if not isinstance(source, tuple):
            return source
        found = join_parts(source, lambda part: part.tensor_in(self.port))
        if found is None:
            raise KeyError(name)
        return found

    @property
    def names(self) -> Collection[str]:
        """The tensors of which all parts were recorded."""
        return self._recorded

    def _was_recorded(self, source: ArrayParts | np.ndarray) -> bool:
        parts = source if isinstance(source, tuple) else ()
        return all(part.name.tensor_name_in(self.port) is not None for part in parts)
