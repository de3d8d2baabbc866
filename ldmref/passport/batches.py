"""Which row of a port's calls is which row of a kit's calls.

A kit runs each prompt by itself, with and without guidance's negative in one call. A port may run
all prompts in one batch, in any order and with padding, or each half of guidance alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np

from ldmref.locate.law import GAIN
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.names import read_role
from ldmref.models.declared import CallSize, NetworkInput
from ldmref.ports.arguments import names_of
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

NEAR = 0.01  # mean error of the inputs of a row that is another one's again


class RowNetwork(Protocol):
    """A network whose inputs are declared: a declared one, or a module of a kit."""

    @property
    def name(self) -> str:
        """The name of its calls."""
        ...

    @property
    def inputs(self) -> tuple[NetworkInput, ...]:
        """The arrays of its calls that have a row for each image or text."""
        ...


@dataclass(frozen=True)
class Window:
    """Tokens of a text that are compared.

    Attributes:
        rows: Their numbers, increasing. Padding may stand between them.
        of: The number of all tokens.
    """

    rows: tuple[int, ...]
    of: int

    @property
    def start(self) -> int:
        """The number of the first token."""
        return self.rows[0] if self.rows else 0

    @property
    def padding(self) -> int:
        """The number of tokens that are left out."""
        return self.of - len(self.rows)

    def cut(self, x: np.ndarray) -> np.ndarray:
        """Return the tokens of an array of all, (of, ...)."""
        return x[list(self.rows)]


class CallRow(NamedTuple):
    """A row of a call: one image, or one text."""

    call: TraceCall
    row: int


@dataclass(frozen=True)
class RowMatch:
    """A row of a port that computes a row of a kit.

    Attributes:
        kit: The row of the kit.
        port: The row of the port.
        of_kit: The kit's tokens that are compared. None: the network reads no tokens.
        of_port: The port's.
    """

    kit: CallRow
    port: CallRow
    of_kit: Window | None = None
    of_port: Window | None = None


def rows_of(trace: Trace, kind: str) -> list[CallRow]:
    """Return the rows of all calls of a kind whose number is known, in their order."""
    return [
        CallRow(call, row)
        for call in trace.calls
        if call.kind == kind
        for row in range(batch_of(trace, call))
    ]


def batch_of(trace: Trace, call: TraceCall) -> int:
    """Return the number of rows of a call, by its output or else its first input; 0: unknown."""
    entry = trace.find(call)
    sides = () if entry is None else (entry.outputs, entry.inputs)
    shapes = [np.shape(trace.tensors[name]) for side in sides for name in side.values()]
    return next((shape[0] for shape in shapes if len(shape) > 1), 0)


# -- tokens ---------------------------------------------------------------------------------------


def tokens_axis(x: NetworkInput) -> int | None:
    """Return the axis of an input that counts the tokens of a text; None: it has none."""
    axes = [i for i, size in enumerate(x.shape) if isinstance(size, CallSize) and i]
    found = [i for i in axes if x.shape[i].of == "tokens"]  # type: ignore[union-attr]
    fixed = 1 if x.content in ("ids", "mask") and len(x.shape) > 1 else None
    return found[0] if found else fixed


class RowReader:
    """Reads the inputs of rows of a network's calls.

    Args:
        trace: The trace.
        network: The network.
    """

    def __init__(self, trace: Trace, network: RowNetwork):
        self.trace = trace
        self.network = network

    def read(self, at: CallRow, x: NetworkInput) -> np.ndarray | None:
        """Return an input of a row; None if it was not recorded."""
        entry = self.trace.find(at.call)
        names = names_of(self.network, x)
        arrays = () if entry is None else (self._role(entry, name) for name in names)
        array = next((a for a in arrays if a is not None and a.ndim), None)
        return None if array is None or len(array) <= at.row else array[at.row]

    def _role(self, entry: TraceEntry, name: str) -> np.ndarray | None:
        return read_role(self.trace, entry.inputs, name)

    def outputs(self, at: CallRow) -> list[np.ndarray]:
        """Return the outputs of a row."""
        entry = self.trace.find(at.call)
        arrays = [] if entry is None else [*self.trace.read_outputs(entry).values()]
        return [np.asarray(a)[at.row] for a in arrays if np.ndim(a) and len(a) > at.row]

    def text(self, at: CallRow) -> np.ndarray | None:
        """Return the first input of a row that has tokens, (l,) or (l, c)."""
        for x in self.network.inputs:
            if tokens_axis(x) == 1 and x.content != "mask":
                found = self.read(at, x)
                if found is not None:
                    return found
        return None

    def mask(self, at: CallRow) -> np.ndarray | None:
        """Return which tokens of a row are no padding, (l,); None: it was not recorded."""
        masks = (self.read(at, x) for x in self.network.inputs if x.content == "mask")
        found = next((mask for mask in masks if mask is not None), None)
        return None if found is None or found.ndim != 1 else found != 0


def find_windows(
    kit: RowReader, of_kit: CallRow, port: RowReader, of_port: CallRow, multiple: int
) -> tuple[Window, Window] | None:
    """Return which tokens of two rows are the same text; None: they cannot be.

    The whole text is compared where the lengths are equal and padding takes part in the result.
    Otherwise padding is left out: what the kit's mask hides, up to a multiple of the tokens.

    Args:
        kit, of_kit: The row of the kit.
        port, of_port: The row of the port.
        multiple: Texts are padded to a multiple of it by the model itself. 0: to a fixed length.
    """
    ours, theirs = kit.text(of_kit), port.text(of_port)
    if ours is None or theirs is None:
        return None
    mask = kit.mask(of_kit)
    if len(ours) == len(theirs) and (mask is None or multiple != 1):
        whole = Window(tuple(range(len(ours))), len(ours))
        return whole, whole
    rows = _rows_read(len(ours), len(theirs), mask, multiple)
    if len(rows) > len(theirs):
        return None
    window = Window(rows, len(ours))
    seen = port.mask(of_port)
    if seen is not None and len(seen) == len(theirs) and seen.sum() == len(rows):
        return window, Window(tuple(np.flatnonzero(seen).tolist()), len(theirs))
    return window, Window(_find_rows(theirs, window.cut(ours), rows), len(theirs))


def _rows_read(length: int, most: int, mask: np.ndarray | None, multiple: int) -> tuple[int, ...]:
    """Return the tokens of a kit's text that take part in the result.

    Args:
        length: The number of all tokens.
        most: The number of tokens of the port, which may cut what the mask hides.
        mask: Which tokens are no padding, (length,). None: it is not known.
        multiple: See `find_windows`.
    """
    if mask is None or not mask.any():
        return tuple(range(length))
    real = np.flatnonzero(mask)
    if len(real) <= real[-1] - real[0]:  # padding stands between the tokens, and is not read
        return tuple(real.tolist())
    count = min(-(-len(real) // max(multiple, 1)) * max(multiple, 1), length)
    count = max(min(count, most), len(real))
    start = min(int(real[0]), length - count)
    return tuple(range(start, start + count))


def _find_rows(theirs: np.ndarray, expected: np.ndarray, rows: Sequence[int]) -> tuple[int, ...]:
    """Return the tokens of a port's text (l, ...) that are nearest to the expected ones.

    They follow each other, or are divided where the kit's are.

    Args:
        theirs: The port's text.
        expected: The tokens that are looked for, (k, ...).
        rows: Their numbers in the kit.
    """
    count = len(rows)
    head = next((i for i in range(1, count) if rows[i] > rows[i - 1] + 1), count)
    tried = [tuple(range(i, i + count)) for i in range(len(theirs) - count + 1)]
    if head < count:
        last = len(theirs) - count + head
        tried.append((*range(head), *range(last, len(theirs))))
    return min(tried, key=lambda found: relative_error(theirs[list(found)], expected))


# -- the rows -------------------------------------------------------------------------------------


def match_rows(kit: Trace, port: Trace, network: RowNetwork, multiple: int) -> list[RowMatch]:
    """Return the rows of a port's calls of a network that are rows of a kit's.

    A row is the one whose inputs are nearest; each row of the kit has at least one, and more of
    them where a port computes a text again. A port with the kit's calls keeps them, unless another
    order is clearly nearer.

    Args:
        kit: The kit's run.
        port: The port's.
        network: The network.
        multiple: See `find_windows`.
    """
    readers = RowReader(kit, network), RowReader(port, network)
    rows = rows_of(kit, network.name), rows_of(port, network.name)
    found: dict[tuple[int, int], tuple[float, RowMatch]] = {}
    for (k, ours), (p, theirs) in product(*map(enumerate, rows)):
        compared = _compare_rows(*readers, ours, theirs, multiple)
        if compared is not None:
            found[k, p] = compared
    own = [found[pair] for pair in found if rows[0][pair[0]] == rows[1][pair[1]]]
    best = list(_assign(found))
    if len(own) == len(rows[1]) and sum(e for e, _ in own) <= GAIN * sum(e for e, _ in best):
        best = own
    return [match for _, match in best]


def _compare_rows(
    kit: RowReader, port: RowReader, ours: CallRow, theirs: CallRow, multiple: int
) -> tuple[float, RowMatch] | None:
    """Return the mean error of the inputs of a row, and its tokens; None: it is another one."""
    windows = find_windows(kit, ours, port, theirs, multiple)
    if windows is None and kit.text(ours) is not None and port.text(theirs) is not None:
        return None
    errors = []
    for x in kit.network.inputs:
        a, b = kit.read(ours, x), port.read(theirs, x)
        if a is None or b is None or x.content == "mask":
            continue
        if windows is not None and tokens_axis(x) == 1:
            a, b = (w.cut(y) for y, w in zip((a, b), windows, strict=True))
        error = _distance(b, a)
        if error is None:
            return None
        errors.append(error)
    if not errors:  # of a port that recorded what comes out alone
        pairs = zip(kit.outputs(ours), port.outputs(theirs), strict=False)
        errors = [e for a, b in pairs if (e := _distance(b, a)) is not None]
    if not errors:
        return None
    match = RowMatch(ours, theirs, *(windows or ()))
    return sum(errors) / len(errors), match


def _distance(got: np.ndarray, expected: np.ndarray) -> float | None:
    """Return the error of an array in any order in memory, at most 1; None for another size.

    Of ids, it is how many are others.
    """
    if got.size != expected.size:
        return None
    if got.shape == expected.shape and expected.dtype.kind in "iu":
        return float(np.mean(got != expected)) if got.size else 0.0
    if got.shape != expected.shape:
        got, expected = np.sort(got, axis=None), np.sort(expected, axis=None)
    return min(relative_error(got, expected), 1.0)


def _assign(
    found: Mapping[tuple[int, int], tuple[float, RowMatch]],
) -> Iterator[tuple[float, RowMatch]]:
    """Yield for each row of the port the nearest row of the kit that is free, or its repetition."""
    nearest = sorted(found, key=lambda pair: (found[pair][0], pair))
    of_kit: set[int] = set()
    of_port: set[int] = set()
    for k, p in nearest:
        if k not in of_kit and p not in of_port:
            of_kit.add(k)
            of_port.add(p)
            yield found[k, p]
    for k, p in nearest:
        if p not in of_port and found[k, p][0] <= NEAR:
            of_port.add(p)
            yield found[k, p]


def is_as_in_kit(matches: Sequence[RowMatch]) -> bool:
    """Return whether all rows are at their places in the kit, without other padding."""
    return all(m.kit == m.port and m.of_kit == m.of_port for m in matches)


def match_host_rows(kit: Trace, port: Trace) -> Iterator[RowMatch]:
    """Yield the rows of what the host computes that are rows of a kit's calls.

    Calls without rows, such as a schedule, follow each other as the kit's do.
    """
    for kind in dict.fromkeys(call.kind for call in kit.calls if call.is_host):
        calls = [[call for call in trace.calls if call.kind == kind] for trace in (kit, port)]
        rows = rows_of(kit, kind), rows_of(port, kind)
        if not rows[0] and calls[1]:
            for number, call in enumerate(calls[0]):
                at = calls[1][min(number, len(calls[1]) - 1)]
                yield RowMatch(CallRow(call, 0), CallRow(at, 0))
        found = {}
        for (k, ours), (p, theirs) in product(*map(enumerate, rows)):
            error = _compare_host_rows(kit, ours, port, theirs)
            if error is not None:
                found[k, p] = error, RowMatch(ours, theirs)
        yield from (match for _, match in _assign(found))


def _compare_host_rows(kit: Trace, ours: CallRow, port: Trace, theirs: CallRow) -> float | None:
    """Return the mean error of the arrays of a row; None if none can be compared."""
    errors = []
    arrays = [_row_arrays(trace, at) for trace, at in ((kit, ours), (port, theirs))]
    for name in arrays[0].keys() & arrays[1].keys():
        error = _distance(arrays[1][name], arrays[0][name])
        errors += [] if error is None else [error]
    return sum(errors) / len(errors) if errors else None


def _row_arrays(trace: Trace, at: CallRow) -> dict[str, np.ndarray]:
    """Return the inputs and outputs of a row of a call by name."""
    entry = trace.find(at.call)
    if entry is None:
        return {}
    batch = batch_of(trace, at.call)
    arrays = {
        **trace.read_inputs(entry),
        **{f"={k}": x for k, x in trace.read_outputs(entry).items()},
    }
    return {
        name: np.asarray(x)[at.row] if np.ndim(x) and len(x) == batch else np.asarray(x)
        for name, x in arrays.items()
    }
