"""ldmref's definition of a network, followed with what another program recorded.

Arrays that were not recorded and cannot be computed are NaN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.locate.causes.rotations import read_positions
from ldmref.locate.faults.attention import without_mask
from ldmref.locate.recorded.alignment import EXCHANGED
from ldmref.locate.recorded.names import (
    find_layer,
    is_apart,
    is_norm,
    layers_of,
    may_hold,
    parts_of,
    read_inputs,
    read_output,
    read_outputs,
)
from ldmref.locate.recorded.precision import Rounding, exact_backend, round_to
from ldmref.locate.recorded.several_outputs import read_selected, select_outputs
from ldmref.locate.recorded.unfit import UNFIT, first_line
from ldmref.locate.recorded.unnamed import ComputedArrays
from ldmref.locate.replay.following import LayerFollower
from ldmref.locate.replay.graph import INPUT, RECORDED, NotedOperation, PartGraph, plain
from ldmref.locate.replay.networks import RecordedNetwork
from ldmref.locate.replay.points import (
    Frame,
    OperationChange,
    PaddingRows,
    Point,
    PointObserver,
    Trial,
)
from ldmref.locate.replay.repeating import FAILS, RepeatedLayer, TargetReached, compute_as_is
from ldmref.locate.replay.unvisited import RunReads
from ldmref.locate.rows import is_within
from ldmref.math.arrays import Array
from ldmref.models.declared import DeclaredNetwork
from ldmref.trace.backend import name_outputs
from ldmref.trace.model import Trace, TraceEntry

REMEDY = "record it, or the inputs of the whole network"
NO_OUTPUT = "none of the arrays that it returned is its output"
LEAST_OF_SILU = -0.2785  # that x / (1 + exp(-x)) has for any x


@dataclass(frozen=True)
class OutputShapes:
    """How the recorded outputs of a layer are read.

    Attributes:
        shapes: The shape of each.
        alone: The number of the one that a port records which records one alone.
        several: Whether the layer returns a tuple.
    """

    shapes: tuple[tuple[int, ...], ...]
    alone: int
    several: bool

    def __len__(self) -> int:
        return len(self.shapes)


class Replay(LayerFollower, NamedBackend):
    """A float64 backend that follows the recorded run of a port.

    Args:
        port: The trace of the port.
        call: The call to follow, "unet.000".
        dtype: The number format of the port, to which its parameters are rounded.
        observer: The judge.
        padding: The rows that are padding. None: there are none.
        reads: Where is noted what the network reads. None: nowhere.
    """

    begins_alike = True

    def __init__(
        self,
        port: Trace,
        call: str,
        dtype: str,
        observer: PointObserver,
        padding: PaddingRows | None = None,
        reads: RunReads | None = None,
    ):
        NamedBackend.__init__(self, exact_backend())
        LayerFollower.__init__(self, port, call, dtype, observer, padding)
        self.exact = self.inner
        self._rounding: dict[str, Rounding] = {}  # by number format
        self.reads = reads
        self.foreign: tuple[str, ...] = ()  # layers of the port that compute something else
        self.unmasked = False  # whether attention reads the padding
        self.computed: ComputedArrays | None = None  # that looks for recorded arrays

    # -- the run ----------------------------------------------------------------------------------

    def run(
        self, network: DeclaredNetwork, params: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> Any:
        """Run a network's function and observe its recorded output."""
        params = params if self.reads is None else self.reads.watch(params)
        self.name_parameters(params)
        arrays = dict(arguments)
        function = network.function
        self.arguments = arrays
        self.config = arrays.get("config")
        ids = arrays.get("ids")
        self.ids = ids if ids is not None and ids.dtype.kind != "f" else None

        def compute(inputs: Mapping[str, np.ndarray]) -> Any:
            return function(self, params, **inputs)

        whole = LayerCall("", function.__name__, arrays, {}, {}, compute, composite=True)
        frame = Frame("", compute, arrays, Counter(), [])
        with self._inside(frame):
            self._around.append(frame)
            with self.observed(function.__name__):
                result = compute(arrays)
            self._around.pop()
            entry = self.port.find(self.call)
            seen = False
            returned = {role or "output": x for role, x in name_outputs(network, result).items()}
            taken: set[str] = set()
            for part, (role, array) in enumerate(returned.items()):
                others = {*returned} - {role}
                names = () if entry is None else self._select(entry, role, array, others, taken)
                taken |= {*names}
                recorded = read_selected(self.port, names) if names else None
                if entry is not None and recorded is not None:
                    self._observe_output(whole, entry, part, array, recorded, arrays, frame)
                    seen = True
            if entry is not None and entry.outputs and not seen:
                self.observer.skip(whole, NO_OUTPUT)
        return result

    def _select(
        self,
        entry: TraceEntry,
        role: str,
        computed: np.ndarray,
        others: Collection[str],
        taken: Collection[str],
    ) -> tuple[str, ...]:
        """Return the names of a recorded output of the network, and note which of several it is."""
        names = select_outputs(self.port, entry, role, computed, others, taken)
        if self.reads is not None and names:
            self.reads.outputs[role] = names
        return names

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        """Compute silu(group_norm(x)), as one layer if the port recorded it as one."""
        if self._is_fused(weight, "group_norm_silu"):
            return self._operate("group_norm_silu", (x, weight, bias, groups, eps), {})
        return super().group_norm_silu(x, weight, bias, groups, eps)

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """Compute a * gelu(gate), as one layer if the port recorded it as one."""
        if self._is_fused(weight, "geglu"):
            return self._operate("geglu", (x, weight, bias), {})
        return super().geglu(x, weight, bias)

    def _is_fused(self, weight: Array, operation: str) -> bool:
        """Return whether a port recorded two operations as one layer.

        Without a manifest, its output tells it: numbers of SiLU have a bound below, and GEGLU
        returns half of what the linear layer does.
        """
        entry = self.port.find(self.call, self._names.get(id(weight), ""))
        if entry is None or entry.kind:
            return entry is not None and entry.kind == operation
        output = read_output(self.port, entry)
        if output is None or not output.size:
            return False
        if operation == "geglu":
            return 2 * output.shape[-1] == np.shape(weight)[0]
        return bool(np.min(output) >= LEAST_OF_SILU)

    def visit(self, call: LayerCall) -> Any:
        """Observe a layer, and return its recorded output if there is one."""
        bias = call.inputs.get("bias") if call.kind == "attention" and self.unmasked else None
        if bias is not None:
            call = replace(call, inputs={**call.inputs, "bias": without_mask(bias)})
        if self._trial is not None:
            return self._visit_again(call, self._trial)
        if self.reads is not None:
            self.reads.note(call)
        if is_within(call.name, self.foreign):
            return self._pass_on(call)
        call, entry = self.match(call)
        if entry is not None and is_apart(self.port, entry, call):
            return self._visit_apart(call, entry)
        stream = next(iter(call.inputs.values())) if is_norm(call.name, call.kind) else None
        result = self._follow(call, entry, partial(self._compute, call), stream)
        if self.computed is not None and entry is not None:
            self.computed.note(*parts_of(result))
        return result

    def _compute(self, call: LayerCall, inputs: Mapping[str, np.ndarray]) -> Any:
        """Compute a layer, and show it to what looks for recorded arrays."""
        result = self._operate_exactly(call, inputs)
        if self.computed is not None:
            params = {} if self.reads is None else self.reads.params
            self.computed.note_layer(call, inputs, result, params, self._compute_freely)
        return result

    def _form_of(self, result: Any, kind: str, inputs: Mapping[str, Any]) -> OutputShapes:
        """Return the shapes of a layer's outputs; the first that is no input may be alone."""
        read = {id(x) for x in inputs.values()}
        outputs = parts_of(result)
        alone = next((part for part, x in enumerate(outputs) if id(x) not in read), 0)
        return OutputShapes(tuple(map(np.shape, outputs)), alone, isinstance(result, tuple))

    def _read_outputs(self, entry: TraceEntry, form: OutputShapes) -> list[np.ndarray | None]:
        """Return the recorded outputs of a layer; None for each that was not recorded."""
        return read_outputs(self.port, entry, form.shapes, form.alone)

    def _arrays_of(self, result: Any, kind: str) -> tuple[Any, ...]:
        """Return the outputs of a layer as arrays."""
        return parts_of(result)

    def _with_arrays(self, form: OutputShapes, result: Any, arrays: Mapping[int, Any]) -> Any:
        """Return a layer's result with arrays in place of some of its outputs, by number."""
        if self._trial is not None:
            arrays = {part: self._cast({"": x})[""] for part, x in arrays.items()}
        own = dict(enumerate(() if result is None else parts_of(result)))
        outputs = tuple({**own, **arrays}[part] for part in range(len(form)))
        return outputs if form.several else outputs[0]

    # -- layers of other shapes, or that the definition lacks --------------------------------------

    def _assume(self, call: LayerCall) -> Any:
        """Return the output of a layer, only for its shape."""
        return self._compute_freely(call, call.inputs, False)

    def _compute_freely(self, call: LayerCall, inputs: Mapping[str, np.ndarray], low: bool) -> Any:
        """Return the output of a layer from other inputs, whatever was recorded within it."""
        seen = self._seen.copy()
        self._trial = Trial("", "", {}, low, True)
        self.inner = self._low() if low else self.exact
        try:
            return self._finish(call.compute(self._cast({**self.parameters(call), **inputs})))
        finally:
            self._trial = None
            self.inner = self.exact
            self._seen = seen  # or layers within it would be counted as called twice

    def _pass_on(self, call: LayerCall) -> Any:
        """Return the recorded outputs of a layer that ldmref does not have; NaN for the others."""
        entry = self.find(call.name)
        used = []
        for part, assumed in enumerate(parts_of(self._assume(call))):
            recorded = None if entry is None else read_output(self.port, entry, part, only=not part)
            fits = recorded is not None and np.shape(recorded) == np.shape(assumed)
            used.append(recorded if fits else np.full(np.shape(assumed), np.nan))
        self._reached(call)
        return tuple(used) if call.several else used[0]

    def _visit_apart(self, call: LayerCall, entry: TraceEntry) -> Any:
        """Observe a layer of other shapes than those assumed; the run continues with the latter."""
        self.visited.add(entry.layer)
        outside = self._seen.copy(), self._pending, self._after
        assumed = self._assume(call)
        inputs = read_inputs(self.port, entry, call)
        positions = read_positions(self.port, entry, call.attributes.get("dims", ()))
        if "positions" in call.inputs and positions is not None:
            inputs.setdefault("positions", positions)
        missing = [role for role in call.inputs if role not in inputs]
        if missing and call.composite:
            self._follow_inside(call)
        if entry.outputs and missing:
            self.observer.skip(call, f"its input {missing[0]!r} was not recorded; {REMEDY}")
        elif entry.outputs:
            self._observe_apart(call, entry, inputs)
        self._seen, self._pending, self._after = outside
        return assumed

    def _follow_inside(self, call: LayerCall) -> None:
        """Observe what was recorded within a layer that cannot be computed as a whole."""
        inputs = dict(call.inputs)
        frame = self._frame(call, inputs, False)
        self._around.append(frame)
        call.compute(inputs)
        self._around.pop()

    def _observe_apart(
        self, call: LayerCall, entry: TraceEntry, inputs: dict[str, np.ndarray]
    ) -> None:
        """Judge the outputs of a layer from its recorded inputs alone."""
        frame = self._frame(call, inputs, False)
        self._pending, self._after = [] if call.composite else [call], ()
        with self._inside(frame):
            try:
                result = self._operate_exactly(call, inputs)
                self._observe_outputs(call, entry, result, inputs, frame)
            except (ValueError, IndexError) as error:
                self.observer.refuse(call, inputs, first_line(error))

    def _operate_exactly(self, call: LayerCall, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            return self._finish(call.compute({**self.parameters(call), **inputs}))

    # -- how layers are found and computed again ---------------------------------------------------

    def embedding(self, table: object, ids: object) -> Any:
        """Return the rows of ids; NaN for ids that were not recorded."""

        def look_up(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
            if ids.dtype.kind != "f":
                return self.inner.embedding(table, ids)
            unknown = np.isnan(ids)
            rows = self.inner.embedding(table, np.where(unknown, 0, ids).astype(np.int64))
            return np.where(unknown[..., None], np.nan, rows)

        return self._visit_function(look_up, "embedding", {"table": table, "ids": ids})

    def _finish(self, result: object) -> Any:
        """Return an array in float64; other results as they are."""
        if isinstance(result, np.ndarray) and result.dtype.kind == "f" and not self._is_low:
            return np.asarray(result, np.float64)
        return result

    def _low(self) -> Rounding:
        """Return the backend that computes in the port's number format."""
        if self.dtype_of_port not in self._rounding:
            self._rounding[self.dtype_of_port] = Rounding(self.dtype_of_port)
        return self._rounding[self.dtype_of_port]

    @property
    def _is_low(self) -> bool:
        return self._trial is not None and self._trial.low

    def _in_port_format(self, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return parameters as the port's number format holds them."""
        return {name: round_to(x, self.dtype_of_port) for name, x in parameters.items()}

    @contextmanager
    def _repeating(self, frame: Frame, trial: Trial) -> Iterator[None]:
        """Compute a frame again in a block, under the conditions of a trial."""
        saved = self._seen, self._scope, self.inner, self.dtype, self._trial
        self._seen, self._scope = frame.seen.copy(), [*frame.scope]
        self._trial = trial
        self.inner = self._low() if trial.low else self.exact
        if trial.positions:
            self.dtype = self.inner.dtype
        try:
            yield
        finally:
            self._seen, self._scope, self.inner, self.dtype, self._trial = saved

    def count_from_zero(self, x: Array, axis: int) -> Array:
        """Count in the state dtype of the run, which a trial may change."""
        return Backend.count_from_zero(self, x, axis)

    def _find(self, name: str) -> TraceEntry | None:
        """Return what the port recorded under a name, or one that it has for it."""
        return find_layer(self.port, self.call, name)

    def _read_inputs(self, entry: TraceEntry, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the recorded inputs of a layer, by the roles of its definition."""
        return read_inputs(self.port, entry, call)

    def _scopes(self) -> list[Any]:
        """Return the layers around what is computed, as the run repeats them."""
        return self._scope

    def _layers(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the layers that have parameters, with them."""
        for tree in self._trees:
            yield from layers_of(tree, "")

    # -- the part as a graph -----------------------------------------------------------------------

    def graph_of(self, point: Point) -> PartGraph | None:
        """Return the operations of the part that leads to a point, and of the block around it.

        None: the part cannot be computed again as it was.
        """
        frame = point.frame
        graph = PartGraph(lambda: self._scope[-1] if self._scope else "")
        itself = not point.role and point.call.name == frame.name
        target = "" if itself else point.call.name
        trial = Trial(target, point.role, {}, False, False, graph=graph, part=point.part)
        try:
            with self._repeating(frame, trial), np.errstate(all="ignore"):
                inputs = {
                    role: graph.constant(x, INPUT, role)
                    for role, x in self._cast(frame.inputs).items()
                }
                result = frame.compute(inputs)
        except TargetReached:
            pass
        except FAILS:
            return None
        else:
            if itself:
                parts = parts_of(result)
                last = parts[point.part] if point.part < len(parts) else None
                graph.target = graph.number_of(last)
        if graph.target is None or graph.value(graph.target).shape != np.shape(point.computed):
            return None
        graph.close(point.call, point.role)
        return graph

    def _visit_in_graph(self, call: LayerCall, trial: Trial, graph: PartGraph) -> Any:
        """Compute a layer again, and note its operations."""
        target = call.name == trial.target
        if target and trial.role:
            role = EXCHANGED[trial.role] if call.name in self.turned else trial.role
            graph.target = graph.number_of(call.inputs[role])
        if call.name in self.resumed:
            self._write(next(iter(call.inputs.values())), self.resumed[call.name])
        entry = self.find(call.name)
        outside = not (target or (call.composite and may_hold(call.name, trial.target)))
        forced = None
        if entry is not None and outside and not call.several and graph.target is None:
            forced = self._forced(call.name, entry)
        if call.composite:
            if forced is not None:
                numbers = tuple(map(graph.number_of, call.inputs.values()))
                return graph.constant(self._cast({"": forced})[""], RECORDED, call.name, numbers)
            result = call.compute(call.inputs)
            for part in parts_of(result):
                number = graph.number_of(part)
                if number is not None:
                    graph.ends.setdefault(number, []).append(call.name)
        else:
            result = self._note_layer(call, graph, forced)
        if target and not trial.role:
            parts = parts_of(result)
            graph.target = graph.number_of(parts[trial.part]) if trial.part < len(parts) else None
        is_block = call.composite and call.name.rpartition(".")[2].isdecimal()
        if graph.target is not None and is_block and may_hold(call.name, trial.target):
            raise TargetReached(result)
        return result

    def _note_layer(self, call: LayerCall, graph: PartGraph, forced: np.ndarray | None) -> Any:
        """Compute a layer that is one operation, and note it; with what it returned, if known."""
        parameters = self._cast(self.parameters(call))
        found = {role: graph.number_of(x) for role, x in call.inputs.items()}
        roles = [role for role, number in found.items() if number is not None]
        others = {role: plain(x) for role, x in call.inputs.items() if role not in roles}

        def compute(arrays: Sequence[np.ndarray]) -> Any:
            inputs = dict(zip(roles, map(np.copy, arrays), strict=True))
            return self._cast({"": call.compute({**parameters, **others, **inputs})})[""]

        value = compute([plain(call.inputs[role]) for role in roles]) if forced is None else forced
        value = self._cast({"": value})[""]
        numbers = tuple(number for number in found.values() if number is not None)
        fixed = forced is not None
        return graph.add(
            NotedOperation(call.kind, call.name, numbers, compute, value, fixed, True, (*roles,))
        )

    def _visit_again(self, call: LayerCall, trial: Trial) -> Any:
        """Return the result of a layer in a part that is computed again."""
        if trial.graph is not None:
            return self._visit_in_graph(call, trial, trial.graph)

        def compute(change: OperationChange | None) -> Any:
            inputs = {**self._cast(self.parameters(call)), **call.inputs}
            return self._cast({"": (change or compute_as_is)(call, inputs)})[""]

        first = next(iter(call.inputs.values()))
        layer = RepeatedLayer(
            call.name, lambda: call.inputs, compute, first, call.kind, call.composite
        )
        return self._repeat(layer, trial)

    def _write(self, stream: Any, recorded: np.ndarray) -> bool:
        """Write recorded values into the stream that a norm reads; return whether it could be."""
        writable = isinstance(stream, np.ndarray) and stream.flags.writeable
        if not writable or stream.dtype.kind != "f" or stream.shape != recorded.shape:
            return False
        arrays = (x for x in self.arguments.values() if isinstance(x, np.ndarray))
        if id(stream) in self._names or any(np.may_share_memory(stream, x) for x in arrays):
            return False
        stream[...] = recorded
        return True

    def _forced(self, name: str, entry: TraceEntry) -> np.ndarray | None:
        """Return the output that the replay used downstream of a recorded layer."""
        corrected = self._corrected.get((name, 0))
        return read_output(self.port, entry) if corrected is None else corrected

    def _cast(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays in the type in which the repeated run computes."""
        low = self._is_low and self.dtype_of_port != "float64"
        kind = np.float32 if low else np.float64
        return {
            name: np.asarray(x, kind) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
            for name, x in arrays.items()
        }


@dataclass(frozen=True)
class NetworkReplay:
    """How a recorded call of a network is followed.

    Attributes:
        port: The trace.
        call: The call.
        dtype: The port's number format.
        padding: The rows that are padding. None: there are none.
        foreign: Layers of the port that compute something else, and are not judged.
        unmasked: Whether no attention has the mask of its padding.
    """

    port: Trace
    call: str
    dtype: str
    padding: PaddingRows | None = None
    foreign: Sequence[str] = ()
    unmasked: bool = False

    def follow(
        self,
        network: RecordedNetwork,
        observer: PointObserver,
        *,
        visited: set[str] | None = None,
        reads: RunReads | None = None,
        computed: ComputedArrays | None = None,
    ) -> str:
        """Follow the call, and return why it could not be completed; "": it was.

        Args:
            network: The network, with the recorded arguments.
            observer: The judge.
            visited: The layers that were computed; more are added. None: they are not noted.
            reads: Where is noted what the network reads. None: nowhere.
            computed: What is shown all arrays between layers. None: nothing.
        """
        replay = Replay(self.port, self.call, self.dtype, observer, self.padding, reads)
        replay.visited = set() if visited is None else visited
        replay.foreign = (*self.foreign,)
        replay.unmasked = self.unmasked
        replay.computed = computed
        try:
            with np.errstate(all="ignore"):
                replay.run(network.network, network.params, network.arguments)
        except UNFIT as error:
            return first_line(error)
        return ""
