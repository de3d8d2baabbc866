"""A module, followed from layer to layer with what a port recorded.

The module runs once, in float64, from the port's recorded inputs. At every layer and operation that
the port recorded, the computed input is compared with the recorded one (wiring) and replaced by it,
and the output likewise (own error). So each part is judged alone, by the code of the module, as
`ldmref.locate.replay.definition` does with ldmref's definitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.modules.arrays import ArraysByRole, arrays_in, to_array
from ldmref.locate.modules.operations import Operation, describe_function, describe_module
from ldmref.locate.modules.repeated import NetworkCopies, RepeatedModule, call_with
from ldmref.locate.modules.streams import is_marked, mark
from ldmref.locate.modules.watched import WatchedLayer
from ldmref.locate.pipeline.coverage import Coverage, names_of
from ldmref.locate.recorded.names import is_norm, parts_of
from ldmref.locate.recorded.unfit import first_line
from ldmref.locate.replay.points import Frame, PointObserver
from ldmref.locate.replay.repeating import RepeatedLayer
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.trace.model import Trace, TraceEntry
from ldmref.trace.torch_names import kind_of
from ldmref.trace.torch_operations import (
    SUMS,
    before_writing,
    identify_operation,
    name_arguments,
    roles_of,
    written_by,
)
from ldmref.trace.torch_scopes import Scope, is_named_sum, operands_of_sum
from ldmref.trace.torch_values import find_tensors

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
        coverage: Which arrays were compared.
        convert: Returns an array of a layer, by its name, as the recorder writes it. None: it
            writes them as they are.
    """

    def __init__(self, copies: NetworkCopies, port: Trace, call: str, observer: PointObserver):
        super().__init__(copies, port, call, observer)
        self.coverage = Coverage()
        self.convert: Callable[[str, np.ndarray], np.ndarray] | None = None

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
                self.coverage.give(names_of(entry, INPUT))
                self._observe_outputs(whole, entry, results[-1], inputs, frame)

    def run_alone(self, layer: WatchedLayer, arguments: Mapping[str, Any]) -> None:
        """Run a layer by itself from its recorded inputs.

        Args:
            layer: The layer.
            arguments: Its arguments by name.
        """
        frame = Frame("", lambda inputs: (), {}, Counter(), [])
        self._pending, self._led, self._after = [], (), ()
        with self._inside(frame), self.running():
            call_with(layer.module.forward, arguments)

    def expect(self, name: str) -> None:
        """Let the next call of a layer have a name with its number."""
        base, _, number = name.partition(AGAIN)
        self._seen[base] = int(number or 0)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Compute what may fail: the run can go on with another layer, and says what did not end.

        The layers that had begun are visited, and the coverage has the reason of their outputs.
        """
        saved = list(self.names.scopes), len(self._around)
        try:
            yield
        except Exception as error:
            for scope in self.names.scopes[len(saved[0]) :]:
                entry = self.find(scope.name)
                if entry is not None:
                    why = f"it cannot be replayed: {first_line(error)}"
                    self.coverage.explain(names_of(entry, OUTPUT), why)
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
        operation = None if first is None else describe_module(layer.module, layer.kind, first)
        if operation is not None and len(found) == 1:
            result = self._operate(
                scope.name, operation, lambda: layer.forward(*args, **kwargs), recorded=True
            )
        elif self._trial is not None:
            again = RepeatedLayer(
                scope.name,
                lambda: {role: to_array(found[raw]) for raw, role in roles.items()},
                lambda change: layer.forward(*args, **kwargs),
                first,
                layer.kind,
                True,
            )
            result = self._repeat(again, self._trial)
        else:
            result = self._follow_layer(layer, scope.name, arguments, found, roles)
        if self.names.enter_again(layer.module):
            self.names.scopes.pop()
        return result

    def _follow_layer(
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
        written: list[tuple[torch.Tensor, torch.Tensor]] = []
        closed = entry is not None and bool(entry.inputs)
        again = self.composite(layer, arguments, roles, results.append, recorded=closed)
        call = LayerCall(name, layer.kind, inputs, {}, {}, again, True, layer.name)

        def compute(arrays: Mapping[str, Any]) -> Any:
            again(arrays)
            written[:] = self.written
            return results[-1]

        norm = is_norm(name, type(layer.module).__name__)
        first = next(iter(found.values()), None)
        result = self._follow(call, entry, compute, first if norm else None)
        for x, inside in written:
            if inside is results[-1] and isinstance(result, torch.Tensor):
                x.copy_(result)
        return result

    def as_recorded(self, call: LayerCall, x: np.ndarray) -> np.ndarray:
        """Return an array of a layer as the recorder writes it."""
        return x if self.convert is None else self.convert(call.name.partition(AGAIN)[0], x)

    def _mark(self, entry: TraceEntry, call: LayerCall, role: str) -> None:
        """Note that a recorded input of a layer was compared."""
        names = [self._name_of_input(entry, call, role) or role]
        if "context" in entry.inputs and "context" not in call.inputs:  # it may be the input
            pair = [entry.inputs.get(name) for name in ("input", "context")]
            if pair[0] == pair[1] or self._are_equal(*pair):
                names.append("context")
        self.coverage.note(ArrayName(entry.name, INPUT, name) for name in names)

    def _are_equal(self, *names: str | None) -> bool:
        """Return whether recorded arrays hold the same; a file without a manifest has each."""
        arrays = [self.port.tensors[name] for name in names if name is not None]
        return len(arrays) == len(names) and all(np.array_equal(x, arrays[0]) for x in arrays)

    def _observe_outputs(
        self,
        call: LayerCall,
        entry: TraceEntry,
        result: Any,
        inputs: ArraysByRole,
        frame: Frame,
    ) -> Any:
        """Compare the recorded outputs of a layer, and return its result with those to use."""
        made = super()._observe_outputs(call, entry, result, inputs, frame)
        form = self._forms[call.name]
        tensors = dict(find_tensors(made, "output"))
        for raw, name in zip(form.roles, form.recorded_names(entry), strict=True):
            if name is not None:
                self.coverage.note([ArrayName(entry.name, OUTPUT, name)])
                mark(tensors[raw])
        return made

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
        call, entry = self.operation_call(name, operation), None
        if recorded:
            call, entry = self.match(call)

        def compute(inputs: ArraysByRole) -> Any:
            if entry is None:
                return self._hidden(run)()
            with self.running():
                result = call.compute({**call.parameters, **inputs})
            return self._like(parts_of(result)[0], operation)

        first = next(iter(operation.inputs.values()))
        return self._follow(call, entry, compute, first if is_norm(name, call.kind) else None)

    def _hidden(self, run: Callable[[], Any]) -> Callable[[], Any]:
        def hidden() -> Any:
            with self.unseen():
                return run()

        return hidden
