"""A recorded run, followed from layer to layer: what is judged, and what is computed again.

ldmref's definition of a network (`ldmref.locate.replay`) and a module of PyTorch
(`ldmref.locate.modules.replay`) are followed in the same way. At every layer that the port recorded

1. the input that follows from the port's recorded outputs upstream is compared with the recorded
   one: their difference is the error of everything in between that was not recorded (wiring);
2. the output that follows from the recorded input is compared with the recorded one: the layer's
   own error;

and the run continues with what was recorded. A part can be computed again with an operation
exchanged or in another number format (`LayerFollower.rerun`), which is how known faults and noise
floors are found. The two kinds of run say only how their layers are found and computed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.alignment import EXCHANGED, align, exchange_terms, find_among, is_exchanged
from ldmref.locate.faults.norms import eps_of_norm
from ldmref.locate.graph import PartGraph
from ldmref.locate.law import allowed_error
from ldmref.locate.layouts import relative_error
from ldmref.locate.names import count_modulations, neighbours_of, parts_of
from ldmref.locate.points import Frame, OperationChange, PaddingRows, Point, PointObserver, Trial
from ldmref.locate.precision import EPSILONS, stored_unit
from ldmref.locate.unfit import UNFIT, first_line
from ldmref.trace.model import Trace, TraceEntry

RECENT = 24  # outputs kept to recognise them
STREAMS = 4  # inputs of norms kept to recognise them
MOST_EARLIER = 32  # operations before a part that are changed as well
NORMS = 12  # before a part that are changed together
FAILS = (*UNFIT, RuntimeError)  # of arrays that do not fit, in NumPy and in torch


class TargetReached(BaseException):
    """Ends a part that is computed again at its target; no code of a network catches it."""

    def __init__(self, parts: Any):
        super().__init__()
        self.parts = parts


class LayerFollower:
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
        resumed: By the norm that reads it, the stream where it went on from what was recorded.
        skips: Outputs that skip connections may carry, by layer.
        modulations: Linear layers of adaptive norms, and the number of their parts.
        arguments: The arguments of the whole network by name.
        aligned: By the name of operations of which the port has another number: its number of each.
        collected: Arrays of such operations, while they are counted.
        turned: Sums whose terms the port has in the other order.
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
        self.port = port
        self.call = call
        self.dtype_of_port = dtype
        self.observer = observer
        self.padding = padding or {}
        self.visited: set[str] = set()
        self.recent: deque[tuple[str, np.ndarray]] = deque(maxlen=RECENT)
        self.streams: deque[tuple[str, np.ndarray]] = deque(maxlen=STREAMS)
        self.resumed: dict[str, np.ndarray] = {}
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
        self._corrected: dict[tuple[str, int], np.ndarray] = {}  # outputs not used as recorded
        self.aligned: dict[str, tuple[int | None, ...]] = {}
        self._counted: set[str] = set()  # the names whose numbers were compared
        self.collected: dict[str, list[dict[str, np.ndarray]]] = {}
        self.turned: set[str] = set()
        self._trial: Trial | None = None  # of the part that is computed again
        # By their identity and a format, inputs of parts that were not recorded: they, and in it.
        self._made: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}

    # -- what the kinds of runs say ---------------------------------------------------------------

    def _find(self, name: str) -> TraceEntry | None:
        """Return what the port recorded under a name, or one that it has for it."""
        raise NotImplementedError

    def _read_inputs(self, entry: TraceEntry, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the recorded inputs of a layer, by the roles of its definition."""
        raise NotImplementedError

    def _read_result(self, entry: TraceEntry) -> np.ndarray | None:
        """Return the recorded output of an operation; None: there is none."""
        raise NotImplementedError

    def _layers(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the layers that have parameters, with them."""
        raise NotImplementedError

    def _repeating(self, frame: Frame, trial: Trial) -> AbstractContextManager[None]:
        """Compute a frame again in a block, under the conditions of a trial."""
        raise NotImplementedError

    def _resume(self, name: str, stream: Any, recorded: np.ndarray) -> bool:
        """Write recorded values into the stream that a norm reads; return whether it could be."""
        raise NotImplementedError

    def _cast(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays in the format in which a part is computed again."""
        return dict(arrays)

    def in_format(self, dtype: str) -> AbstractContextManager[None]:
        """Compute repeated runs in another number format than the port's."""
        raise NotImplementedError

    def as_recorded(self, call: LayerCall, x: np.ndarray) -> np.ndarray:
        """Return an array of a layer as the recorder writes it."""
        return x

    def _mark(self, entry: TraceEntry, call: LayerCall, role: str) -> None:
        """Note that a recorded input of a layer was compared."""

    def _in_port_format(self, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return parameters as the port's number format holds them."""
        return dict(parameters)

    # -- what was recorded ------------------------------------------------------------------------

    def find(self, name: str) -> TraceEntry | None:
        """Return what the port recorded of a layer; None if it did not."""
        base, _, number = name.partition(AGAIN)
        aligned = self.aligned.get(base)
        if aligned is None:
            return self._find(name)
        index = int(number or 0)
        found = aligned[index] if index < len(aligned) else None
        return None if found is None else self._find(numbered(base, found))

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
            output = self._read_result(entry)
            arrays = self._read_inputs(entry, likes)
            recorded.append(arrays if output is None else {**arrays, "": output})
        if 0 < len(recorded) < len(expected):
            self.aligned[base] = align(expected, recorded)
        elif 0 < len(expected) < len(recorded):
            self.aligned[base] = find_among(recorded, expected)

    def collect(self, base: str, frame: Frame) -> list[dict[str, np.ndarray]]:
        """Return the arrays of all operations of a name in a layer, as they are computed.

        Args:
            base: The name, without a number.
            frame: The layer.
        """
        self.aligned[base] = ()  # those recorded are not used until it is known which they are
        found = self.collected[base] = []
        try:
            with self._repeating(frame, Trial("", "", {}, False, False)):
                frame.compute(frame.inputs)
        except FAILS:
            return []
        finally:
            del self.collected[base], self.aligned[base]
        return found

    # -- what is judged ---------------------------------------------------------------------------

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
        self, call: LayerCall, entry: TraceEntry, norm: bool, stream: Any = None
    ) -> dict[str, np.ndarray]:
        """Compare the inputs of a recorded layer, and return those with which it is computed.

        Args:
            call: The layer.
            entry: What was recorded of it.
            norm: Whether it is a norm, whose input is the stream.
            stream: The first input as the run has it. None: the array of the call.
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
            if role == first and norm:
                self.streams.append((call.name, made))
                # The sums behind a norm read the same array: one wrong gate or residual is one row.
                if self._differs(made, point):
                    if self._resume(call.name, computed if stream is None else stream, made):
                        self.resumed[call.name] = made
            made.setflags(write=False)  # it is recorded: norms do not write it
        return inputs

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

    # -- what is computed again -------------------------------------------------------------------

    def rerun(
        self,
        point: Point,
        changes: Mapping[str, OperationChange] | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        low: bool = False,
        free: bool = False,
        exact: bool = False,
    ) -> np.ndarray | None:
        """Compute a point again.

        Args:
            point: The point.
            changes: Functions by the names of the operations that they replace.
            arguments: Other inputs of the part that is computed again.
            low: Whether to compute in the port's number format.
            free: Whether recorded layers are also computed again.
            exact: Whether inputs of the part that were not recorded are not rounded before it.

        Returns:
            The array, float64. None: it was not reached.

        Raises:
            ValueError: The arrays of the part do not fit each other.
        """
        frame = point.frame
        itself = not point.role and point.call.name == frame.name
        trial = Trial("" if itself else point.call.name, point.role, changes or {}, low, free)
        try:
            made = self._inputs_of(frame) if low and not exact else frame.inputs
            with self._repeating(frame, trial), np.errstate(all="ignore"):
                inputs = self._cast({**made, **(arguments or {})})
                if itself and not point.call.composite:
                    change = trial.changes.get(point.call.name, compute_as_is)
                    own = self._cast(self.parameters(point.call))
                    result = change(point.call, {**own, **inputs})
                else:
                    result = frame.compute(inputs)
        except TargetReached as reached:
            result = reached.parts
        else:
            if not itself:
                return None
        parts = parts_of(result)
        part = parts[point.part] if point.part < len(parts) else None
        if not isinstance(part, np.ndarray):
            return None
        return np.asarray(self.as_recorded(point.call, part), np.float64)

    def graph_of(self, point: Point) -> PartGraph | None:
        """Return the operations of the part that leads to a point; None: they are not known."""
        return None

    def _inputs_of(self, frame: Frame) -> dict[str, np.ndarray]:
        """Return the inputs of a part, those not recorded as the port's format makes them.

        A port rounds them before the part begins, and by more than the part does: the angles of
        rotations by |angle| units, modulations by what the embedding of the time does.
        """
        found = dict(frame.inputs)
        if frame.outer is None:
            return found
        for role in frame.computed:
            x = found[role]
            key = id(x), self.dtype_of_port
            if key not in self._made:
                self._made[key] = x, self._make_input(frame.outer, frame.name, role, x)
            found[role] = self._made[key][1]
        return found

    def _make_input(self, outer: Frame, name: str, role: str, x: np.ndarray) -> np.ndarray:
        """Return an input of a layer as a part around it makes it in the port's format."""
        inputs = self._inputs_of(outer)
        try:
            with self._repeating(outer, Trial(name, role, {}, True, False, positions=True)):
                outer.compute(self._cast(inputs))
        except TargetReached as reached:
            return reached.parts
        except FAILS:
            pass
        return x

    def _end_at_input(self, call: LayerCall) -> None:
        """End the part that is computed again if it ends at an input of a layer.

        Raises:
            TargetReached: It does.
        """
        trial = self._trial
        if trial is None or call.name != trial.target or not trial.role:
            return
        role = EXCHANGED[trial.role] if call.name in self.turned else trial.role
        raise TargetReached(call.inputs[role])

    def parameters(self, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the parameters of a layer as the port's number format holds them."""
        return self._in_port_format(call.parameters)

    def similar_layers(self, call: LayerCall) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the neighbours of a layer whose parameters have the same shapes."""
        for name, leaves in neighbours_of(call, self._layers()):
            yield name, self._in_port_format(leaves)

    def parameters_of(self, *endings: str) -> np.ndarray | None:
        """Return the first parameter of the first layer whose name has one of the endings.

        A parameter of no layer has its own name.
        """
        for name, leaves in self._layers():
            own = [x for one, x in leaves.items() if not name and one.endswith(endings)]
            if own or name.endswith(endings):
                first = next(iter(own or leaves.values()))
                return self._in_port_format({name: first})[name]
        return None


def compute_as_is(call: LayerCall, inputs: Mapping[str, np.ndarray]) -> Any:
    """Compute an operation without a change."""
    return call.compute(inputs)


def _is_spread(x: np.ndarray, whole: np.ndarray) -> bool:
    """Return whether an array has the numbers of another one whose rows along an axis are alike."""
    if x.ndim != whole.ndim or any(
        a not in (1, b) for a, b in zip(x.shape, whole.shape, strict=True)
    ):
        return False
    return bool(np.array_equal(np.broadcast_to(x, whole.shape), whole))


def made_before(
    used: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """Return the roles of a layer's inputs of floats for which no recorded array is used.

    Args:
        used: The inputs with which it is computed.
        inputs: Those that the run has.
    """
    floats = (role for role, x in used.items() if np.asarray(x).dtype.kind == "f")
    return tuple(role for role in floats if used[role] is inputs[role])


def numbered(base: str, number: int) -> str:
    """Return a name with the number of its earlier occurrences; none is written for 0.

    >>> numbered("silu", 0), numbered("silu", 2)
    ('silu', 'silu~2')
    """
    return f"{base}{AGAIN}{number}" if number else base


def operation_frame(call: LayerCall, inputs: Mapping[str, np.ndarray]) -> Frame:
    """Return the part that is an operation by itself, from its recorded inputs."""
    return Frame(call.name, call.compute, inputs, Counter(), [])
