"""The recorder of a run: its calls, numbered and written when they have ended."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from ldmref.backends.named import AGAIN
from ldmref.io.tensors.writer import TensorSource
from ldmref.trace.calls import TraceCall
from ldmref.trace.left_out import LeftOut
from ldmref.trace.model import TraceEntry, tensor_name
from ldmref.trace.name_maps import Joined
from ldmref.trace.selection import Selection
from ldmref.trace.store import HostCopies, TensorStore

NUMBERED = ("guidance", "sampler", "words", "jump", "train")  # calls of the host that have a number


class CallWriter(Protocol):
    """The destination of complete calls: `TraceWriter`."""

    def write_call(
        self,
        call: str,
        entries: list[TraceEntry],
        tensors: Mapping[str, TensorSource],
        shared: Mapping[str, str],
    ) -> None: ...


class CallRecord:
    """One call while it is recorded.

    Args:
        name: Its name, `unet.003`.
        host: Copies its arrays to the host.
        store: Where the tensors are kept.
        selection: The layers to keep. None: the call is not selected, and keeps nothing.
        network: The network that runs, for programs whose layers are found by their network.
        left_out: Notes tensors that cannot be stored. None: their errors are raised.
    """

    def __init__(
        self,
        name: str,
        host: HostCopies,
        store: TensorStore,
        selection: Selection | None,
        network: object = None,
        left_out: LeftOut | None = None,
    ):
        self.name = name
        self.host = host
        self.store = store
        self.selection = selection
        self.network = network
        self.left_out = left_out
        self.layers: set[str] = set()  # names of all layers, also of those that are not kept
        self.joined: dict[str, Joined] = {}  # layers that are several of ldmref in one
        self._entries: dict[str, TraceEntry] = {}
        self._seen: Counter[str] = Counter()

    @property
    def entries(self) -> list[TraceEntry]:
        """The layers so far, in the order in which they began."""
        return list(self._entries.values())

    def takes(self, layer: str) -> bool:
        """Return whether arrays of a layer, or of a part of a joined one, are kept."""
        if self.selection is None:
            return False
        return any(self.selection.takes_layer(name) for name, _ in self._parts(layer))

    def _parts(self, layer: str) -> list[tuple[str, int]]:
        """Return the names of a layer, or of the parts of a joined one, with their indices."""
        base, again, number = layer.partition(AGAIN)
        joined = self.joined.get(base)
        if joined is None:
            return [(layer, 0)]
        names = (name.replace("/", ".") for name in joined.names)
        return [(f"{name}{again}{number}", i) for i, name in enumerate(names)]

    def unique(self, layer: str) -> str:
        """Return a layer's name, with a number if it occurred before in this call."""
        count = self._seen[layer]
        self._seen[layer] += 1
        return f"{layer}{AGAIN}{count}" if count else layer

    def add(
        self,
        layer: str,
        kind: str = "",
        inputs: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Record arrays of a layer by role; those of a layer that has begun are added to it.

        A joined layer is recorded as its parts: each has its input, and its part of the output.
        """
        joined = self.joined.get(layer.partition(AGAIN)[0])
        if joined is None:
            self._add(layer, kind, inputs or {}, attributes or {}, outputs or {})
            return
        for name, part in self._parts(layer):
            split = {role: joined.part_of(x, part) for role, x in (outputs or {}).items()}
            self._add(name, kind, inputs or {}, attributes or {}, split)

    def _add(
        self,
        layer: str,
        kind: str,
        inputs: Mapping[str, Any],
        attributes: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        self.layers.add(layer)
        if self.selection is None or not self.selection.takes_layer(layer):
            return
        before = self._entries.get(layer, TraceEntry(TraceCall(self.name), layer))
        kept = {k: v for k, v in attributes.items() if v is not None and is_json(v)}
        self._entries[layer] = TraceEntry(
            TraceCall(self.name),
            layer,
            {**before.inputs, **self._store(layer, "input", inputs)},
            {**before.outputs, **self._store(layer, "output", outputs)},
            kind or before.kind,
            {**before.attributes, **kept},
        )

    def _store(self, layer: str, side: str, arrays: Mapping[str, Any]) -> dict[str, str]:
        names = {}
        for role, array in arrays.items():
            name = tensor_name(self.name, layer, side, role.replace("/", "."))
            if self.selection is None or not self.selection.takes_tensor(name):
                continue
            try:
                self.store.add(self.host, name, array)
            except Exception as error:
                if self.left_out is None:
                    raise
                self.left_out.note(name, error)
                continue
            names[role.replace("/", ".") or side] = name
        return names


class Recorder:
    """The calls of a run, in order; each is written when it has ended.

    Args:
        writer: Where complete calls go.
        new_store: Makes the store of a call.
        selection: What to record.
        before: The recorder of a run that this one continues, whose calls count. None: it begins.
        left_out: Notes what cannot be stored or written, and the run goes on. None: it ends in an
            error.

    Attributes:
        step: Index of the sampler's step that is being taken; None outside of steps.
        visited: Indices of the steps so far.
        calls: Names of the calls so far, also of those that are not selected.
        layers: Names of the layers of selected calls so far, also of those that are not selected.
        numbered: The kinds of calls that have a number: those of the host, and networks that a run
            calls once per step.
    """

    def __init__(
        self,
        writer: CallWriter,
        new_store: Callable[[], TensorStore],
        selection: Selection | None = None,
        before: Recorder | None = None,
        left_out: LeftOut | None = None,
    ):
        self.writer = writer
        self.left_out = left_out
        self.new_store = new_store
        self.selection = selection or Selection()
        self.step: int | None = None
        self.visited: set[int] = set()
        self.calls: list[str] = []
        self.layers: set[str] = set()
        self.numbered: set[str] = {*NUMBERED}
        self._counts: Counter[str] = Counter() if before is None else Counter(before._counts)

    def count_call(self, kind: str) -> str:
        """Return the name of the next call of a kind, and count it."""
        name = self.next_name(kind)
        self._counts[kind] += 1
        return name

    def count(self, kind: str) -> int:
        """Return the number of calls of a kind so far."""
        return self._counts[kind]

    def next_name(self, kind: str) -> str:
        """Return the name of the next call of a kind: `unet.000`, `vae.decode`, `vae.decode~1`."""
        count = self._counts[kind]
        if kind in self.numbered:
            return f"{kind}.{count:03}"
        return f"{kind}{AGAIN}{count}" if count else kind

    def begin(
        self, kind: str, ops: HostCopies, number: int | None = None, network: object = None
    ) -> CallRecord | None:
        """Begin a call; None if it is not selected. `number` is its number; None: the next one."""
        name = self.count_call(kind) if number is None else f"{kind}.{number:03}"
        self.calls.append(name)
        if not self.selection.takes_call(name, self.step):
            return None
        try:
            store = self.new_store()
        except Exception as error:
            if self.left_out is None:
                raise
            self.left_out.note(name, error)
            return None
        call = CallRecord(name, ops, store, self.selection, network, self.left_out)
        call.layers = self.layers
        return call

    def end(self, call: CallRecord | None) -> None:
        """End a call: write it."""
        if call is None:
            return
        try:
            store = call.store
            self.writer.write_call(call.name, call.entries, store.sources, store.shared)
        except Exception as error:
            if self.left_out is None:
                raise
            self.left_out.note(call.name, error)
        finally:
            call.store.close()

    @contextmanager
    def call(
        self, kind: str, ops: HostCopies, number: int | None = None
    ) -> Iterator[CallRecord | None]:
        """Record a call; one that fails is not written."""
        call = self.begin(kind, ops, number)
        try:
            yield call
        except BaseException:
            if call is not None:
                call.store.close()
            raise
        self.end(call)


def is_json(value: object) -> bool:
    """Return whether a value can be written as JSON."""
    if isinstance(value, float):
        return math.isfinite(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
