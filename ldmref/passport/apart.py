"""A port's batches taken apart: each row of its calls beside the row of the kit, without padding.

A result of a model is defined for one image and one text at a time, so a row is judged as a call by
itself. Rows of `transformer.000` are the calls `transformer.000` and `transformer.000.1`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ldmref.errors import counted
from ldmref.locate.findings import EQUAL, NOISY, Row
from ldmref.locate.recorded.layouts import shrinkage
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import family_of
from ldmref.passport.batches import (
    CallRow,
    RowMatch,
    Window,
    batch_of,
    is_as_in_kit,
    match_host_rows,
    match_rows,
    rows_of,
)
from ldmref.passport.recorded import POSITIONS
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, tensor_name

APART = "the rows of {} are judged one by one, as the kit has each image and text alone"
PADDING = "{} of padding in {} not compared"
SCHEDULE, STEP = "schedule", "sampler"
# arrays whose last axis counts tokens, although they are floats
OF_KEYS = re.compile("mask|bias|hidden|seen")
OF_CALLS = ("evaluations", "prompt")  # attributes that name calls, or the text of each row
NO_ROW = "{} not of the kit's run: {}"
ROW = "row {} of the port's {}"
CutArray = Callable[[TraceEntry, str, str, np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class RowsApart:
    """A port and a kit whose calls have one row each.

    Attributes:
        port: The port's rows, under the names of the kit's.
        host: What the port's host computed, in the kit's calls.
        kit: The kit's rows that the port has.
        matches: The rows by the name of their call.
        notes: What was taken apart, and left out.
        gaps: Rows that are not compared.
        renamed: The port's names of layers that have other ones in the kit, by its call and these.
    """

    port: Trace = field(repr=False)
    kit: Trace = field(repr=False)
    host: Trace = field(repr=False)
    matches: Mapping[str, RowMatch] = field(repr=False)
    notes: tuple[str, ...]
    gaps: tuple[str, ...]
    renamed: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False)

    def rename(self, row: Row) -> Row:
        """Return a row of a report under the name of the kit's call, with the port's if wrong."""
        match = self.matches.get(row.call)
        if match is None:
            return row
        where = ROW.format(match.port.row, match.port.call)
        if row.verdict not in (EQUAL, NOISY):
            row = replace(row, note="; ".join(filter(None, (row.note, where))))
        return replace(row, call=str(match.kit.call))

    def whole(self, names: Collection[str], run: Trace) -> set[str]:
        """Return the nodes of a kit of which all rows are named, `CALL/LAYER`.

        Args:
            names: The nodes of rows, and of what the host computes.
            run: The kit's run.
        """
        rows: dict[str, set[int]] = {}
        for call, match in self.matches.items():
            for entry in self.kit.of_call(call):
                found = rows.setdefault(f"{match.kit.call}/{entry.layer}", set())
                found |= {match.kit.row} if entry.name in names else set()
        host = {entry.name for entry in self.host.entries if entry.call.is_host}
        kept = [e.name for e in self.kit.entries if e.call not in self.matches]
        host |= {name for name in kept if name in names}
        whole = {
            entry.name
            for entry in run.entries
            if len(rows.get(entry.name, ())) >= max(batch_of(run, entry.call), 1)
        }
        return whole | host

    def floors(self, floors: Mapping[str, float], run: Trace) -> dict[str, float]:
        """Return the floors of rows, which are relative to their own largest value.

        Args:
            floors: Those of the kit's calls, by the name of the tensor.
            run: The kit's run.
        """
        found = {}
        for entry in self.kit.entries:
            match = self.matches.get(entry.call)
            source = run.find(entry.call if match is None else match.kit.call, entry.layer)
            if source is None:
                continue
            sides = (
                ("input", source.inputs, entry.inputs),
                ("output", source.outputs, entry.outputs),
            )
            for side, of_run, of_row in sides:
                for role, name in of_run.items():
                    floor = floors.get(tensor_name(source.call, entry.layer, side, role))
                    if floor is not None:
                        whole, own = run.tensors[name], self.kit.tensors[of_row[role]]
                        key = tensor_name(entry.call, entry.layer, side, role)
                        found[key] = floor * max(shrinkage(whole, own), 1.0)
        return found


def take_apart(
    port: Trace, kit: Trace, config: ModelConfig, size: tuple[int, int]
) -> RowsApart | None:
    """Take the batches of a port apart; return None if its calls and rows are those of a kit.

    Args:
        port: The port's run.
        kit: The kit's run.
        config: The configuration of the kit's model.
        size: Width and height of its images.
    """
    family = family_of(config)
    networks = {network.name: network for network in family.networks(config)}
    matches: dict[str, list[RowMatch]] = {}
    for name, network in networks.items():
        # padding to a fixed length is read by the denoiser, so an encoder's states of it count
        of_encoder = 0 if family.text.reads_padding else min(family.text.multiple, 1)
        multiple = of_encoder if network.reads_tokens else family.text.multiple
        matches[name] = match_rows(kit, port, network, multiple)
    if all(map(is_as_in_kit, matches.values())):
        return None
    image = config.count_tokens(*size) if config.denoiser.token_side else 0
    of_port, of_kit = RowCutter(port, image, True), RowCutter(kit, image, False)
    named: dict[str, RowMatch] = {}
    for name, found in matches.items():
        for call, match in name_rows(found):
            named[call] = match
            for cutter in (of_port, of_kit):
                cutter.add(call, match, networks[name])
    notes, gaps = describe_rows(port, matches)
    host = join_rows(port, kit, [m for found in matches.values() for m in found])
    sides = of_port.trace(), of_kit.trace()
    return RowsApart(sides[0], sides[1], host, named, tuple(notes), tuple(gaps))


def name_rows(matches: Iterable[RowMatch]) -> Iterator[tuple[str, RowMatch]]:
    """Yield rows with the names of their calls: `transformer.000`, `transformer.000.1`.

    The repetition of a row counts on behind the kit's rows.
    """
    found = sorted(matches, key=lambda m: (m.kit, m.port))
    rows: dict[TraceCall, int] = {}
    for match in found:
        rows[match.kit.call] = max(rows.get(match.kit.call, 0), match.kit.row + 1)
    seen: set[CallRow] = set()
    for match in found:
        call, number = match.kit
        if match.kit in seen:
            number = rows[call]
            rows[call] += 1
        seen.add(match.kit)
        yield (f"{call}.{number}" if number else call), match


def describe_rows(
    port: Trace, matches: Mapping[str, Sequence[RowMatch]]
) -> tuple[list[str], list[str]]:
    """Return what was taken apart and left out in words, and which rows are not compared."""
    notes = []
    gaps = []
    for kind, found in matches.items():
        calls: dict[TraceCall, int] = {}
        for match in found:
            padding = 0 if match.of_port is None else match.of_port.padding
            calls[match.port.call] = calls.get(match.port.call, 0) + padding
        if any(batch_of(port, call) > 1 for call in calls):
            notes.append(APART.format(kind))
        notes += [PADDING.format(counted(n, "token"), call) for call, n in calls.items() if n]
        known = {match.port for match in found}
        rest = [f"{at.call} row {at.row}" for at in rows_of(port, kind) if at not in known]
        if rest:
            gaps.append(NO_ROW.format(counted(len(rest), "row"), ", ".join(rest[:3])))
    return notes, gaps


class CallCutter:
    """Builds a trace of what is cut of the calls of another.

    Args:
        source: The trace that is cut.
    """

    def __init__(self, source: Trace):
        self.source = source
        self.tensors: dict[str, np.ndarray] = {}
        self.kinds: dict[str, str] = {}
        self.entries: list[TraceEntry] = []

    def add_cut(self, call: str, source: TraceCall, cut: CutArray) -> list[TraceEntry]:
        """Add what is cut of a call as a call.

        Args:
            call: The name of the call.
            source: The call of the trace.
            cut: Returns of an entry, "input" or "output", a role and its array what is kept; None
                if that is not known, which leaves out the entry.

        Returns:
            The entries that were left out.
        """
        left_out = []
        for entry in self.source.of_call(source):
            sides: dict[str, dict[str, str]] = {}
            arrays: dict[str, np.ndarray | None] = {}
            keys: dict[str, str] = {}  # of arrays that have several roles, as what is read twice
            for side, roles in (("input", entry.inputs), ("output", entry.outputs)):
                found = sides.setdefault(side, {})
                for role, name in roles.items():
                    x = cut(entry, side, role, np.asarray(self.source.tensors[name]))
                    other = arrays.get(keys.get(name, ""))
                    if x is not None and other is not None and np.array_equal(x, other):
                        found[role] = keys[name]
                        continue
                    key = found[role] = keys[name] = tensor_name(call, entry.layer, side, role)
                    arrays[key] = x
                    if name in self.source.kinds:
                        self.kinds[key] = self.source.kinds[name]
            kept = {key: x for key, x in arrays.items() if x is not None}
            if len(kept) < len(arrays):
                left_out.append(entry)
                continue
            self.tensors |= kept
            inputs, outputs = sides["input"], sides["output"]
            self.entries.append(
                replace(entry, call=TraceCall(call), inputs=inputs, outputs=outputs)
            )
        return left_out

    def trace(self) -> Trace:
        """Return the trace of the rows."""
        manifest = self.source.manifest
        return Trace(self.tensors, tuple(self.entries), manifest, self.kinds, self.source.source)


class RowCutter(CallCutter):
    """Builds a trace of single rows.

    Args:
        trace: The trace with batches.
        image: The number of tokens of an image.
        of_port: Whether it is the port's trace; else the kit's.
    """

    def __init__(self, trace: Trace, image: int, of_port: bool):
        super().__init__(trace)
        self.image = image
        self.of_port = of_port

    def add(self, call: str, match: RowMatch, network: DeclaredNetwork) -> None:
        """Add a row as a call.

        Args:
            call: The name of the call.
            match: The row.
            network: The network that computes it.
        """
        at, window = (match.port, match.of_port) if self.of_port else (match.kit, match.of_kit)
        batch = batch_of(self.source, at.call)
        windows = {} if window is None else self._windows(window, network)
        counts = {math.prod(x.shape[1:]) for x in network.inputs if x.content == "sizes"}
        counts |= set() if window is None else {window.of}

        def cut(entry: TraceEntry, side: str, role: str, array: np.ndarray) -> np.ndarray:
            if array.ndim and len(array) > batch and len(array) / batch in counts:
                return _cut_flat(array, at.row, batch, windows)
            return _cut(array, at.row, batch, windows, role)

        self.add_cut(call, at.call, cut)

    def _windows(self, window: Window, network: DeclaredNetwork) -> dict[int, np.ndarray]:
        """Return by the size of an axis which of its tokens are kept.

        An axis counts the tokens of the text alone, those of the image, or both.
        """
        text = np.asarray(window.rows)
        found = {self.image: np.arange(self.image), window.of: text}
        where = network.text_attention
        if where is not None and "image" in where.tokens:
            image = -(-self.image // where.multiple) * where.multiple
            start = where.find_starts(window.of + image, self.image)["text"]
            kept = np.ones(window.of + image, bool)
            kept[start : start + window.of] = False
            kept[start + text] = True
            found[len(kept)] = np.flatnonzero(kept)
        return found


def _cut_flat(x: np.ndarray, row: int, batch: int, windows: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return a row of an array (n k, ...), in which k parts of each row follow each other.

    SDXL's U-Net embeds the six sizes of all images of a batch as one list, and Krea 2 fuses the
    layers of all tokens of all texts as if each was a text.
    """
    count = len(x) // batch
    x = x[row * count : (row + 1) * count]
    return np.take(x, windows[count], 0) if count in windows else x


def _cut(
    x: np.ndarray, row: int, batch: int, windows: Mapping[int, np.ndarray], role: str
) -> np.ndarray:
    """Return a row of an array, without padding; arrays that all rows share stay whole.

    Times of the text are rows behind those of the image: one for all, or as many.
    """
    first = 0
    size = len(x) if x.ndim else 0
    times = x.ndim <= 2 and x.dtype.kind == "f" and size not in windows and role != POSITIONS
    if size == batch or (times and size == 2 * batch):
        x, first = x[row::batch], 1
    elif times and size == batch + 1:
        x, first = x[[row, batch]], 1
    axes = [axis for axis in range(first, x.ndim) if x.shape[axis] in windows]
    last = x.ndim - 1
    in_rows = first == 1 and x.ndim == 3  # (1, l, c)
    if x.dtype.kind == "f" and (axes == [last] or in_rows) and not OF_KEYS.search(role):
        axes = [axis for axis in axes if axis != last]  # channels, as many as tokens
    for axis in axes:
        x = np.take(x, windows[x.shape[axis]], axis)
    return x


def join_rows(port: Trace, kit: Trace, matches: Sequence[RowMatch]) -> Trace:
    """Return the calls of a kit, joined of the rows of a port, without their layers.

    What the host computes reads whole calls: guidance the two halves of one, a step its state.

    Args:
        port: The port's run.
        kit: The kit's run.
        matches: The rows of networks.
    """
    found = [*matches, *match_host_rows(kit, port)]
    rows: dict[TraceCall, dict[int, RowMatch]] = {}
    for match in found:
        rows.setdefault(match.kit.call, {}).setdefault(match.kit.row, match)
    tensors: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}
    entries = []
    for call in kit.calls:
        parts = [match for _, match in sorted(rows.get(call, {}).items())]
        whole, right = port.find(parts[0].port.call) if parts else None, kit.find(call)
        if whole is None or right is None or len(parts) < max(batch_of(kit, call), 1):
            continue
        sides = []
        for side, roles in (("input", whole.inputs), ("output", whole.outputs)):
            joined = {}
            for role, name in roles.items():
                array = _join(port, kit, parts, side, role)
                if array is not None:
                    key = joined[role] = tensor_name(call, "", side, role)
                    tensors[key] = array
                    kinds |= {key: port.kinds[name]} if name in port.kinds else {}
            sides.append(joined)
        attributes = dict(whole.attributes)
        attributes |= {
            k: x for k, x in right.attributes.items() if k in attributes and k in OF_CALLS
        }
        changed = {"inputs": sides[0], "outputs": sides[1], "attributes": attributes}
        entries.append(replace(whole, call=call, **changed))
    return Trace(tensors, tuple(entries), port.manifest, kinds, port.source)


def lacks_schedule(port: Trace) -> bool:
    """Return whether a port recorded steps, and not the schedule that they follow."""
    kinds = {call.kind for call in port.calls}
    return STEP in kinds and SCHEDULE not in kinds


def with_schedules(port: Trace, kit: Trace) -> tuple[Trace, frozenset[str]]:
    """Return a port whose steps follow the schedules of a kit, and the names of these.

    A schedule tells where the run of the next image begins. A port that has one keeps it.

    Args:
        port: The port's run, with the kit's calls.
        kit: The kit's run.
    """
    if not lacks_schedule(port):
        return port, frozenset()
    calls = {call: i for i, call in enumerate(kit.calls)}
    added = [entry for entry in kit.entries if entry.call.kind == SCHEDULE]
    entries = sorted([*port.entries, *added], key=lambda e: calls.get(e.call, len(calls)))
    names = [name for entry in added for name in entry.outputs.values()]
    tensors = {**port.tensors, **{name: kit.tensors[name] for name in names}}
    return replace(port, tensors=tensors, entries=tuple(entries)), frozenset(e.call for e in added)


def _join(
    port: Trace, kit: Trace, rows: Sequence[RowMatch], side: str, role: str
) -> np.ndarray | None:
    """Return the array of a role of some rows; None where one lacks it, or is of another size.

    Where padding is left out, the kit's is put in its place, so that it is equal and all rows have
    the kit's length.
    """
    found = []
    for match in rows:
        array, alone = _read_row(port, match.port, side, role)
        if array is None or not alone:
            return array
        ours, theirs = match.of_kit, match.of_port
        expected, _ = _read_row(kit, match.kit, side, role)
        if ours is not None and theirs is not None and expected is not None and ours != theirs:
            if array.shape[:1] == (theirs.of,) and expected.shape == (ours.of, *array.shape[1:]):
                kept = theirs.cut(array)
                array = expected.astype(array.dtype)
                array[list(ours.rows)] = kept
        found.append(array)
    shapes = {np.shape(x) for x in found}
    return np.stack(found) if len(shapes) == 1 else None


def _read_row(trace: Trace, at: CallRow, side: str, role: str) -> tuple[np.ndarray | None, bool]:
    """Return a row of an array of a whole call, and whether it is a row: the call may share it."""
    entry = trace.find(at.call)
    roles = {} if entry is None else entry.inputs if side == "input" else entry.outputs
    if role not in roles:
        return None, False
    array = np.asarray(trace.tensors[roles[role]])
    alone = array.ndim > 0 and len(array) == batch_of(trace, at.call)
    return (array[at.row] if alone else array), alone
