"""A module, followed from layer to layer with what a port recorded.

The module runs once, in float64, from the port's recorded inputs. At every layer and operation that
the port recorded, the computed input is compared with the recorded one (wiring) and replaced by it,
and the output likewise (own error). So each part is judged alone, by the code of the module, as
`ldmref.locate.replay` does with ldmref's definitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.alignment import align, exchange_terms, find_among, is_exchanged
from ldmref.locate.law import allowed_error
from ldmref.locate.layouts import relative_error
from ldmref.locate.modules.arrays import (
    ArraysByRole,
    arrays_in,
    read_recorded,
    to_array,
    with_arrays,
)
from ldmref.locate.modules.operations import Operation, describe_function, describe_module
from ldmref.locate.modules.repeated import (
    NetworkCopies,
    RepeatedModule,
    call_with,
    first_of,
    name_of_output,
    numbered,
)
from ldmref.locate.modules.streams import is_marked, mark
from ldmref.locate.modules.watched import WatchedLayer
from ldmref.locate.names import count_modulations, is_norm, parts_of
from ldmref.locate.pipeline.ledger import OUTPUT, Ledger
from ldmref.locate.points import Frame, Point, PointObserver
from ldmref.locate.precision import EPSILONS, stored_unit
from ldmref.locate.unfit import first_line
from ldmref.trace.model import Trace, TraceEntry
from ldmref.trace.torch_names import kind_of
from ldmref.trace.torch_operations import (
    SUMS,
    before_writing,
    identify_operation,
    name_arguments,
    roles_of,
    roles_of_outputs,
    written_by,
)
from ldmref.trace.torch_scopes import Scope, is_named_sum, operands_of_sum
from ldmref.trace.torch_values import find_tensors

MOST_EARLIER = 48  # operations before a part that are changed as well
ReadResult = Callable[[Any], Any]
LABELS = {"add": "sum"}  # of operations that are not recorded, where others of the name are


class ModuleReplay(RepeatedModule):
    """A run of a module that follows the recorded run of a port.

    Args:
        copies: The module.
        port: The trace of the port.
        call: The call to follow, "transformer.000".
        observer: The judge.

    Attributes:
        visited: The layers that were computed.
        ledger: The arrays that were compared.
    """

    def __init__(self, copies: NetworkCopies, port: Trace, call: str, observer: PointObserver):
        super().__init__(copies, port, call)
        self.observer = observer
        self.visited: set[str] = set()
        self.ledger = Ledger()
        self._frames: list[Frame] = []
        self._pending: list[LayerCall] = []  # operations since the last recorded array
        self._around: list[Frame] = []  # the layers around the code that runs, recorded or not
        self._checked: set[str] = set()  # names of operations whose number was compared
        self._of_frames: list[list[LayerCall]] = []  # those of each frame
        self._led: tuple[LayerCall, ...] = ()  # those that led to the last recorded input
        self._after: list[str] = []

    # -- runs -------------------------------------------------------------------------------------

    def run(
        self, method: str, arguments: Mapping[str, Any], read: ReadResult | None = None
    ) -> None:
        """Run the whole network, and observe its recorded output.

        Args:
            method: The method that computes it; "" for its call.
            arguments: Its arguments by name.
            read: Returns of its result what a recording has of it. None: it has the result.
        """
        inputs = arrays_in(arguments, "")
        self.arguments = inputs
        results: list[Any] = []

        def run(**replaced: Any) -> Any:
            network = self.network.network
            result = call_with(getattr(network, method) if method else network, replaced)
            return result if read is None else read(result)

        roles = {raw: raw for raw in inputs}
        again = self.composite(None, arguments, roles, results.append, run, True)
        whole = LayerCall("", self.call, inputs, {}, {}, again, composite=True)
        frame = Frame("", again, inputs, Counter(), [])
        with self._inside(frame):
            self._around.append(frame)
            with self.running():
                again(inputs)
            self._around.pop()
            entry = self.find("")
            if entry is not None:
                self.ledger.mark(entry, *entry.inputs)
                self._observe_outputs(whole, entry, results[-1], "", inputs, frame)

    def run_alone(self, layer: WatchedLayer, arguments: Mapping[str, Any]) -> None:
        """Run a layer by itself from its recorded inputs.

        Args:
            layer: The layer.
            arguments: Its arguments by name.
        """
        frame = Frame("", lambda inputs: (), {}, Counter(), [])
        self._pending, self._led, self._after = [], (), []
        with self._inside(frame), self.running():
            call_with(layer.module.forward, arguments)

    def expect(self, name: str) -> None:
        """Let the next call of a layer have a name with its number."""
        base, _, number = name.partition(AGAIN)
        self._seen[base] = int(number or 0)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Compute what may fail: the run can go on with another layer, and says what did not end.

        The layers that had begun are visited, and their outputs have the reason in the ledger.
        """
        saved = list(self.names.scopes), len(self._around)
        try:
            yield
        except Exception as error:
            for scope in self.names.scopes[len(saved[0]) :]:
                entry = self.find(scope.name)
                if entry is not None:
                    why = f"it cannot be replayed: {first_line(error)}"
                    self.ledger.explain(entry, why, *entry.outputs, side=OUTPUT)
            self.names.scopes = saved[0]
            del self._around[saved[1] :]
            raise

    # -- layers -----------------------------------------------------------------------------------

    def see_part(self, layer: WatchedLayer, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Compute a layer that is called for a part of the tokens at a time; it has no name."""
        with self.unseen():
            return layer.forward(*args, **kwargs)

    def see_layer(self, layer: WatchedLayer, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Follow a layer, and return its recorded output if there is one."""
        if self._within:
            return layer.forward(*args, **kwargs)
        if not layer.name:  # an activation
            operation = describe_module(layer.module, layer.kind, args[0])
            return self._see_operation(
                layer.kind, operation, lambda: layer.forward(*args, **kwargs)
            )
        arguments = name_arguments(layer.module, args, kwargs)
        found = dict(find_tensors(arguments, ""))
        roles = roles_of(layer.module, layer.kind, found)
        first = next(iter(found.values()), None)
        scope = self.names.enter(layer.module, layer.name, self.unique, first)
        before = self._seen.copy()
        operation = None if first is None else describe_module(layer.module, layer.kind, first)
        if operation is not None and len(found) == 1:
            result = self._operate(
                scope.name, operation, lambda: layer.forward(*args, **kwargs), recorded=True
            )
        elif self._trial is not None:
            result = self.layer_again(
                scope.name,
                self._trial,
                layer.kind,
                lambda: {role: to_array(found[raw]) for raw, role in roles.items()},
                lambda: layer.forward(*args, **kwargs),
                first,
            )
        else:
            result = self._follow(layer, scope.name, arguments, found, roles)
            self._counted[scope.name] = self._seen - before
        if self.names.enter_again(layer.module):
            self.names.scopes.pop()
        return result

    def _follow(
        self,
        layer: WatchedLayer,
        name: str,
        arguments: Mapping[str, Any],
        found: Mapping[str, torch.Tensor],
        roles: Mapping[str, str],
    ) -> Any:
        """Compute a layer of several operations, and observe what was recorded of it."""
        entry = self.find(name)
        inputs = {role: to_array(found[raw]) for raw, role in roles.items()}
        results: list[Any] = []
        closed = entry is not None and bool(entry.inputs)
        again = self.composite(layer, arguments, roles, results.append, recorded=closed)
        call = LayerCall(name, layer.kind, inputs, {}, {}, again, True, layer.name)
        used = inputs
        if entry is not None:
            self.visited.add(name)
            norm = is_norm(name, type(layer.module).__name__)
            first = next(iter(found.values()), None) if norm else None
            used = self._observe_inputs(call, entry, first)
        if closed:
            self._led = tuple(self._pending) or self._led
            self._pending = []
        frame = Frame(name, again, used, self._seen.copy(), list(self.names.scopes))
        with self._inside(frame) if closed else nullcontext():
            self._around.append(frame)
            again(used)
            written = self.written
            self._around.pop()
            if entry is None:
                return results[-1]
            start = self._frames[-1]
            forced = self._observe_outputs(call, entry, results[-1], layer.kind, used, start)
            for x, inside in written:
                if inside is results[-1] and isinstance(forced, torch.Tensor):
                    x.copy_(forced)
            return forced

    def _observe_inputs(
        self, call: LayerCall, entry: TraceEntry, stream: torch.Tensor | None = None
    ) -> ArraysByRole:
        """Compare the inputs of a recorded layer, and return those with which it is computed.

        Args:
            call: The layer.
            entry: What was recorded of it.
            stream: The first input, if the run continues with it as recorded. None: it does not.
        """
        inputs: dict[str, np.ndarray] = dict(call.inputs)
        unit = stored_unit(self.port, entry)
        suspects = tuple(self._pending) or self._led  # the last layer may read the same array
        for number, (role, computed) in enumerate(call.inputs.items()):
            name = first_of(entry.inputs, role, str(number), *(["input"] if not number else []))
            if name is None:
                continue
            recorded = read_recorded(self.port, entry.inputs[name], computed.shape)
            frame = self._frames[-1]
            earlier = self._earlier(frame, suspects)
            point = Point(
                call, role, computed, recorded, {}, frame, suspects, self._last(), unit, 0, earlier
            )
            used = self._judge(point)
            inputs[role] = np.asarray(used, computed.dtype)
            if stream is not None and not number:
                self.streams.append((call.name, inputs[role]))
            if stream is not None and not number and self._differs(used, point):
                self.stream.resume(call.name, stream, inputs[role])
            self.ledger.mark(entry, name)
        if "context" in entry.inputs and "context" not in call.inputs:  # it attends to its input
            pair = [entry.inputs.get(role) for role in ("input", "context")]
            if pair[0] == pair[1] or self._are_equal(*pair):
                self.ledger.mark(entry, "context")
        return inputs

    def _are_equal(self, *names: str | None) -> bool:
        """Return whether recorded arrays hold the same; a file without a manifest has each."""
        arrays = [self.port.tensors[name] for name in names if name is not None]
        return len(arrays) == len(names) and all(np.array_equal(x, arrays[0]) for x in arrays)

    def _observe_outputs(
        self,
        call: LayerCall,
        entry: TraceEntry,
        result: object,
        kind: str,
        inputs: ArraysByRole,
        frame: Frame,
    ) -> Any:
        """Compare the recorded outputs of a layer, and return its result with them."""
        found = dict(find_tensors(result, "output"))
        roles = roles_of_outputs(kind, found)
        unit = stored_unit(self.port, entry)
        suspects = tuple(self._pending)
        earlier = self._earlier(frame, suspects)
        used: dict[str, np.ndarray] = {}
        for part, (raw, role) in enumerate(roles.items()):
            name = name_of_output(entry.outputs, part, raw, role)
            if name is None:
                continue
            computed = to_array(found[raw])
            recorded = read_recorded(self.port, entry.outputs[name], computed.shape)
            last = self._last()
            point = Point(
                call, "", computed, recorded, inputs, frame, suspects, last, unit, part, earlier
            )
            used[raw] = self._judge(point)
            if used[raw] is not recorded:
                self._corrected[call.name, role] = used[raw]
            self.ledger.mark(entry, name, side=OUTPUT)
            self.recent.append((call.name, used[raw]))
        if used:
            self._pending = []
            self._after = [call.name]
        self.keep_result(call.name, result, roles)
        made = with_arrays(result, "output", used)
        for raw, x in find_tensors(made, "output"):
            if raw in used:
                mark(x)
        return made

    def _differs(self, x: np.ndarray, point: Point) -> bool:
        """Return whether an array is none that rounding makes of the computed one."""
        allowed = allowed_error(0.0, max(EPSILONS[self.dtype_of_port], point.unit))
        floats = x.dtype.kind == "f" and x.shape == point.computed.shape
        return floats and not relative_error(x, point.computed) <= allowed

    def _with_stream(self, point: Point) -> Point:
        """Return a point as it is if the stream did not go on from the last recorded array.

        The norm alone may have read another array than the sums behind it.
        """
        if not self.stream.arrays or not self._differs(point.recorded, point):
            return point
        name, array = self.stream.arrays.popitem()
        with suppress(ValueError):
            computed = self.rerun(point)
            other = point if computed is None else replace(point, computed=computed)
            if other is not point and not self._differs(point.recorded, other):
                return other
        self.stream.arrays[name] = array
        return point

    def _judge(self, point: Point) -> np.ndarray:
        """Judge a point, and return the array to use downstream.

        Recorded arrays that the judge cannot compare have a row that says so, and the run continues
        with what was computed.
        """
        try:
            point = self._with_stream(point)
            return self.observer.observe(self, point)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            self.observer.skip(point.call, f"it cannot be compared: {why}")
            return point.computed

    @contextmanager
    def _inside(self, frame: Frame) -> Iterator[None]:
        """Compute what a frame starts: the operations that follow are its own."""
        self._frames.append(frame)
        self._of_frames.append([])
        try:
            yield
        finally:
            self._frames.pop()
            self._of_frames.pop()

    def _earlier(self, frame: Frame, suspects: tuple[LayerCall, ...]) -> tuple[LayerCall, ...]:
        """Return the operations of the frame that runs, before those that are suspects."""
        if not self._frames or frame is not self._frames[-1]:
            return ()  # an operation by itself
        ours = set(map(id, suspects))
        before = [call for call in self._of_frames[-1] if id(call) not in ours]
        return tuple(reversed(before))[:MOST_EARLIER]

    def _last(self) -> tuple[str, ...]:
        """Return the recorded layer just before this point."""
        return tuple(self._after[-1:])

    # -- operations -------------------------------------------------------------------------------

    def see_function(self, func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Follow a function of torch, and return its recorded output if it is one."""

        def run() -> Any:
            return self.compute_function(func, args, kwargs)

        if self._within:
            return run()
        before, named = before_writing(func, args, kwargs)
        result = self._see_function(func, before, named, run)
        written = written_by(func, args, kwargs)
        if written is None or result is written or not isinstance(result, torch.Tensor):
            return result
        written.copy_(result)  # the code may go on with it
        mark(written, is_marked(result))
        return written

    def _see_function(
        self,
        func: Callable[..., Any],
        args: tuple,
        kwargs: Mapping[str, Any],
        run: Callable[[], Any],
    ) -> Any:
        """Follow a function of torch.

        Args:
            func: The function.
            args: Its arguments by position, as they are before it runs.
            kwargs: Its arguments by name.
            run: Computes it.
        """
        operation = None
        with suppress(KeyError, IndexError, TypeError, ValueError, AttributeError):
            operation = describe_function(func, args, kwargs)
        if func not in SUMS and func is not F.interpolate:
            identified = identify_operation(func, args, kwargs, None)
            name = "" if identified is None else identified[0]
            return self._see_operation(name, operation, run)
        result = run()
        if func is F.interpolate:
            identified = identify_operation(func, args, kwargs, result)
            name = "" if identified is None else identified[0]
            return self._see_operation(name, operation, lambda: result)
        scope = self.names.scopes[-1] if self.names.scopes else None
        if operation is None or operation.kind != "add":
            return self._see_operation("", operation, lambda: result)
        named = is_named_sum(scope, args, result) or self._ends_block(scope, result)
        if named:
            first, second = operands_of_sum(scope, args)
            operation.inputs.update({"input": first, "b": second})
        return self._see_operation("add" if named else "", operation, lambda: result)

    def _ends_block(self, scope: Scope | None, result: object) -> bool:
        """Return whether a sum ends a residual block, and the port recorded such a sum."""
        if scope is None or scope.last_sum is None or scope.last_sum[2] is not result:
            return False
        block = kind_of(scope.module) == "resnet_block"
        return block and self.port.find(self.call, f"{scope.name}.add") is not None

    def _see_operation(self, name: str, operation: Operation | None, run: Callable[[], Any]) -> Any:
        """Follow an operation within a layer.

        Args:
            name: The name of those that are recorded; "" for others.
            operation: The operation. None: it has no known faults.
            run: Computes it.
        """
        if operation is None:
            if name:
                self.names.operation(name, self.unique)
            return run()
        label = name or LABELS.get(operation.kind, operation.kind)
        full = self.names.operation(label, self.unique)
        return self._operate(full, operation, run, recorded=bool(name))

    def _operate(
        self, name: str, operation: Operation, run: Callable[[], Any], recorded: bool
    ) -> Any:
        """Compute an operation, and observe what was recorded of it.

        Args:
            name: Its name.
            operation: The operation.
            run: Computes it as the module does.
            recorded: Whether the recorder knows operations of this name.
        """
        if self._trial is not None:
            return self.operation_again(name, operation, self._trial, self._hidden(run))
        call = self.operation_call(name, operation)
        entry = self.find(name) if recorded else None
        if entry is not None and self._is_another(call, entry):
            self._align(name.partition(AGAIN)[0])
            entry = self.find(name)
        if entry is not None and self._is_exchanged(call, entry):
            call = replace(call, inputs=exchange_terms(call.inputs))
            self.turned.add(name)
        if entry is None:
            self._pending.append(call)
            self._of_frames[-1].append(call)
            return self._keep_modulation(call, self._hidden(run)())
        self.visited.add(entry.layer)
        first = next(iter(operation.inputs.values())) if is_norm(name, call.kind) else None
        inputs = self._observe_inputs(call, entry, first)
        closed = bool(entry.inputs)
        if closed:
            self._led = tuple(self._pending) or self._led
            self._pending = []
        with self.running():
            result = call.compute({**call.parameters, **inputs})
        self._pending.append(call)
        frame = Frame(name, call.compute, inputs, Counter(), [])
        template = self._like(parts_of(result)[0], operation)
        start = frame if closed else self._frames[-1]
        forced = self._observe_outputs(call, entry, template, operation.kind, inputs, start)
        return self._keep_modulation(call, forced)

    def _is_another(self, call: LayerCall, entry: TraceEntry) -> bool:
        """Return whether the port's operation of this name reads something else."""
        if call.parameters or not self._around:
            return False
        return any(
            relative_error(read_recorded(self.port, entry.inputs[role], x.shape), x)
            > self._rounding_of(entry)
            for role, x in call.inputs.items()
            if role in entry.inputs
        )

    def _is_exchanged(self, call: LayerCall, entry: TraceEntry) -> bool:
        """Return whether the port's sum has the same terms in the other order, as `y += x` has."""
        terms = call.inputs
        if call.kind != "add":
            return False
        recorded = {
            role: read_recorded(self.port, entry.inputs[role], terms[role].shape)
            for role in terms.keys() & entry.inputs.keys()
        }
        return is_exchanged(terms, recorded, self._rounding_of(entry))

    def _rounding_of(self, entry: TraceEntry) -> float:
        """Return the relative error of an array that is rounding of the port."""
        unit = max(EPSILONS[self.dtype_of_port], stored_unit(self.port, entry))
        return allowed_error(0.0, unit)

    def _align(self, base: str) -> None:
        """Find the port's number of each operation of a name, if it has more or fewer of them."""
        if base in self._checked:
            return
        self._checked.add(base)
        recorded = []
        while (entry := self.port.find(self.call, numbered(base, len(recorded)))) is not None:
            sides = ((entry.inputs, ""), (entry.outputs, "output"))
            arrays = {
                "" if role == output else role: read_recorded(self.port, name)
                for roles, output in sides
                for role, name in roles.items()
            }
            recorded.append(arrays)
        expected = self.collect(base, self._around[-1])
        if 0 < len(recorded) < len(expected):
            self.aligned[base] = align(expected, recorded)
        elif 0 < len(expected) < len(recorded):
            self.aligned[base] = find_among(recorded, expected)

    def _hidden(self, run: Callable[[], Any]) -> Callable[[], Any]:
        def hidden() -> Any:
            with self.unseen():
                return run()

        return hidden

    def _keep_modulation(self, call: LayerCall, result: object) -> Any:
        parts = count_modulations(call)
        if parts:
            self.modulations[call.name] = parts
        return result
