"""Layers that a definition has no name for, and whose arrays were judged nonetheless.

Makers name what diffusers does not: blocks of another name, norms without weights, activations
within an MLP. Such a layer counts as compared if each of its arrays is right: only rounding tells
it from an array that the definition computes from what was recorded, in any order in memory and
with image and text in either order; or it is a part of such an array, or consists of such parts; or
it has the angles by which tokens are rotated. A sum or an activation is right as well if it is that
of its inputs, and these or its output are right; and a layer that is called more often than the
definition does, if it returns what the definition's layer does. A layer with any other array was
not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.law import allowed_error
from ldmref.locate.recorded.layouts import largest_value, relative_error, restore_order
from ldmref.locate.recorded.names import PREFIXES, parts_of, read_inputs
from ldmref.locate.recorded.precision import EPSILONS, exact_backend, stored_unit
from ldmref.locate.replay.unvisited import RunReads, find_unread, part_of
from ldmref.models.declared import DeclaredNetwork
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

MOST_ORDERS = 12  # orders in memory in which an array is looked for
SAMPLED = 64  # numbers that are compared before all are
OPERATIONS = ("silu", "add")  # that are what their inputs make them
OF_POSITIONS = re.compile(r"(rotary|pos)_emb\w*$")  # layers that make tables of angles
AXES = (-1, -2)  # channels and tokens, of which arrays have parts
PartShape = tuple[int, ...]


class _Wanted:
    """A recorded array that is looked for among the computed ones.

    Args:
        x: It, without axes of one.
        allowed: The relative error that is rounding.

    Attributes:
        found: Whether it is one of them, a part of one, or consists of parts that are.
    """

    def __init__(self, x: np.ndarray, allowed: float):
        self.x = x
        self.allowed = allowed
        self.found = False
        self._orders: dict[PartShape, list[np.ndarray]] = {}
        axes = AXES[: x.ndim]
        self._covered = {axis: np.zeros(x.shape[axis], bool) for axis in axes}

    def compare(self, computed: np.ndarray, picked: np.ndarray) -> None:
        """Compare it with an array of as many numbers.

        Args:
            computed: The array, without axes of one.
            picked: Where the numbers are that are compared first.
        """
        shape = computed.shape
        if shape not in self._orders:
            others = islice(restore_order(self.x, shape), MOST_ORDERS)
            own = [self.x] if self.x.shape == shape else []
            self._orders[shape] = [*own, *(other.array for other in others)]
            self._orders[shape] += _merge_heads(self.x, shape)
        limit = self.allowed * largest_value(computed)
        some = computed.flat[picked]
        self.found = any(
            (
                largest_value(x.flat[picked] - some) <= limit
                and relative_error(x, computed) <= self.allowed
            )
            or _begins_later(x, computed, self.allowed)
            for x in self._orders[shape]
        )

    def compare_part(self, computed: np.ndarray, axis: int) -> None:
        """Compare it with an array that has more or fewer rows along an axis, and else its shape.

        Args:
            computed: The array, without axes of one.
            axis: The axis.
        """
        if computed.shape[axis] > self.x.shape[axis]:
            self.found = _find_part(self.x, computed, axis, self.allowed) is not None
            return
        start = _find_part(computed, self.x, axis, self.allowed)
        if start is not None:
            covered = self._covered[axis]
            covered[start : start + computed.shape[axis]] = True
            self.found = bool(covered.all())


def _merge_heads(x: np.ndarray, shape: PartShape) -> list[np.ndarray]:
    """Return the tokens (..., l, heads * d) of heads (..., heads, l, d), if that is the shape."""
    if x.ndim != len(shape) + 1 or x.ndim < 3:
        return []
    merged = np.swapaxes(x, -3, -2)
    return [merged.reshape(shape)] if merged.shape[:-2] == shape[:-1] else []


def _begins_later(x: np.ndarray, computed: np.ndarray, allowed: float) -> bool:
    """Return whether an array has the tokens of another one, of which the first ones come last.

    Programs join the tokens of image and text in either order.

    Args:
        x: The array.
        computed: The other one, of the same shape, whose last axes are tokens and channels.
        allowed: The relative error that is rounding.

    >>> computed = np.arange(12.0).reshape(2, 3, 2)
    >>> _begins_later(computed[:, [2, 0, 1]], computed, 1e-9)
    True
    >>> _begins_later(computed[:, [1, 0, 2]], computed, 1e-9)
    False
    """
    if x.ndim < 2:
        return False
    limit = allowed * largest_value(computed)
    first = (*(0,) * (x.ndim - 2), slice(None), 0)  # the first number of each token
    near = np.abs(computed[first] - x[first][0]) <= limit
    turned = (np.roll(computed, -start, axis=-2) for start in np.flatnonzero(near) if start)
    return bool(limit) and any(largest_value(x - other) <= limit for other in turned)


def _find_part(part: np.ndarray, whole: np.ndarray, axis: int, allowed: float) -> int | None:
    """Return where an array is a part of another one along an axis; None if it is not.

    Args:
        part: The array.
        whole: The other one, of the same shape, but for more rows along the axis.
        axis: The axis.
        allowed: The relative error that is rounding.

    >>> whole = np.arange(24.0).reshape(2, 3, 4)
    >>> _find_part(whole[..., 1:3], whole, -1, 1e-9), _find_part(whole[:, 1:], whole, -2, 1e-9)
    (1, 1)
    """
    moved, rows = np.moveaxis(whole, axis, 0), np.moveaxis(part, axis, 0)
    limit = allowed * largest_value(rows)
    if not limit:
        return None
    count = len(moved) - len(rows) + 1
    column = (slice(None), *(0,) * (moved.ndim - 1))
    near = np.abs(moved[column][:count] - rows[column][0]) <= limit
    last = np.abs(moved[column][len(rows) - 1 :] - rows[column][-1]) <= limit
    for start in np.flatnonzero(near & last):
        if largest_value(moved[start : start + len(rows)] - rows) <= limit:
            return int(start)
    return None


class ComputedArrays:
    """Finds recorded arrays among those that a run of a definition computes.

    Args:
        port: The trace.
        entries: The layers that are looked for.
        dtype: The port's number format.
        without_filling: Returns an array without the rows that fill its tokens up; nothing if it
            has none.
    """

    def __init__(
        self,
        port: Trace,
        entries: Iterable[TraceEntry],
        dtype: str,
        without_filling: Callable[[np.ndarray], Iterable[np.ndarray]] = lambda x: (),
    ):
        self.port = port
        self.without_filling = without_filling
        self.dtype = dtype
        self.entries = [*entries]
        self._wanted: dict[str, list[_Wanted]] = {}  # by the name of a tensor: any of these
        self._of_size: dict[int, list[_Wanted]] = {}
        self._of_shape: dict[tuple[int, PartShape], list[_Wanted]] = {}  # without an axis
        self._picked: dict[int, np.ndarray] = {}
        self._again: dict[str, list[TraceEntry]] = {}  # by the name of the first call
        self._right: set[str] = set()  # of these
        for entry in self.entries:
            for name in (*entry.inputs.values(), *entry.outputs.values()):
                self._want(name, self._rounding_of(entry))
            base, again, _ = entry.layer.partition(AGAIN)
            if again:
                self._again.setdefault(base, []).append(entry)

    def _rounding_of(self, entry: TraceEntry) -> float:
        return allowed_error(0.0, max(EPSILONS[self.dtype], stored_unit(self.port, entry)))

    def _want(self, name: str, allowed: float) -> None:
        x = np.asarray(self.port.tensors[name])
        if name in self._wanted or x.dtype.kind != "f" or not x.size:
            return
        repeated = x.ndim > 1 and len(x) > 1 and np.array_equal(x, np.broadcast_to(x[:1], x.shape))
        arrays = (*((x, x[0]) if repeated else (x,)), *self.without_filling(x))
        self._wanted[name] = [_Wanted(np.squeeze(one), allowed) for one in arrays]
        for wanted in self._wanted[name]:
            self._of_size.setdefault(wanted.x.size, []).append(wanted)
            for key in _part_keys(wanted.x):
                self._of_shape.setdefault(key, []).append(wanted)

    def note(self, *arrays: object) -> None:
        """Compare arrays that are computed, or are right, with those that are looked for."""
        for whole in arrays:
            if not isinstance(whole, np.ndarray) or whole.dtype.kind not in "fiu" or not whole.size:
                continue
            x = np.squeeze(whole)
            for wanted in self._of_size.get(x.size, ()):
                if not wanted.found:
                    wanted.compare(x, self._pick(x.size))
            for key in _part_keys(x):
                for wanted in self._of_shape.get(key, ()):
                    if not wanted.found and wanted.x.size != x.size:
                        wanted.compare_part(x, key[0])

    def note_layer(
        self,
        call: LayerCall,
        used: Mapping[str, np.ndarray],
        result: object,
        params: Mapping[str, Any],
        compute: Callable[[LayerCall, Mapping[str, np.ndarray], bool], Any],
    ) -> None:
        """Compare what a layer reads and returns, and what it would return in its other calls.

        Args:
            call: The layer.
            used: The inputs with which it was computed.
            result: What it returned.
            params: The network's tree of parameters.
            compute: Computes the layer from other inputs, exactly or in the port's format.
        """
        self.note(*call.inputs.values(), *used.values(), *parts_of(result))
        if call.composite:
            self.note(*_add_tables(used, part_of(params, call.name) or {}))
        for entry in self._again.get(call.name, ()):
            inputs = read_inputs(self.port, entry, call)
            if inputs:
                inputs = {**call.inputs, **inputs}
                exact, low = (parts_of(compute(call, inputs, low)) for low in (False, True))
                self._compare_again(entry, exact, low)

    def _compare_again(
        self, entry: TraceEntry, exact: Sequence[np.ndarray], low: Sequence[np.ndarray]
    ) -> None:
        recorded = [np.asarray(self.port.tensors[name]) for name in entry.outputs.values()]
        least = self._rounding_of(entry)
        if len(recorded) != len(exact):
            return
        floors = [relative_error(x, y) for x, y in zip(low, exact, strict=True)]
        limits = [max(least, allowed_error(floor)) for floor in floors]
        if all(relative_error(x, y) <= z for x, y, z in zip(recorded, exact, limits, strict=True)):
            self._right.add(entry.layer)
            self.note_entries([entry])

    def note_entries(self, entries: Iterable[TraceEntry]) -> None:
        """Compare the arrays of layers that were judged, as they were recorded."""
        for entry in entries:
            names = (*entry.inputs.values(), *entry.outputs.values())
            self.note(*(self.port.tensors[name] for name in names))

    def _pick(self, size: int) -> np.ndarray:
        if size not in self._picked:
            some = np.random.default_rng(0).integers(size, size=SAMPLED)
            self._picked[size] = np.unique(some)
        return self._picked[size]

    def find_right(self, reads: RunReads) -> set[str]:
        """Return the layers all of whose arrays are right.

        Args:
            reads: What the run read, with the angles of its rotations.
        """
        return {entry.layer for entry in self.entries if self._is_right(entry, reads)}

    def _is_right(self, entry: TraceEntry, reads: RunReads) -> bool:
        if entry.outputs and all(self._is_table(entry, x, reads) for x in entry.outputs.values()):
            return True
        inputs = all(self.is_known(entry, name, reads) for name in entry.inputs.values())
        outputs = all(self.is_known(entry, name, reads) for name in entry.outputs.values())
        if not entry.outputs or entry.layer in self._right:
            return bool(entry.outputs)
        if entry.kind in OPERATIONS and entry.inputs:
            return (inputs or outputs) and self._is_of_inputs(entry)
        return inputs and outputs

    def is_known(self, entry: TraceEntry, name: str, reads: RunReads) -> bool:
        """Return whether an array of a layer is right; tokens and masks, which it reads, are.

        What a layer of positions returns is right only if its angles are: a block may have been
        given the same wrong table, which nothing judges there.
        """
        layer = entry.layer.partition(AGAIN)[0]
        made = name in entry.outputs.values() and OF_POSITIONS.search(layer)
        wanted = self._wanted.get(name, ())
        if not made and (not wanted or any(one.found for one in wanted)):
            return True
        return self._is_table(entry, name, reads)

    def _is_table(self, entry: TraceEntry, name: str, reads: RunReads) -> bool:
        """Return whether an array has the angles of tokens, or rows of the layer's parameter."""
        unit = max(EPSILONS[self.dtype], stored_unit(self.port, entry))
        base = entry.layer.partition(AGAIN)[0]
        names = [base, *(prefix + base for prefix in PREFIXES)]
        x = np.asarray(self.port.tensors[name])
        arrays = (x, *self.without_filling(x))
        return any(reads.is_table(*one, unit) for one in product(names, arrays))

    def _is_of_inputs(self, entry: TraceEntry) -> bool:
        """Return whether the result of an operation is that of its inputs, whatever they are."""
        if len(entry.outputs) != 1:
            return False
        inputs = [np.asarray(self.port.tensors[name], np.float64) for name in entry.inputs.values()]
        (recorded,) = (np.asarray(self.port.tensors[name]) for name in entry.outputs.values())
        computed = np.asarray(getattr(exact_backend(), entry.kind)(*inputs))
        return relative_error(recorded, computed) <= self._rounding_of(entry)


class SortedLayers(NamedTuple):
    """Layers that were not visited.

    Attributes:
        unread: The parts of the network, with these layers, of which nothing is read.
        left: The layers that were not compared.
    """

    unread: list[str]
    left: list[str]


def sort_unvisited(
    port: Trace,
    call: TraceCall,
    network: DeclaredNetwork,
    reads: RunReads,
    visited: Collection[str],
    dtype: str,
) -> SortedLayers:
    """Sort the recorded layers that a complete run of a definition did not visit.

    Args:
        port: The trace.
        call: The call.
        network: The network of the call.
        reads: What the run read.
        visited: The layers that it computed.
        dtype: The port's number format.
    """
    apart = [e for e in port.of_call(call) if e.layer and e.layer not in visited]
    unread = {e.layer: find_unread(network, reads, e.layer) for e in apart}
    computed = ComputedArrays(port, (e for e in apart if not unread[e.layer]), dtype)
    computed.note_entries(e for e in port.of_call(call) if e.layer in visited or not e.layer)
    right = computed.find_right(reads)
    judged = _JudgedArrays(port, call, visited)
    left = [e.layer for e in computed.entries if e.layer not in right and not judged.holds(e)]
    return SortedLayers([*dict.fromkeys(filter(None, unread.values()))], left)


class _JudgedArrays:
    """The arrays of the layers of a call that were judged, which are found by their numbers.

    A layer of positions may be more than a table of angles: the patches of an image, with their
    places added, which the first block was given as they are.
    """

    def __init__(self, port: Trace, call: TraceCall, visited: Collection[str]):
        self.port = port
        entries = [e for e in port.of_call(call) if e.layer in visited or not e.layer]
        self.names = [x for e in entries for x in (*e.inputs.values(), *e.outputs.values())]

    def holds(self, entry: TraceEntry) -> bool:
        """Return whether all numbers of a layer are those of arrays that were judged."""
        names = (*entry.inputs.values(), *entry.outputs.values())
        arrays = [x for x in (np.asarray(self.port.tensors[n]) for n in names) if _is_float(x)]
        return bool(entry.outputs) and bool(arrays) and all(map(self._has, arrays))

    def _has(self, x: np.ndarray) -> bool:
        return any(_holds(np.asarray(self.port.tensors[name]), x) for name in self.names)


def _is_float(x: np.ndarray) -> bool:
    return x.dtype.kind == "f"


def _holds(whole: np.ndarray, x: np.ndarray) -> bool:
    """Return whether an array is another one, or some neighbouring channels of it, the last axis.

    >>> whole = np.arange(12.0).reshape(3, 4)
    >>> _holds(whole, whole[:, 1:3]), _holds(whole, whole[:, ::2])
    (True, False)
    """
    if x.ndim != whole.ndim or x.shape[:-1] != whole.shape[:-1] or not x.size:
        return False
    width = x.shape[-1]
    if x.ndim == 0 or width > whole.shape[-1]:
        return False
    row = np.ravel(whole[(0,) * (x.ndim - 1)])
    first = np.ravel(x[(0,) * (x.ndim - 1)])
    windows = np.lib.stride_tricks.sliding_window_view(row, width)
    starts = np.flatnonzero((windows == first).all(axis=1))
    return any(np.array_equal(whole[..., i : i + width], x) for i in starts)


def _add_tables(
    inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
) -> Iterator[np.ndarray]:
    """Yield the sums of a block's inputs and of a table (parts, d) of its own, side by side."""
    tables = [x for x in parameters.values() if isinstance(x, np.ndarray) and x.ndim == 2]
    for table, x in product(tables, inputs.values()):
        if x.shape[-1:] == (table.size,):
            yield x + table.ravel()
        elif x.shape[-1:] == table.shape[1:]:
            yield (x[..., None, :] + table).reshape(*x.shape[:-1], -1)


def _part_keys(x: np.ndarray) -> Iterator[tuple[int, PartShape]]:
    """Yield each axis along which an array may have parts, with the shape without it."""
    for axis in AXES[: x.ndim]:
        shape = (*x.shape[: x.ndim + axis], -1, *x.shape[x.ndim + axis + 1 :])
        yield axis, shape
