"""Teacher-forced replay: ldmref's definition of a network, run on what another program recorded.

At every layer that the port recorded, the replay passes on

1. the input that it computed from the port's recorded outputs upstream, and the recorded input:
   their difference is the error of everything in between that was not recorded (wiring);
2. the output that it computes from the recorded input, and the recorded output: the layer's own
   error;

and goes on with the recorded output. A part can be run again with an operation exchanged or in
another number format (`Replay.rerun`), which is how known faults and noise floors are found.
Arrays that were not recorded and cannot be computed are NaN.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.locate.names import (
    find_entry,
    layers_of,
    name_results,
    parts_of,
    read_output,
    read_role,
)
from ldmref.locate.points import Frame, OperationChange, Point, PointObserver, Trial
from ldmref.locate.precision import Rounding, exact_backend, round_to
from ldmref.math.arrays import Array
from ldmref.trace.model import Trace, TraceEntry

RECENT = 8  # outputs kept to recognise them


class _Reached(Exception):
    """Ends a repeated run at its target."""

    def __init__(self, array: np.ndarray):
        super().__init__()
        self.array = array


class Replay(NamedBackend):
    """A float64 backend that follows the recorded run of a port.

    Args:
        port: The trace of the port.
        call: The call to follow, "unet.000".
        dtype: The number format of the port, to which its parameters are rounded.
        observer: The judge.
    """

    def __init__(self, port: Trace, call: str, dtype: str, observer: PointObserver):
        super().__init__(exact_backend())
        self.port = port
        self.call = call
        self.dtype_of_port = dtype
        self.observer = observer
        self.exact = self.inner
        self.low = Rounding(dtype)
        self.visited: set[str] = set()
        self.recent: deque[tuple[str, np.ndarray]] = deque(maxlen=RECENT)
        self._trial: Trial | None = None
        self._frames: list[Frame] = []
        self._pending: list[LayerCall] = []
        self._after: list[str] = []
        self._corrected: dict[str, np.ndarray] = {}  # outputs that are not used as recorded

    # -- the run ----------------------------------------------------------------------------------

    def run(
        self, network: Callable, params: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> Any:
        """Run a network, `network(ops, params, **arguments)`, and observe its recorded output."""
        self.name_parameters(params)
        arrays = dict(arguments)

        def compute(inputs: Mapping[str, np.ndarray]) -> Any:
            return network(self, params, **inputs)

        whole = LayerCall("", network.__name__, arrays, {}, {}, compute, composite=True)
        frame = Frame("", compute, arrays, Counter(), [])
        self._frames.append(frame)
        with self.observed(network.__name__):
            result = compute(arrays)
        self._frames.pop()
        results = name_results(network.__name__, result)
        entry = self.port.find(self.call)
        for role, array in results.items():
            recorded = None if entry is None else read_role(self.port, entry.outputs, role)
            if recorded is not None:
                suspects = tuple(self._pending)
                point = Point(whole, "", array, recorded, arrays, frame, suspects, self._last())
                self.observer.observe(self, point)
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
        entry = self.port.find(self.call, self._names.get(id(weight), ""))
        return entry is not None and entry.kind == operation

    def visit(self, call: LayerCall) -> Any:
        """Observe a layer, and return its recorded output if there is one."""
        if self._trial is not None:
            return self._visit_again(call, self._trial)
        entry = find_entry(self.port, self.call, call)
        inputs = dict(call.inputs)
        closed = False  # whether it is computed from a recorded input
        if entry is not None:
            self.visited.add(entry.layer)
            inputs = self._observe_inputs(call, entry)
            closed = bool(entry.inputs)
        if closed:
            self._pending = []
        if call.composite:
            frame = Frame(call.name, call.compute, inputs, self._seen.copy(), self._scope[:])
            if closed:
                self._frames.append(frame)
            result = self._finish(call.compute(inputs))
            if closed:
                self._frames.pop()
        else:
            frame = Frame(call.name, call.compute, inputs, Counter(), [])
            result = self._operate_exactly(call, inputs)
            self._pending.append(call)
        recorded = None if entry is None else read_output(self.port, entry)
        if entry is None or recorded is None:
            return result
        suspects = tuple(self._pending)
        start = frame if closed else self._frames[-1]
        point = Point(call, "", result, recorded, inputs, start, suspects, self._last())
        forced = self.observer.observe(self, point)
        if forced is not recorded:
            self._corrected[entry.layer] = forced
        self._pending = []
        self._after = [call.name]
        self.recent.append((call.name, forced))
        return forced

    def _observe_inputs(self, call: LayerCall, entry: TraceEntry) -> dict[str, np.ndarray]:
        """Compare the inputs of a recorded layer, and return those with which it is computed."""
        inputs = dict(call.inputs)
        for role, computed in call.inputs.items():
            recorded = read_role(self.port, entry.inputs, role, list(call.inputs))
            if recorded is None:
                continue
            suspects = tuple(self._pending)
            frame = self._frames[-1]
            point = Point(call, role, computed, recorded, {}, frame, suspects, self._last())
            used = self.observer.observe(self, point)
            inputs[role] = used.astype(np.float64) if computed.dtype.kind == "f" else used
        return inputs

    def _last(self) -> tuple[str, ...]:
        """Return the recorded layer just before this point."""
        return tuple(self._after[-1:])

    def _finish(self, result: Any) -> Any:
        """Return an array in float64; other results as they are."""
        if isinstance(result, np.ndarray) and result.dtype.kind == "f" and not self._is_low:
            return result.astype(np.float64, copy=False)
        return result

    @property
    def _is_low(self) -> bool:
        return self._trial is not None and self._trial.low

    def parameters(self, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the parameters of a layer as the port's number format holds them."""
        return {name: round_to(x, self.dtype_of_port) for name, x in call.parameters.items()}

    def _operate_exactly(self, call: LayerCall, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            return self._finish(call.compute({**self.parameters(call), **inputs}))

    # -- repeated runs ----------------------------------------------------------------------------

    def rerun(
        self,
        point: Point,
        changes: Mapping[str, OperationChange] | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        low: bool = False,
        free: bool = False,
    ) -> np.ndarray | None:
        """Compute a point again.

        Args:
            point: The point.
            changes: Functions by the names of the operations that they replace.
            arguments: Other inputs of the part that is computed again.
            low: Whether to compute in the port's number format.
            free: Whether recorded layers are also computed again.

        Returns:
            The array, None if it was not reached.
        """
        changes = changes or {}
        frame = point.frame
        itself = not point.role and point.call.name == frame.name
        target = "" if itself else point.call.name
        saved = self._seen, self._scope, self.inner, self._trial
        self._seen, self._scope = frame.seen.copy(), list(frame.scope)
        self._trial = Trial(target, point.role, changes, low, free)
        self.inner = self.low if low else self.exact
        inputs = {**self._cast(frame.inputs), **(arguments or {})}
        try:
            with np.errstate(all="ignore"):
                if not itself or point.call.composite:
                    result = frame.compute(inputs)
                else:
                    change = changes.get(point.call.name, _compute)
                    result = change(
                        point.call, {**self._cast(self.parameters(point.call)), **inputs}
                    )
        except _Reached as reached:
            result = reached.array
        finally:
            self._seen, self._scope, self.inner, self._trial = saved
        part = parts_of(result)[0]
        return np.asarray(part, np.float64) if isinstance(part, np.ndarray) else None

    def _visit_again(self, call: LayerCall, trial: Trial) -> Any:
        target = call.name == trial.target
        if target and trial.role:
            raise _Reached(call.inputs[trial.role])
        entry = find_entry(self.port, self.call, call)
        within = target or trial.target.startswith(call.name + ".")
        if entry is not None and not trial.free and not within:
            forced = self._forced(entry)
            if forced is not None:
                return self._cast({"": forced})[""]
        inputs = dict(call.inputs)
        if call.composite:
            result = call.compute(inputs)
        else:
            change = trial.changes.get(call.name, _compute)
            result = change(call, {**self._cast(self.parameters(call)), **inputs})
        result = self._cast({"": result})[""]
        if target:
            raise _Reached(result)
        return result

    def similar_layers(self, call: LayerCall) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the neighbours of a layer whose parameters have the same shapes."""
        shapes = {name: x.shape for name, x in call.parameters.items()}
        around = call.name.split(".")[:-1]
        while around and around[-1].isdigit():  # `to_out.0` is a neighbour of `to_q`
            around.pop()
        prefix = ".".join(around[:-1] if around[-1:] == ["to_out"] else around)
        for tree in self._trees:
            for name, leaves in layers_of(tree, ""):
                beside = name.startswith(prefix) and name != call.name
                if beside and shapes and {k: x.shape for k, x in leaves.items()} == shapes:
                    rounded = {k: round_to(x, self.dtype_of_port) for k, x in leaves.items()}
                    yield name, rounded

    def _forced(self, entry: TraceEntry) -> np.ndarray | None:
        """Return the output with which the replay went on after a recorded layer."""
        corrected = self._corrected.get(entry.layer)
        return read_output(self.port, entry) if corrected is None else corrected

    def _cast(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays in the type in which the repeated run computes."""
        low = self._is_low and self.dtype_of_port != "float64"
        kind = np.float32 if low else np.float64
        return {
            name: x.astype(kind, copy=False)
            if isinstance(x, np.ndarray) and x.dtype.kind == "f"
            else x
            for name, x in arrays.items()
        }


def _compute(call: LayerCall, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return call.compute(inputs)
