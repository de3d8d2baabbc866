"""Parts of a recorded run that are computed again: with an operation exchanged, or in a format.

Known faults and noise floors are found so. Layers within such a part that the port recorded return
what the run used of them, unless something in them is exchanged: each hypothesis costs what was not
recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.recorded.alignment import EXCHANGED
from ldmref.locate.recorded.names import may_hold, neighbours_of
from ldmref.locate.recorded.unfit import UNFIT
from ldmref.locate.replay.beginning import PartBeginning
from ldmref.locate.replay.graph import PartGraph
from ldmref.locate.replay.points import Frame, OperationChange, Point, Trial
from ldmref.trace.model import Trace, TraceEntry

FAILS = (*UNFIT, RuntimeError)  # of arrays that do not fit, in NumPy and in torch


class TargetReached(BaseException):
    """Ends a part that is computed again at its target; no code of a network catches it."""

    def __init__(self, parts: Any):
        super().__init__()
        self.parts = parts


@dataclass(frozen=True)
class RepeatedLayer:
    """A layer or operation of a part that is computed again.

    Attributes:
        name: Its name.
        inputs: Returns its inputs by role.
        compute: Computes it, with a change or as it is, in the kind of arrays of the run.
        stream: Its first input as the run has it. None: it has none.
        kind: The kind of a layer of several operations, if it is known.
        composite: Whether it is a layer of several operations.
    """

    name: str
    inputs: Callable[[], Mapping[str, Any]]
    compute: Callable[[OperationChange | None], Any]
    stream: Any = None
    kind: str = ""
    composite: bool = False


class RepeatableRun:
    """A run whose parts can be computed again.

    Args:
        port: The trace of the port.
        call: The call to follow, "unet.000".
        dtype: The number format of the port, to which its parameters are rounded.

    Attributes:
        aligned: By the name of operations of which the port has another number: its number of each.
        collected: Arrays of such operations, while they are counted.
        turned: Sums whose terms the port has in the other order.
        resumed: By the norm that reads it, the stream where it went on from what was recorded.
        begins_alike: Whether layers write into none of the arrays that they read.
    """

    begins_alike = False

    def __init__(self, port: Trace, call: str, dtype: str):
        self.port = port
        self.call = call
        self.dtype_of_port = dtype
        self.aligned: dict[str, tuple[int | None, ...]] = {}
        self.collected: dict[str, list[dict[str, np.ndarray]]] = {}
        self.turned: set[str] = set()
        self.resumed: dict[str, np.ndarray] = {}
        self._seen: Counter[str] = Counter()  # the names so far
        self._trial: Trial | None = None  # of the part that is computed again
        self._corrected: dict[tuple[str, int], np.ndarray] = {}  # outputs not used as recorded
        # Of layers that were recorded: what tells how their outputs are read, the names in them.
        self._forms: dict[str, Any] = {}
        self._numbers: dict[str, Counter[str]] = {}
        # What the part of the last point returns before what is changed. None: nothing is kept.
        self._beginning: PartBeginning | None = None
        # By their identity and a format, inputs of parts that were not recorded: they, and in it.
        self._made: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}

    # -- what the kinds of runs say ---------------------------------------------------------------

    def _find(self, name: str) -> TraceEntry | None:
        """Return what the port recorded under a name, or one that it has for it."""
        raise NotImplementedError

    def _read_inputs(self, entry: TraceEntry, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the recorded inputs of a layer, by the roles of its definition."""
        raise NotImplementedError

    def _form_of(self, result: Any, kind: str, inputs: Mapping[str, Any]) -> Any:
        """Return what tells how recorded outputs of a layer are read, without its numbers."""
        raise NotImplementedError

    def _read_outputs(self, entry: TraceEntry, form: Any) -> list[np.ndarray | None]:
        """Return the recorded outputs of a layer; None for each that was not recorded."""
        raise NotImplementedError

    def _arrays_of(self, result: Any, kind: str) -> tuple[Any, ...]:
        """Return the outputs of a layer as arrays."""
        raise NotImplementedError

    def _with_arrays(self, form: Any, result: Any, arrays: Mapping[int, np.ndarray]) -> Any:
        """Return a layer's result with arrays in place of some of its outputs, by number.

        The result is None where all outputs are given.
        """
        raise NotImplementedError

    def _repeating(self, frame: Frame, trial: Trial) -> AbstractContextManager[None]:
        """Compute a frame again in a block, under the conditions of a trial."""
        raise NotImplementedError

    def _write(self, stream: Any, recorded: np.ndarray) -> bool:
        """Write recorded values into the stream that a norm reads; return whether it could be."""
        raise NotImplementedError

    def _layers(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the layers that have parameters, with them."""
        raise NotImplementedError

    def _cast(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays in the format in which a part is computed again."""
        return dict(arrays)

    def as_recorded(self, call: LayerCall, x: np.ndarray) -> np.ndarray:
        """Return an array of a layer as the recorder writes it."""
        return x

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

    def _used_outputs(self, name: str, entry: TraceEntry, form: Any) -> dict[int, np.ndarray]:
        """Return by number the recorded outputs of a layer with which the run went on."""
        recorded = self._read_outputs(entry, form)
        used = (self._corrected.get((name, part), x) for part, x in enumerate(recorded))
        return {part: x for part, x in enumerate(used) if x is not None}

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
        begins = self.begins_alike and not (low or free or arguments or self.resumed)
        beginning = self._begin(point, changes or {}) if begins else None
        trial = Trial(
            "" if itself else point.call.name, point.role, changes or {}, low, free,
            beginning=beginning,
        )  # fmt: skip
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
        parts = result if isinstance(result, tuple) else (result,)
        part = parts[point.part] if point.part < len(parts) else None
        if not isinstance(part, np.ndarray):
            return None
        return np.asarray(self.as_recorded(point.call, part), np.float64)

    def _begin(self, point: Point, changes: Mapping[str, OperationChange]) -> PartBeginning:
        """Return what is known of the beginning of a point's part, for one more trial."""
        known = self._beginning
        if known is None or known.point is not point or known.dtype != self.dtype_of_port:
            known = self._beginning = PartBeginning(point, self.dtype_of_port)
        known.start(changes)
        return known

    def _repeat(self, layer: RepeatedLayer, trial: Trial) -> Any:
        """Return the result of a layer in a part that is computed again, or that begins alike.

        Raises:
            TargetReached: The part ends at the layer.
        """
        beginning = trial.beginning
        if beginning is None or layer.name == trial.target:
            return self._repeat_layer(layer, trial)
        known = beginning.find(layer.name)
        if known is not None:
            self._seen.update(known[1])
            return known[0]
        before = self._seen.copy()
        result = self._repeat_layer(layer, trial)
        beginning.keep(layer.name, result, self._seen - before)
        return result

    def _repeat_layer(self, layer: RepeatedLayer, trial: Trial) -> Any:
        """Return the result of a layer in a part that is computed again.

        It is what was recorded, unless the part ends in this layer or something is exchanged in it.

        Raises:
            TargetReached: The part ends at the layer.
        """
        target = layer.name == trial.target
        if target and trial.role:
            role = EXCHANGED[trial.role] if layer.name in self.turned else trial.role
            raise TargetReached(layer.inputs()[role])
        if layer.name in self.resumed:
            self._write(layer.stream, self.resumed[layer.name])
        change = trial.changes.get(layer.name)
        around = layer.composite and may_hold(layer.name, trial.target)
        is_computed = trial.free or target or around or change is not None
        beginning = trial.beginning
        if beginning is not None and not is_computed:
            used = beginning.recorded.get(layer.name)
            if used is not None:
                self._seen.update(self._numbers.get(layer.name, ()))
                return used
        entry = None if is_computed else self.find(layer.name)
        form = self._forms.get(layer.name)
        if entry is not None and form is not None:
            used = self._used_outputs(layer.name, entry, form)
            if len(used) == len(form):
                self._seen.update(self._numbers.get(layer.name, ()))
                result = self._with_arrays(form, None, used)
                if beginning is not None:
                    beginning.note_recorded(layer.name, result)
                return result
        result = layer.compute(change)
        if entry is not None:
            form = self._form_of(result, layer.kind, layer.inputs())
            used = self._used_outputs(layer.name, entry, form)
            shapes = [*map(np.shape, self._arrays_of(result, layer.kind))]
            # Of what the run has not reached, nobody has said how it becomes the expected array.
            fits = {part: x for part, x in used.items() if np.shape(x) == shapes[part]}
            result = self._with_arrays(form, result, fits)
        elif (base := layer.name.partition(AGAIN)[0]) in self.collected:
            (output,) = self._arrays_of(result, layer.kind)
            self.collected[base].append({**layer.inputs(), "": output})
        if target:
            raise TargetReached(self._arrays_of(result, layer.kind))
        return result

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

    def graph_of(self, point: Point) -> PartGraph | None:
        """Return the operations of the part that leads to a point; None: they are not known."""
        return None

    @contextmanager
    def in_format(self, dtype: str) -> Iterator[None]:
        """Compute repeated runs in another number format than the port's."""
        saved = self.dtype_of_port
        self.dtype_of_port = dtype
        try:
            yield
        finally:
            self.dtype_of_port = saved

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

    # -- parameters -------------------------------------------------------------------------------

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


def numbered(base: str, number: int) -> str:
    """Return a name with the number of its earlier occurrences; none is written for 0.

    >>> numbered("silu", 0), numbered("silu", 2)
    ('silu', 'silu~2')
    """
    return f"{base}{AGAIN}{number}" if number else base
