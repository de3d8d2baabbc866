"""Parts of a replay that are run again: with an operation exchanged, or in another format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall, NamedBackend
from ldmref.locate.alignment import EXCHANGED
from ldmref.locate.names import find_entry, layers_of, neighbours_of, parts_of, read_output
from ldmref.locate.points import OperationChange, Point, Trial
from ldmref.locate.precision import Rounding, exact_backend, round_to
from ldmref.locate.unfit import UNFIT
from ldmref.trace.model import Trace, TraceEntry

NUMBERS = re.compile(rf"{AGAIN}\d+", re.ASCII)
# Tables that a network makes once for all of its layers, by operations that read them. Those of
# angles are rounded before a layer begins: by |angle| units, which grows with the position.
TABLES = {"turn_pairs": ("cos", "sin")}
KEPT = 2**16  # numbers of a result that is kept for the next repeated run, at most
ALL_KEPT = 2**22  # numbers of all results that are kept


@dataclass
class _KeptResults:
    """Results before the first change of repeated runs, which all of these have in common.

    Hundreds of changes are tried in one part, and each one leaves what precedes it as it is.

    Attributes:
        of: What is run again: a point, the number format, and which one it is.
        results: By the name of a layer, its result, how often each name was called until then, and
            the layers within it.
        size: The numbers of all results.
        names: The layers that the current run has visited.
        unchanged: Whether the current run is still the one without a change.
    """

    of: tuple[object, ...] = ()
    results: dict[str, tuple[Any, Counter[str], list[str]]] = field(default_factory=dict)
    size: int = 0
    names: list[str] = field(default_factory=list)
    unchanged: bool = False

    def find(self, call: LayerCall, other: Container[str]) -> Any:
        """Return the result of a layer, and how often names were called; None: it is not known.

        Args:
            call: The layer.
            other: The layers that this run changes, or whose inputs it writes: none is within.
        """
        found = self.results.get(call.name) if self.unchanged else None
        if found is None or any(name in other for name in found[2][1:]):
            return None
        self.names += found[2]
        return _copy(found[0]), found[1].copy()

    def keep(self, call: LayerCall, result: Any, seen: Counter[str], first: int) -> None:
        """Keep the result of a layer, which is the first of the visited layers that it holds."""
        arrays = result if type(result) is tuple else (result,)
        if not self.unchanged or not all(isinstance(x, np.ndarray) for x in arrays):
            return
        sizes = [x.size for x in arrays]
        if max(sizes, default=0) <= KEPT and self.size + sum(sizes) <= ALL_KEPT:
            self.results[call.name] = _copy(result), seen.copy(), self.names[first:]
            self.size += sum(sizes)


def _copy(result: Any) -> Any:
    """Return an array, or a tuple of arrays, that may be written if the first may."""
    if isinstance(result, tuple):
        return tuple(map(_copy, result))
    copied = np.copy(result)
    copied.setflags(write=result.flags.writeable)
    return copied


class _Reached(Exception):
    """Ends a repeated run at its target."""

    def __init__(self, array: np.ndarray):
        super().__init__()
        self.array = array


class RepeatableRun(NamedBackend):
    """A float64 backend that can run a part of the recorded run of a port again.

    Args:
        port: The trace of the port.
        call: The call to follow, "unet.000".
        dtype: The number format of the port, to which its parameters are rounded.
    """

    def __init__(self, port: Trace, call: str, dtype: str):
        super().__init__(exact_backend())
        self.port = port
        self.call = call
        self.dtype_of_port = dtype
        self.exact = self.inner
        self.low = Rounding(dtype)
        self._trial: Trial | None = None
        self._kept = _KeptResults()
        # Outputs that are not used as recorded, by layer and number.
        self._corrected: dict[tuple[str, int], np.ndarray] = {}
        self.stream: dict[str, np.ndarray] = {}  # what norms read where the run went on from it
        # By the name of operations that the port left some out of: the port's number of each.
        self._aligned: dict[str, tuple[int | None, ...]] = {}
        self._collected: dict[str, list[dict[str, np.ndarray]]] = {}  # arrays of such operations
        self._turned: set[str] = set()  # names of sums whose terms the port has in the other order
        # The network's function, parameters and arguments. None: it is not known.
        self.of_tables: tuple[Callable, Mapping[str, Any], Mapping[str, Any]] | None = None
        self._tables: Mapping[str, dict[str, np.ndarray]] | None = None  # in the port's format

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

    @property
    def _is_low(self) -> bool:
        return self._trial is not None and self._trial.low

    def parameters(self, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the parameters of a layer as the port's number format holds them."""
        return {name: round_to(x, self.dtype_of_port) for name, x in call.parameters.items()}

    @contextmanager
    def in_format(self, dtype: str) -> Iterator[None]:
        """Compute repeated runs in another number format than the port's."""
        saved = self.low, self.dtype_of_port, self._tables
        self.low, self.dtype_of_port, self._tables = Rounding(dtype), dtype, None
        try:
            yield
        finally:
            self.low, self.dtype_of_port, self._tables = saved

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
        self._begin_trial(point, low)
        self._kept.unchanged = not (arguments or free or self._collected)
        self._seen, self._scope = frame.seen.copy(), list(frame.scope)
        self._trial = Trial(target, point.role, changes, low, free)
        self.inner = self.low if low else self.exact
        inputs = self._cast({**frame.inputs, **(arguments or {})})
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
        else:
            if not itself:
                return None
        finally:
            self._seen, self._scope, self.inner, self._trial = saved
        part = parts_of(result)[point.part]
        return np.asarray(part, np.float64) if isinstance(part, np.ndarray) else None

    def _begin_trial(self, point: Point, low: bool) -> None:
        """Forget what is kept of runs of another point, or in another number format."""
        of = point.frame, point.call.name, point.role, point.part, low, self.dtype_of_port
        known = self._kept.of
        if known[1:] != of[1:] or known[0] is not point.frame:
            self._kept = _KeptResults(of)
        self._kept.names = []

    def _entry_of(self, call: LayerCall) -> TraceEntry | None:
        """Return what the port recorded of a layer, None if it did not."""
        base, _, number = call.name.partition(AGAIN)
        numbers = self._aligned.get(base)
        if numbers is None:
            return find_entry(self.port, self.call, call)
        index = int(number or 0)
        found = numbers[index] if index < len(numbers) else None
        if found is None:
            return None
        name = f"{base}{AGAIN}{found}" if found else base
        return find_entry(self.port, self.call, replace(call, name=name))

    def _visit_again(self, call: LayerCall, trial: Trial) -> Any:
        target = call.name == trial.target
        if target and trial.role:
            turned = call.name in self._turned
            raise _Reached(call.inputs[EXCHANGED[trial.role] if turned else trial.role])
        if call.name in self.stream:
            self._write_stream(call, self.stream[call.name])
        kept = self._kept
        kept.unchanged = kept.unchanged and call.name not in trial.changes
        found = kept.find(call, {*trial.changes, *self.stream})
        if found is not None:
            result, self._seen = found
            return result
        first = len(kept.names)
        kept.names.append(call.name)
        result = self._compute_again(call, trial, target)
        if target:
            raise _Reached(result)
        kept.keep(call, result, self._seen, first)
        return result

    def _compute_again(self, call: LayerCall, trial: Trial, target: bool) -> Any:
        """Return the recorded output of a layer, or what it returns in a repeated run."""
        entry = self._entry_of(call)
        within = target or (call.composite and _may_hold(call.name, trial.target))
        changed = call.name in trial.changes
        if entry is not None and not (trial.free or within or changed or call.several):
            forced = self._forced(entry)
            if forced is not None:
                return self._cast({"": forced})[""]
        inputs = dict(call.inputs)
        if trial.low and call.kind in TABLES:
            inputs |= self._low_tables(call)
        if call.composite:
            result = call.compute(inputs)
        else:
            change = trial.changes.get(call.name, _compute)
            result = change(call, {**self._cast(self.parameters(call)), **inputs})
        result = self._cast({"": result})[""]
        if (base := call.name.partition(AGAIN)[0]) in self._collected:
            self._collected[base].append({**call.inputs, "": result})
        return result

    def _write_stream(self, call: LayerCall, recorded: np.ndarray) -> bool:
        """Let the array that a layer reads first have recorded values; return whether it can."""
        x = next(iter(call.inputs.values()))
        writable = isinstance(x, np.ndarray) and x.flags.writeable and x.dtype.kind == "f"
        if not writable or x.shape != recorded.shape or id(x) in self._names:
            return False
        x[...] = recorded
        return True

    def _low_tables(self, call: LayerCall) -> Mapping[str, Any]:
        """Return the tables of an operation as the network makes them in the port's format."""
        own = {role: call.inputs[role] for role in TABLES[call.kind]}
        if self._tables is None:
            self._tables = {}
            if self.of_tables is not None:
                self._tables = make_tables(self.low.rounded, *self.of_tables)
        found = self._tables.get(call.name, own)
        return found if all(found[role].shape == x.shape for role, x in own.items()) else own

    def similar_layers(self, call: LayerCall) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the neighbours of a layer whose parameters have the same shapes."""
        layers = (pair for tree in self._trees for pair in layers_of(tree, ""))
        for name, leaves in neighbours_of(call, layers):
            yield name, {k: round_to(x, self.dtype_of_port) for k, x in leaves.items()}

    def parameters_of(self, *endings: str) -> np.ndarray | None:
        """Return the first parameter of the first layer whose name has one of the endings.

        A parameter of no layer has its own name.
        """
        for tree in self._trees:
            for name, leaves in layers_of(tree, ""):
                own = [x for one, x in leaves.items() if not name and one.endswith(endings)]
                if own or name.endswith(endings):
                    return round_to(next(iter(own or leaves.values())), self.dtype_of_port)
        return None

    def _forced(self, entry: TraceEntry) -> np.ndarray | None:
        """Return the output that the replay used downstream of a recorded layer."""
        corrected = self._corrected.get((entry.layer, 0))
        return read_output(self.port, entry) if corrected is None else corrected

    def _cast(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays in the type in which the repeated run computes."""
        low = self._is_low and self.dtype_of_port != "float64"
        kind = np.float32 if low else np.float64
        return {
            name: np.asarray(x, kind) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
            for name, x in arrays.items()
        }


class _TableKeeper(Rounding):
    """A run in a number format that keeps the tables which operations read."""

    def __init__(self, dtype: str):
        super().__init__(dtype)
        self.tables: dict[str, dict[str, np.ndarray]] = {}

    def visit(self, call: LayerCall) -> Any:
        if call.kind in TABLES:
            self.tables[call.name] = {role: call.inputs[role] for role in TABLES[call.kind]}
        return super().visit(call)


def make_tables(
    dtype: str, function: Callable, params: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the tables that operations of a network read, by their names.

    Args:
        dtype: The number format in which the network computes them.
        function: The network.
        params: Its parameters.
        arguments: Its other arguments.
    """
    keeper = _TableKeeper(dtype)
    keeper.name_parameters(params)
    kind = np.dtype(keeper.inner.dtype)
    cast = {
        name: x.astype(kind) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
        for name, x in arguments.items()
    }
    try:
        with np.errstate(all="ignore"), keeper.observed(""):
            function(keeper, params, **cast)
    except UNFIT:  # arrays that do not fit are judged elsewhere
        pass
    return keeper.tables


def _may_hold(layer: str, target: str) -> bool:
    """Return whether a layer may contain another, whatever their numbers are.

    Where a layer and the one around it have one name, `attentions.0` holds `attentions.0~1`, which
    holds `attentions.0.to_q`.
    """
    plain, inner = NUMBERS.sub("", layer), NUMBERS.sub("", target)
    return inner == plain or inner.startswith(f"{plain}.")


def _compute(call: LayerCall, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return call.compute(inputs)
