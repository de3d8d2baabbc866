"""A recorded run, followed from layer to layer: what is judged, and what follows from it.

ldmref's definition of a network (`ldmref.locate.replay.definition`) and a module of PyTorch
(`ldmref.locate.modules.replay`) are followed in the same way. At every layer that the port recorded

1. the input that follows from the port's recorded outputs upstream is compared with the recorded
   one: their difference is the error of everything in between that was not recorded (wiring);
2. the output that follows from the recorded input is compared with the recorded one: the layer's
   own error;

and the run continues with what was recorded. The two kinds of run say only how their layers are
found and computed. `ldmref.locate.replay.repeating` computes parts again.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.faults.norms import eps_of_norm
from ldmref.locate.law import allowed_error
from ldmref.locate.recorded.alignment import align, exchange_terms, find_among, is_exchanged
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.names import count_modulations, read_output
from ldmref.locate.recorded.precision import EPSILONS, stored_unit
from ldmref.locate.recorded.unfit import first_line
from ldmref.locate.replay.points import Frame, PaddingRows, Point, PointObserver
from ldmref.locate.replay.repeating import FAILS, RepeatableRun, numbered
from ldmref.trace.model import Trace, TraceEntry

RECENT = 24  # outputs kept to recognise them
STREAMS = 4  # inputs of norms kept to recognise them
MOST_EARLIER = 32  # operations before a part that are changed as well
NORMS = 12  # before a part that are changed together
SKIPS = re.compile(r"conv_in|down_blocks\.\d+\.(resnets|attentions|downsamplers)\.\d+(\.conv)?")


class LayerFollower(RepeatableRun):
    """A run that is followed; judges and known faults see it as a `FollowedRun`.

    Args:
        port: The trace of the port.
        call: The call to follow, "unet.000".
        dtype: The number format of the port, to which its parameters are rounded.
        observer: The judge.
        padding: The rows that are padding. None: there are none.

    Attributes:
        visited: The layers of the port that were reached.
        recent: The layers that were recorded last, with their outputs.
        streams: The norms that were recorded last, with their inputs.
        skips: Outputs that skip connections may carry, by layer.
        modulations: Linear layers of adaptive norms, and the number of their parts.
        arguments: The arguments of the whole network by name.
        config, ids: Of a text encoder, its configuration and its tokens, (n, l).
    """

    def __init__(
        self,
        port: Trace,
        call: str,
        dtype: str,
        observer: PointObserver,
        padding: PaddingRows | None = None,
    ):
        super().__init__(port, call, dtype)
        self.observer = observer
        self.padding = padding or {}
        self.visited: set[str] = set()
        self.recent: deque[tuple[str, np.ndarray]] = deque(maxlen=RECENT)
        self.streams: deque[tuple[str, np.ndarray]] = deque(maxlen=STREAMS)
        self.skips: dict[str, np.ndarray] = {}
        self.modulations: dict[str, int] = {}
        self.arguments: Mapping[str, Any] = {}
        self.config: Any = None
        self.ids: np.ndarray | None = None
        self._frames: list[Frame] = []  # the parts from recorded arrays on, the innermost last
        # Of each frame, the last operations that were not recorded, and the last norms.
        self._own: list[deque[LayerCall]] = []
        self._norms: list[deque[LayerCall]] = []
        self._around: list[Frame] = []  # the layers around an operation, recorded or not
        self._pending: list[LayerCall] = []  # operations since the last recorded array
        self._led: tuple[LayerCall, ...] = ()  # those that led to the last recorded input
        self._after: tuple[str, ...] = ()  # the layer that was recorded last
        self._counted: set[str] = set()  # the names whose numbers were compared

    # -- what the kinds of runs say ---------------------------------------------------------------

    def _scopes(self) -> list[Any]:
        """Return the layers around what is computed, as the run repeats them."""
        raise NotImplementedError

    def _may_write(self, stream: Any) -> bool:
        """Return whether nothing relies on what a norm reads as it is."""
        return True

    def _mark(self, entry: TraceEntry, call: LayerCall, role: str) -> None:
        """Note that a recorded input of a layer was compared."""

    # -- what was recorded ------------------------------------------------------------------------

    def match(self, call: LayerCall) -> tuple[LayerCall, TraceEntry | None]:
        """Return a layer in the port's order of terms, and what the port recorded of it.

        An operation has only a number in its layer, which another one may have in the port.
        """
        entry = self.find(call.name)
        ordered = self._in_order(call, entry)
        base = call.name.partition(AGAIN)[0]
        counts = not (call.parameters or call.composite or base in self._counted) and self._around
        if entry is None or not counts or not self._is_another(ordered, entry):
            return ordered, entry
        self._counted.add(base)
        self._align(base)
        entry = self.find(call.name)
        return self._in_order(call, entry), entry

    def _in_order(self, call: LayerCall, entry: TraceEntry | None) -> LayerCall:
        """Return an operation with its terms in the port's order, if it is a recorded sum."""
        if call.kind != "add" or entry is None:
            return call
        self.turned.discard(call.name)
        recorded = self._read_inputs(entry, call)
        if not is_exchanged(call.inputs, recorded, self._rounding_of(entry)):
            return call
        self.turned.add(call.name)
        return replace(call, inputs=exchange_terms(call.inputs))

    def _is_another(self, call: LayerCall, entry: TraceEntry) -> bool:
        """Return whether the port's operation of this name reads something else."""
        recorded = self._read_inputs(entry, call)
        known = {role: x for role, x in call.inputs.items() if not np.isnan(x).any()}
        allowed = self._rounding_of(entry)
        shared = recorded.keys() & known.keys()
        return any(relative_error(recorded[role], known[role]) > allowed for role in shared)

    def _rounding_of(self, entry: TraceEntry) -> float:
        """Return the relative error of an array that is rounding of the port."""
        unit = max(EPSILONS[self.dtype_of_port], stored_unit(self.port, entry))
        return allowed_error(0.0, unit)

    def _align(self, base: str) -> None:
        """Find the port's number of each operation of a name, if it has more or fewer of them."""
        expected = self.collect(base, self._around[-1])
        roles = {role: x for role, x in expected[0].items() if role} if expected else {}
        likes = LayerCall(base, "", roles, {}, {}, dict)
        recorded: list[dict[str, np.ndarray]] = []
        while (entry := self._find(numbered(base, len(recorded)))) is not None:
            output = read_output(self.port, entry)
            arrays = self._read_inputs(entry, likes)
            recorded.append(arrays if output is None else {**arrays, "": output})
        if 0 < len(recorded) < len(expected):
            self.aligned[base] = align(expected, recorded)
        elif 0 < len(expected) < len(recorded):
            self.aligned[base] = find_among(recorded, expected)

    # -- what is judged ---------------------------------------------------------------------------

    def _follow(
        self,
        call: LayerCall,
        entry: TraceEntry | None,
        compute: Callable[[Mapping[str, Any]], Any],
        stream: Any = None,
    ) -> Any:
        """Compute a layer from what was recorded, and return its result with what was recorded.

        Args:
            call: The layer.
            entry: What was recorded of it. None: nothing.
            compute: Computes it from inputs by role, in the kind of arrays of the run.
            stream: Its first input as the run has it, if it is a norm.
        """
        inputs = call.inputs if entry is None else self._observe_inputs(call, entry, stream)
        closed = entry is not None and bool(entry.inputs)
        if closed:
            self._close()
        frame = self._frame(call, inputs, closed)
        with self._inside(frame) if closed and call.composite else nullcontext():
            if call.composite:
                self._around.append(frame)
                result = compute(inputs)
                self._around.pop()
            else:
                result = compute(inputs)
                self._pass(call, entry is not None)
            if entry is not None:
                if call.composite:
                    self._note_names(call.name, frame.seen)
                start = frame if closed else self._frames[-1]
                result = self._observe_outputs(call, entry, result, inputs, start)
        if SKIPS.fullmatch(call.name):
            outputs = self._arrays_of(result, call.kind)
            if len(outputs) == 1:
                self.skips[call.name] = outputs[0]
        return result

    def _note_names(self, name: str, before: Counter[str]) -> None:
        """Note how often each name occurred in a layer that was computed."""
        within = {key: n - before[key] for key, n in self._seen.items() if n != before.get(key)}
        self._numbers[name] = Counter(within)

    def _frame(self, call: LayerCall, inputs: Mapping[str, np.ndarray], closed: bool) -> Frame:
        """Return a layer as a part that can be run again.

        Args:
            call: The layer.
            inputs: The inputs with which it is computed.
            closed: Whether some of them were recorded: the part around it made the others.
        """
        floats = (role for role, x in inputs.items() if np.asarray(x).dtype.kind == "f")
        made = tuple(role for role in floats if inputs[role] is call.inputs[role])
        seen = self._seen.copy() if call.composite else Counter()
        outer = self._frames[-1] if closed else None
        return Frame(call.name, call.compute, inputs, seen, [*self._scopes()], outer, made)

    @contextmanager
    def _inside(self, frame: Frame) -> Iterator[None]:
        """Compute a part that begins with recorded arrays: the operations in it are its own."""
        self._frames.append(frame)
        self._norms.append(deque(maxlen=NORMS))
        self._own.append(deque(maxlen=MOST_EARLIER))
        try:
            yield
        finally:
            self._frames.pop()
            self._norms.pop()
            self._own.pop()

    def _close(self) -> None:
        """Begin anew behind recorded inputs: what led to them is another part."""
        self._led = tuple(self._pending) or self._led
        self._pending = []

    def _observe_inputs(
        self, call: LayerCall, entry: TraceEntry, stream: Any = None
    ) -> dict[str, np.ndarray]:
        """Compare the inputs of a recorded layer, and return those with which it is computed.

        Args:
            call: The layer.
            entry: What was recorded of it.
            stream: The first input as the run has it, if the layer is a norm.
        """
        self.visited.add(entry.layer)
        inputs: dict[str, np.ndarray] = dict(call.inputs)
        first = next(iter(inputs), "")
        frame = self._frames[-1]
        suspects = tuple(self._pending) or self._led  # the last layer may read the same array
        for role, recorded in self._read_inputs(entry, call).items():
            computed = call.inputs[role]
            seen = self.as_recorded(call, computed)
            point = self._point(call, entry, role, seen, recorded, {}, frame, suspects, 0)
            used = self._judge(point)
            self._mark(entry, call, role)
            if seen is not computed:
                if not _is_spread(seen, computed) or used.shape != seen.shape:
                    continue  # nobody can turn what was recorded
                used = np.broadcast_to(used, computed.shape)
            made = inputs[role] = used.astype(
                np.float64 if np.asarray(computed).dtype.kind == "f" else np.int64
            )
            if role == first and stream is not None:
                self.streams.append((call.name, made))
                # The sums behind a norm read the same array: one wrong gate or residual is one row.
                if self._differs(made, point) and self._may_write(stream):
                    if self._write(stream, made):
                        self.resumed[call.name] = made
            made.setflags(write=False)  # it is recorded: norms do not write it
        return inputs

    def _observe_outputs(
        self,
        call: LayerCall,
        entry: TraceEntry,
        result: Any,
        inputs: Mapping[str, np.ndarray],
        frame: Frame,
    ) -> Any:
        """Compare the recorded outputs of a layer, and return its result with those to use."""
        kind = call.kind if call.composite and call.name else ""
        form = self._forms[call.name] = self._form_of(result, kind, inputs)
        computed = self._arrays_of(result, kind)
        used: dict[int, np.ndarray] = {}
        for part, recorded in enumerate(self._read_outputs(entry, form)):
            if recorded is not None:
                used[part] = self._observe_output(
                    call, entry, part, computed[part], recorded, inputs, frame
                )
        if used:
            self._reached(call)
        return self._with_arrays(form, result, used)

    def _observe_output(
        self,
        call: LayerCall,
        entry: TraceEntry,
        part: int,
        computed: np.ndarray,
        recorded: np.ndarray,
        inputs: Mapping[str, np.ndarray],
        frame: Frame,
    ) -> np.ndarray:
        """Compare an output of a recorded layer, and return the array to use downstream."""
        suspects = tuple(self._pending)
        seen = self.as_recorded(call, computed)
        point = self._point(call, entry, "", seen, recorded, inputs, frame, suspects, part)
        used = self._judge(point)
        used = used if seen is computed else computed  # nobody can turn what was recorded
        if used is recorded:
            recorded.setflags(write=False)  # norms do not write it
        else:
            self._corrected[call.name, part] = used
        if call.name:
            self.recent.append((call.name, used))
        return used

    def _reached(self, call: LayerCall) -> None:
        """Begin anew behind the recorded outputs of a layer."""
        self._pending = []
        self._after = (call.name,)

    def _point(
        self,
        call: LayerCall,
        entry: TraceEntry,
        role: str,
        computed: np.ndarray,
        recorded: np.ndarray,
        inputs: Mapping[str, np.ndarray],
        frame: Frame,
        suspects: tuple[LayerCall, ...],
        part: int,
    ) -> Point:
        """Return a recorded array with what has to be computed again to explain it."""
        within = bool(self._frames) and frame is self._frames[-1]  # else an operation by itself
        earlier = self._earlier(frame, suspects) if within else ()
        norms = tuple(self._norms[-1]) if within else ()
        rows = self.padding.get((call.name, role, part))
        if rows is not None and rows.shape != np.shape(computed)[:-1]:
            rows = None
        unit = stored_unit(self.port, entry)
        return Point(
            call=call, role=role, computed=computed, recorded=recorded, inputs=inputs,
            frame=frame, suspects=suspects, after=self._after, unit=unit, part=part,
            earlier=earlier, padding=rows, norms=norms,
        )  # fmt: skip

    def _earlier(self, frame: Frame, suspects: tuple[LayerCall, ...]) -> tuple[LayerCall, ...]:
        """Return operations of a frame before the suspects, whose results may be read here again.

        They are those that led to the last recorded input, as the attention beside an MLP does, and
        those of the same layer, as the table of its rotations is.
        """
        inside = f"{frame.name}." if frame.name else ""
        ours = {id(call) for call in suspects}
        own = self._own[-1] if frame.name else ()
        before = (*reversed(self._led), *reversed(own))
        found = {id(x): x for x in before if x.name.startswith(inside)}
        return tuple(x for key, x in found.items() if key not in ours)[:MOST_EARLIER]

    def _pass(self, call: LayerCall, recorded: bool) -> None:
        """Note an operation that was computed: it leads to what is recorded next."""
        self._pending.append(call)
        if not recorded:
            self._own[-1].append(call)
        if not recorded and eps_of_norm(call) is not None:
            self._norms[-1].append(call)
        self._note_modulation(call)

    def _judge(self, point: Point) -> np.ndarray:
        """Let the judge compare a point, and return the array to use downstream.

        Where it cannot be compared, a row says so, and the run continues with what was computed.
        """
        try:
            return self.observer.observe(self, self._with_stream(point))
        except FAILS as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            self.observer.skip(point.call, f"it cannot be compared: {why}")
            return np.asarray(point.computed)

    def _with_stream(self, point: Point) -> Point:
        """Return a point as it is if the stream did not go on from the last recorded array.

        The norm alone may have read another array than the sums behind it.
        """
        if not self.resumed or not self._differs(point.recorded, point):
            return point
        name, array = self.resumed.popitem()
        with suppress(*FAILS):
            computed = self.rerun(point)
            other = point if computed is None else replace(point, computed=computed)
            if other is not point and not self._differs(point.recorded, other):
                return other
        self.resumed[name] = array
        return point

    def _differs(self, x: np.ndarray, point: Point) -> bool:
        """Return whether an array is none that rounding makes of the computed one."""
        allowed = allowed_error(0.0, max(EPSILONS[self.dtype_of_port], point.unit))
        floats = x.dtype.kind == "f" and x.shape == np.shape(point.computed)
        if not floats or np.isnan(point.computed).any():
            return False
        return not relative_error(point.kept(x), point.kept(np.asarray(point.computed))) <= allowed

    def _note_modulation(self, call: LayerCall) -> None:
        """Note a linear layer that gives shift, scale and gate of a block."""
        inputs = self._around[-1].inputs if self._around else {}
        around = next(iter(inputs.values()), None)
        width = around.shape[-1] if isinstance(around, np.ndarray) and around.ndim else 0
        parts = count_modulations(call, width)
        if parts:
            self.modulations[call.name] = parts


def _is_spread(x: np.ndarray, whole: np.ndarray) -> bool:
    """Return whether an array has the numbers of another one whose rows along an axis are alike."""
    if x.ndim != whole.ndim or any(
        a not in (1, b) for a, b in zip(x.shape, whole.shape, strict=True)
    ):
        return False
    return bool(np.array_equal(np.broadcast_to(x, whole.shape), whole))
