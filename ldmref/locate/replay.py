"""Teacher-forced replay: ldmref's definition of a network, run on what another program recorded.

At every layer that the port recorded, the replay passes on

1. the input that it computed from the port's recorded outputs upstream, and the recorded input:
   their difference is the error of everything in between that was not recorded (wiring);
2. the output that it computes from the recorded input, and the recorded output: the layer's own
   error;

and continues with the recorded output. A part can be run again with an operation exchanged or in
another number format (`Replay.rerun`), which is how known faults and noise floors are found.
Arrays that were not recorded and cannot be computed are NaN.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.alignment import align, exchange_terms, find_among, is_exchanged
from ldmref.locate.faults.norms import eps_of_norm
from ldmref.locate.law import allowed_error
from ldmref.locate.layouts import relative_error
from ldmref.locate.names import (
    count_modulations,
    find_entry,
    is_apart,
    is_norm,
    parts_of,
    read_inputs,
    read_output,
    read_role,
)
from ldmref.locate.networks import RecordedNetwork
from ldmref.locate.points import Frame, PaddingRows, Point, PointObserver, Trial
from ldmref.locate.precision import EPSILONS, stored_unit
from ldmref.locate.rotations import read_positions
from ldmref.locate.rows import is_within
from ldmref.locate.trials import RepeatableRun
from ldmref.locate.unfit import UNFIT, first_line
from ldmref.locate.unvisited import RunReads
from ldmref.math.arrays import Array
from ldmref.models.declared import DeclaredNetwork
from ldmref.trace.backend import name_outputs
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

REMEDY = "record it, or the inputs of the whole network"
LEAST_OF_SILU = -0.2785  # that x / (1 + exp(-x)) has for any x
EARLIER = 12  # norms before a part that are changed as well
MOST_EARLIER = 16  # operations before a part that are changed as well
RECENT = 8  # outputs kept to recognise them
STREAMS = 4  # inputs of norms kept to recognise them
SKIPS = re.compile(r"conv_in|down_blocks\.\d+\.(resnets|attentions|downsamplers)\.\d+(\.conv)?")


class Replay(RepeatableRun):
    """A float64 backend that follows the recorded run of a port.

    Args:
        port: The trace of the port.
        call: The call to follow, "unet.000".
        dtype: The number format of the port, to which its parameters are rounded.
        observer: The judge.
        padding: The rows that are padding. None: there are none.
        reads: Where is noted what the network reads. None: nowhere.
    """

    def __init__(
        self,
        port: Trace,
        call: str,
        dtype: str,
        observer: PointObserver,
        padding: PaddingRows | None = None,
        reads: RunReads | None = None,
    ):
        super().__init__(port, call, dtype)
        self.observer = observer
        self.reads = reads
        self.padding = padding or {}
        self.foreign: tuple[str, ...] = ()  # layers of the port that compute something else
        self.visited: set[str] = set()
        self.recent: deque[tuple[str, np.ndarray]] = deque(maxlen=RECENT)
        self.streams: deque[tuple[str, np.ndarray]] = deque(maxlen=STREAMS)
        self.skips: dict[str, np.ndarray] = {}  # outputs that skip connections may carry
        self.modulations: dict[str, int] = {}  # linear layers of adaptive norms, and their parts
        self.arguments: Mapping[str, Any] = {}  # of the network
        self.config: Any = None
        self.ids: np.ndarray | None = None  # of a text encoder's tokens, (n, l)
        self._frames: list[Frame] = []
        # The norms that were computed last and not recorded, and which is the first of a frame.
        self._norms: deque[tuple[int, LayerCall]] = deque(maxlen=EARLIER)
        self._first_norms: dict[str, int] = {}
        self._modules: list[Frame] = []  # the layers around an operation, recorded or not
        self._pending: list[LayerCall] = []  # operations since the last recorded array
        self._led: tuple[LayerCall, ...] = ()  # those that led to the last recorded input
        self._after: list[str] = []

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
        self.of_tables = function, params, arrays
        self._begin(frame)
        self._modules.append(frame)
        with self.observed(function.__name__):
            result = compute(arrays)
        self._frames.pop()
        entry = self.port.find(self.call)
        for part, (output, array) in enumerate(name_outputs(network, result).items()):
            role = output or "output"
            recorded = None if entry is None else read_role(self.port, entry.outputs, role)
            if entry is not None and recorded is not None:
                suspects = tuple(self._pending)
                unit = stored_unit(self.port, entry)
                last, norms = self._last(), self._earlier(frame)
                point = Point(
                    whole,
                    "",
                    array,
                    recorded,
                    arrays,
                    frame,
                    suspects,
                    last,
                    unit,
                    part,
                    norms=norms,
                )
                self._judge(point)
        return result

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
        if self._trial is not None:
            return self._visit_again(call, self._trial)
        if self.reads is not None:
            self.reads.note(call)
        if is_within(call.name, self.foreign):
            return self._pass_on(call)
        entry = self._entry_of(call)
        call_in_order = self._in_order(call, entry)
        if entry and self._is_unnamed(call) and self._is_another(call_in_order, entry):
            self._align(call)
            entry = self._entry_of(call)
            call_in_order = self._in_order(call, entry)
        call = call_in_order
        if entry is not None and is_apart(self.port, entry, call):
            return self._visit_apart(call, entry)
        inputs = dict(call.inputs)
        closed = False  # whether it is computed from a recorded input
        if entry is not None:
            self.visited.add(entry.layer)
            inputs = self._observe_inputs(call, entry)
            closed = bool(entry.inputs)
        if closed:
            self._led = tuple(self._pending) or self._led
            self._pending = []
        if call.composite:
            frame = Frame(call.name, call.compute, inputs, self._seen.copy(), self._scope[:])
            if closed:
                self._begin(frame)
            self._modules.append(frame)
            result = self._finish(call.compute(inputs))
            self._modules.pop()
            if closed:
                self._frames.pop()
        else:
            frame = Frame(call.name, call.compute, inputs, Counter(), [])
            result = self._operate_exactly(call, inputs)
            self._pending.append(call)
            if entry is None and eps_of_norm(call) is not None:
                self._norms.append((self._visited, call))
            self._keep_modulation(call)
        if entry is None:
            return self._keep(call, result)
        start = frame if closed else self._frames[-1]
        forced = self._observe_outputs(call, entry, result, inputs, start)
        return forced if call.several else self._keep(call, forced)

    def _observe_outputs(
        self,
        call: LayerCall,
        entry: TraceEntry,
        result: object,
        inputs: Mapping[str, np.ndarray],
        frame: Frame,
    ) -> Any:
        """Compare the recorded outputs of a layer, and return those to use downstream."""
        used = list(parts_of(result))
        unit = stored_unit(self.port, entry)
        suspects = tuple(self._pending)
        seen = False
        read = {id(x) for x in inputs.values()}
        returned = [part for part, x in enumerate(used) if id(x) not in read] or [0]
        joined = split_joined(read_output(self.port, entry), used)
        for part, computed in enumerate(used):
            recorded = read_output(self.port, entry, part, only=part == returned[0])
            recorded = joined[part] if joined else recorded
            if recorded is None:
                continue
            last, norms = self._last(), self._earlier(frame)
            point = Point(
                call, "", computed, recorded, inputs, frame, suspects, last, unit, part, norms=norms
            )
            used[part] = self._judge(point)
            if used[part] is recorded:
                recorded.setflags(write=False)  # norms do not write it
            else:
                self._corrected[entry.layer, part] = used[part]
            if not part:
                self.recent.append((call.name, used[part]))
            seen = True
        if seen:
            self._pending = []
            self._after = [call.name]
        return tuple(used) if isinstance(result, tuple) else used[0]

    def _begin(self, frame: Frame) -> None:
        """Begin a part that can be run again: the norms that follow are its own."""
        self._frames.append(frame)
        self._first_norms[frame.name] = self._visited

    def _earlier(self, frame: Frame) -> tuple[LayerCall, ...]:
        """Return the last norms of a frame that were not recorded."""
        first = self._first_norms.get(frame.name)
        return tuple(call for number, call in self._norms if first is not None and number >= first)

    def _led_within(self, frame: Frame, suspects: tuple[LayerCall, ...]) -> tuple[LayerCall, ...]:
        """Return what led to the last recorded input, as far as it is in a frame and no suspect.

        What it computed may be read again behind that layer, as the attention beside an MLP.
        """
        inside = f"{frame.name}." if frame.name else ""
        ours = {call.name for call in suspects}
        found = (x for x in self._led if x.name not in ours and x.name.startswith(inside))
        return tuple(found)[:MOST_EARLIER]

    def _keep(self, call: LayerCall, result: object) -> Any:
        """Keep the output of a layer that a skip connection may carry, and return it."""
        if SKIPS.fullmatch(call.name) and isinstance(result, np.ndarray):
            self.skips[call.name] = result
        return result

    def _keep_modulation(self, call: LayerCall) -> None:
        """Note a linear layer that gives shift, scale and gate of a block."""
        around = next(iter(self._modules[-1].inputs.values()), None)
        width = around.shape[-1] if isinstance(around, np.ndarray) and around.ndim else 0
        parts = count_modulations(call, width) if width else 0
        if parts:
            self.modulations[call.name] = parts

    # -- operations that the port left out -------------------------------------------------------

    def _is_unnamed(self, call: LayerCall) -> bool:
        """Return whether a layer is an operation that has only a number in its module."""
        base = call.name.partition(AGAIN)[0]
        return not (call.parameters or call.composite or base in self._aligned)

    def _is_another(self, call: LayerCall, entry: TraceEntry) -> bool:
        """Return whether the port's operation of this name reads something else."""
        recorded = read_inputs(self.port, entry, call)
        known = {role: x for role, x in call.inputs.items() if not np.isnan(x).any()}
        shared = recorded.keys() & known.keys()
        allowed = self._rounding_of(entry)
        return any(relative_error(recorded[role], known[role]) > allowed for role in shared)

    def _in_order(self, call: LayerCall, entry: TraceEntry | None) -> LayerCall:
        """Return an operation with its terms in the port's order, if it is a recorded sum."""
        if call.kind != "add" or entry is None:
            return call
        recorded = read_inputs(self.port, entry, call)
        self._turned.discard(call.name)
        if not is_exchanged(call.inputs, recorded, self._rounding_of(entry)):
            return call
        self._turned.add(call.name)
        return replace(call, inputs=exchange_terms(call.inputs))

    def _rounding_of(self, entry: TraceEntry) -> float:
        """Return the relative error of an array that is rounding of the port."""
        unit = max(EPSILONS[self.dtype_of_port], stored_unit(self.port, entry))
        return allowed_error(0.0, unit)

    def _align(self, call: LayerCall) -> None:
        """Find the port's number of each operation of this kind in the module around it."""
        base = call.name.partition(AGAIN)[0]
        recorded = []
        while True:
            number = f"{AGAIN}{len(recorded)}" if recorded else ""
            entry = find_entry(self.port, self.call, replace(call, name=base + number))
            if entry is None:
                break
            arrays = read_inputs(self.port, entry, call)
            output = read_output(self.port, entry)
            recorded.append(arrays if output is None else {**arrays, "": output})
        expected = self._collect(base)
        if 0 < len(recorded) < len(expected):
            self._aligned[base] = align(expected, recorded)
        elif 0 < len(expected) < len(recorded):
            self._aligned[base] = find_among(recorded, expected)
        else:
            del self._aligned[base]

    def _collect(self, base: str) -> list[dict[str, np.ndarray]]:
        """Return the arrays of all operations of a name, from the port's layers in the module."""
        module = self._modules[-1]
        saved = self._seen, self._scope
        self._seen, self._scope = module.seen.copy(), [*module.scope]
        self._aligned[base] = ()  # those recorded are not used until it is known which they are
        found = self._collected[base] = []
        self._trial = Trial("", "", {}, False, False)
        try:
            module.compute(module.inputs)
        except (ValueError, IndexError):
            return []
        finally:
            self._trial = None
            self._seen, self._scope = saved
            del self._collected[base]
        return found

    def _assume(self, call: LayerCall) -> Any:
        """Return the output of a layer, only for its shape."""
        seen = self._seen.copy()
        self._trial = Trial("", "", {}, False, True)
        try:
            return self._finish(call.compute({**self.parameters(call), **call.inputs}))
        finally:
            self._trial = None
            self._seen = seen  # or layers within it would be counted as called twice

    def _pass_on(self, call: LayerCall) -> Any:
        """Return the recorded outputs of a layer that ldmref does not have; NaN for the others."""
        entry = self._entry_of(call)
        used = []
        for part, assumed in enumerate(parts_of(self._assume(call))):
            recorded = None if entry is None else read_output(self.port, entry, part, only=not part)
            fits = recorded is not None and np.shape(recorded) == np.shape(assumed)
            used.append(recorded if fits else np.full(np.shape(assumed), np.nan))
        self._pending = []
        self._after = [call.name]
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
        frame = Frame(call.name, call.compute, inputs, self._seen.copy(), self._scope[:])
        self._modules.append(frame)
        call.compute(inputs)
        self._modules.pop()

    def _observe_apart(
        self, call: LayerCall, entry: TraceEntry, inputs: dict[str, np.ndarray]
    ) -> None:
        """Judge the outputs of a layer from its recorded inputs alone."""
        frame = Frame(call.name, call.compute, inputs, self._seen.copy(), self._scope[:])
        self._pending, self._after = [] if call.composite else [call], []
        self._frames.append(frame)
        try:
            result = self._operate_exactly(call, inputs)
            self._observe_outputs(call, entry, result, inputs, frame)
        except (ValueError, IndexError) as error:
            self.observer.refuse(call, inputs, str(error).splitlines()[0])
        finally:
            self._frames.pop()

    def _observe_inputs(self, call: LayerCall, entry: TraceEntry) -> dict[str, np.ndarray]:
        """Compare the inputs of a recorded layer, and return those with which it is computed."""
        inputs: dict[str, np.ndarray] = dict(call.inputs)
        for role, computed in call.inputs.items():
            recorded = read_role(self.port, entry.inputs, role, list(call.inputs))
            if recorded is None:
                continue
            suspects = tuple(self._pending) or self._led  # the last layer may read the same array
            frame = self._frames[-1]
            unit = stored_unit(self.port, entry)
            last, norms, led = self._last(), self._earlier(frame), self._led_within(frame, suspects)
            point = Point(
                call, role, computed, recorded, {}, frame, suspects, last, unit, 0, led, norms=norms
            )
            used = self._judge(point)
            made = inputs[role] = used.astype(
                np.float64 if computed.dtype.kind == "f" else np.int64
            )
            if role == next(iter(call.inputs)) and is_norm(call.name, call.kind):
                self._resume(point, made)
                self.streams.append((call.name, made))
            made.setflags(write=False)  # it is recorded: norms do not write it
        return inputs

    def _resume(self, point: Point, used: np.ndarray) -> None:
        """Let the stream that a norm reads go on from what was recorded.

        The sums behind a norm read the same array, so one wrong gate or residual is one row.
        """
        arrays = (x for x in self.arguments.values() if isinstance(x, np.ndarray))
        if not self._differs(used, point) or any(
            np.may_share_memory(point.computed, x) for x in arrays
        ):
            return
        if self._write_stream(point.call, used):
            self.stream[point.call.name] = used

    def _differs(self, x: np.ndarray, point: Point) -> bool:
        """Return whether an array is none that rounding makes of the computed one."""
        allowed = allowed_error(0.0, max(EPSILONS[self.dtype_of_port], point.unit))
        floats = x.dtype.kind == "f" and x.shape == np.shape(point.computed)
        if not floats or np.isnan(point.computed).any():
            return False
        return not relative_error(point.kept(x), point.kept(np.asarray(point.computed))) <= allowed

    def _with_stream(self, point: Point) -> Point:
        """Return a point as it is if the stream did not go on from the last recorded array.

        The norm alone may have read another array than the sums behind it.
        """
        if not self.stream or not self._differs(point.recorded, point):
            return point
        name, array = self.stream.popitem()
        with suppress(ValueError, IndexError):
            computed = self.rerun(point)
            other = point if computed is None else replace(point, computed=computed)
            if other is not point and not self._differs(point.recorded, other):
                return other
        self.stream[name] = array
        return point

    def _judge(self, point: Point) -> np.ndarray:
        """Let the judge compare a point, and return the array to use downstream."""
        rows = self.padding.get((point.call.name, point.role, point.part))
        if rows is not None and rows.shape == np.shape(point.computed)[:-1]:
            point = replace(point, padding=rows)
        return self.observer.observe(self, self._with_stream(point))

    def _last(self) -> tuple[str, ...]:
        """Return the recorded layer just before this point."""
        return tuple(self._after[-1:])

    def _operate_exactly(self, call: LayerCall, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            return self._finish(call.compute({**self.parameters(call), **inputs}))


def split_joined(recorded: np.ndarray | None, computed: Sequence[object]) -> list[np.ndarray]:
    """Return the outputs of a layer that a port returned as one array; [] if they are not joined.

    Args:
        recorded: What a layer returned, tokens (n, l, d). None: nothing was recorded.
        computed: The outputs, tokens (n, l_i, d) whose numbers l_i add up to l.

    >>> text, image = np.zeros((1, 2, 4)), np.zeros((1, 6, 4))
    >>> [x.shape for x in split_joined(np.ones((1, 8, 4)), (text, image))]
    [(1, 2, 4), (1, 6, 4)]
    """
    parts = [x for x in computed if isinstance(x, np.ndarray) and x.ndim == 3]
    if recorded is None or recorded.ndim != 3 or not len(computed) == len(parts) > 1:
        return []
    lengths = np.cumsum([x.shape[1] for x in parts])
    sizes = {(len(x), x.shape[2]) for x in (recorded, *parts)}
    fits = len(sizes) == 1 and lengths[-1] == recorded.shape[1]
    return np.split(recorded, lengths[:-1], axis=1) if fits else []


def replay_network(
    network: RecordedNetwork,
    port: Trace,
    call: TraceCall,
    dtype: str,
    observer: PointObserver,
    visited: set[str],
    padding: PaddingRows | None = None,
    reads: RunReads | None = None,
    foreign: Iterable[str] = (),
) -> str:
    """Follow one run of a network, and return why it could not be completed; "": it was.

    Args:
        network: The network, with the recorded arguments.
        port: The trace.
        call: The call.
        dtype: The port's number format.
        observer: The judge.
        visited: The layers that were computed; more are added.
        padding: The rows that are padding. None: there are none.
        reads: Where is noted what the network reads. None: nowhere.
        foreign: Layers of the port that compute something else, and are not judged.
    """
    replay = Replay(port, call, dtype, observer, padding, reads)
    replay.visited = visited
    replay.foreign = (*foreign,)
    try:
        with np.errstate(all="ignore"):
            replay.run(network.network, network.params, network.arguments)
    except UNFIT as error:
        return first_line(error)
    return ""
