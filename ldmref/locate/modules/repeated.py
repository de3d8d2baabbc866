"""Parts of a followed module that are run again: with an operation exchanged, or in another format.

A part is run by the module's own code. Layers in it that the port recorded are not computed: they
return what the port recorded, so that each hypothesis costs what was not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.modules.arrays import read_recorded, to_array, to_tensor
from ldmref.locate.modules.formats import copy_in_format, default_format, narrow, widen_call
from ldmref.locate.modules.operations import Operation
from ldmref.locate.modules.streams import ResidualStream, is_marked, mark
from ldmref.locate.modules.watched import SeenFunctions, WatchedLayer, WatchedNetwork
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.locate.replay.following import LayerFollower
from ldmref.locate.replay.points import Frame, OperationChange, Point, PointObserver, Trial
from ldmref.locate.replay.repeating import RepeatedLayer, numbered
from ldmref.trace.model import Trace, TraceEntry
from ldmref.trace.torch_operations import roles_of_outputs
from ldmref.trace.torch_scopes import LayerNames
from ldmref.trace.torch_values import find_tensors, replace_tensors

EXACT = "float64"
EXACT_COPY = "exact"


class NetworkCopies:
    """Copies of a module in float64, and in the formats in which parts of it are run again.

    Args:
        module: The module, of any format.
        dtype: The port's number format.
    """

    def __init__(self, module: torch.nn.Module, dtype: str):
        self.module = module
        self.dtype = dtype
        self._made: dict[str, WatchedNetwork] = {}

    @property
    def exact(self) -> WatchedNetwork:
        """The copy in float64, with the parameters of the port."""
        return self._make(EXACT_COPY, torch.float64)

    def narrow(self, dtype: str) -> WatchedNetwork:
        """Return the copy in a number format, with the parameters of the port in that format."""
        return self._make(dtype, getattr(torch, dtype))

    def _make(self, name: str, kind: torch.dtype) -> WatchedNetwork:
        if name not in self._made:
            made = copy_in_format(self.module, self.dtype, name == EXACT_COPY)
            if name not in (EXACT_COPY, self.dtype):
                made = made.to(kind)
            self._made[name] = WatchedNetwork(made, kind)
        return self._made[name]


@dataclass(frozen=True)
class ResultForm:
    """The form of a layer's result, without its numbers.

    Attributes:
        template: The result, with tensors that hold nothing.
        tensors: These by their place, such as "output.0".
        kind: The kind of the layer; "" if it is not known.
    """

    template: Any
    tensors: Mapping[str, torch.Tensor]
    kind: str

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def roles(self) -> dict[str, str]:
        """The roles in a trace of those that have one, by their place."""
        return roles_of_outputs(self.kind, self.tensors)

    def recorded_names(self, entry: TraceEntry) -> list[str | None]:
        """Return the names with which they were recorded, which may be numbers; None: not."""
        return [
            first_of(entry.outputs, role, raw, str(part), f"output.{part}")
            for part, (raw, role) in enumerate(self.roles.items())
        ]


class RepeatedModule(LayerFollower):
    """A module that is followed, and parts of which can be run again.

    Args:
        copies: The module.
        port: The trace of the port.
        call: The call to follow, "transformer.000".
        observer: The judge.
    """

    def __init__(self, copies: NetworkCopies, port: Trace, call: str, observer: PointObserver):
        super().__init__(port, call, copies.dtype, observer)
        self.copies = copies
        self.network = copies.exact
        self.names = LayerNames()
        self.functions = SeenFunctions(self)  # pyright: ignore[reportArgumentType]
        # Tensors into which the layer that was computed last wrote, and those that it was given.
        self.written: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.stream = ResidualStream(self.network.network)
        self._plain = False  # whether functions of torch are computed as they are
        self._within = 0  # operations and muted layers around the code that runs

    # -- formats ----------------------------------------------------------------------------------

    @property
    def is_exact(self) -> bool:
        """Whether float64 is computed."""
        return self.network is self.copies.exact

    @contextmanager
    def running(self) -> Iterator[None]:
        """Follow the code that runs in a block."""
        network = self.network
        before = network.follower
        network.follower = self  # pyright: ignore[reportAttributeAccessIssue]
        wide = torch.float64 if self.is_exact else torch.float32
        try:
            with torch.no_grad(), default_format(wide), self.functions.watching():
                yield
        finally:
            network.follower = before

    def cast(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor in the format that is computed."""
        kind = self.network.dtype
        if self.is_exact:
            return x.to(torch.complex128 if x.is_complex() else kind) if _is_real(x) else x
        return narrow(x, kind)

    def compute_function(
        self, func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]
    ) -> Any:
        """Compute a function of torch as the format that is computed demands."""
        if self.is_exact and not self._plain:
            func, args, kwargs = widen_call(func, args, kwargs, self.copies.dtype)
        return func(*args, **kwargs)

    # -- parameters -------------------------------------------------------------------------------

    def _layers(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the layers that have parameters, which have the values of the port's."""
        for path, part in self.copies.exact.network.named_modules():
            own = dict(part.named_parameters(recurse=False))
            if own:
                yield path, {name: to_array(x) for name, x in own.items()}

    # -- runs -------------------------------------------------------------------------------------

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
        """Compute a point again, as `RepeatableRun.rerun` does.

        Where torch cannot compute in the port's number format, the error of float32 is scaled by
        the units of rounding.
        """
        dtype = self.dtype_of_port

        def run(low: bool) -> np.ndarray | None:
            return super(RepeatedModule, self).rerun(
                point, changes, arguments=arguments, low=low, free=free, exact=exact
            )

        try:
            return run(low)
        except (ValueError, NotImplementedError):
            if not low or dtype in (EXACT, "float32"):
                raise
        right = run(False)
        with self.in_format("float32"):
            single = run(True)
        if right is None or single is None:
            return None
        return right + (single - right) * (EPSILONS[dtype] / EPSILONS["float32"])

    @contextmanager
    def _repeating(self, frame: Frame, trial: Trial) -> Iterator[None]:
        """Compute a frame again in a block, under the conditions of a trial."""
        saved = self.network, self.names.scopes, self._seen, self._trial, self._within
        self.network = self._narrow(self.dtype_of_port) if trial.low else self.copies.exact
        self.names.scopes, self._seen = [*frame.scope], frame.seen.copy()
        self._trial = trial
        self._within = 0
        try:
            with self.running():
                yield
        except RuntimeError as error:  # torch's, of shapes that do not fit
            raise ValueError(str(error)) from error
        finally:
            self.network, self.names.scopes, self._seen, self._trial, self._within = saved

    def _narrow(self, dtype: str) -> WatchedNetwork:
        """Return the copy in a number format, made as if nothing were followed."""
        self._plain = True
        try:
            with self.unseen():
                return self.copies.narrow(dtype)
        finally:
            self._plain = False

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Compute what is in a block without seeing it: it belongs to one operation."""
        self._within += 1
        try:
            yield
        finally:
            self._within -= 1

    def unique(self, name: str) -> str:
        """Return a name with its number in the call."""
        count = self._seen[name]
        self._seen[name] += 1
        return numbered(name, count)

    # -- layers -----------------------------------------------------------------------------------

    def _find(self, name: str) -> TraceEntry | None:
        """Return what the port recorded under a name."""
        return self.port.find(self.call, name)

    def _read_inputs(self, entry: TraceEntry, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the recorded inputs of a layer, by the roles of its definition."""
        found = {}
        for role, x in call.inputs.items():
            name = self._name_of_input(entry, call, role)
            if name is not None:
                found[role] = read_recorded(self.port, entry.inputs[name], x.shape)
        return found

    def _name_of_input(self, entry: TraceEntry, call: LayerCall, role: str) -> str | None:
        """Return the role with which an input was recorded; None: it was not."""
        number = [*call.inputs].index(role)
        first = ["input"] if not number else []
        return first_of(entry.inputs, role, str(number), *first)

    def _scopes(self) -> list[Any]:
        """Return the layers around what is computed, as the run repeats them."""
        return self.names.scopes

    def _form_of(self, result: Any, kind: str, inputs: Mapping[str, Any]) -> ResultForm:
        """Return the form of a layer's result.

        A copy of an object that holds itself still holds the object, so the copy is not searched.
        """
        tensors: dict[str, torch.Tensor] = {}

        def forget(raw: str, x: torch.Tensor) -> torch.Tensor:
            tensors[raw] = torch.empty_like(x, device="meta")
            return tensors[raw]

        template = replace_tensors(result, "output", forget)
        return ResultForm(template, tensors, kind)

    def _read_outputs(self, entry: TraceEntry, form: ResultForm) -> list[np.ndarray | None]:
        """Return the recorded outputs of a layer; None for each that was not recorded."""
        names = form.recorded_names(entry)
        shapes = (tuple(form.tensors[raw].shape) for raw in form.roles)
        return [
            None if name is None else read_recorded(self.port, entry.outputs[name], shape)
            for name, shape in zip(names, shapes, strict=True)
        ]

    def _arrays_of(self, result: Any, kind: str) -> tuple[Any, ...]:
        """Return the outputs of a layer as arrays."""
        found = dict(find_tensors(result, "output"))
        return tuple(to_array(found[raw]) for raw in roles_of_outputs(kind, found))

    def _with_arrays(self, form: ResultForm, result: Any, arrays: Mapping[int, Any]) -> Any:
        """Return a layer's result with arrays in place of some of its outputs, by number."""
        by_place = {raw: arrays[part] for part, raw in enumerate(form.roles) if part in arrays}

        def change(raw: str, x: torch.Tensor) -> torch.Tensor:
            if raw not in by_place:
                return x
            if result is not None:
                return to_tensor(by_place[raw], x)
            return self.cast(to_tensor(by_place[raw], self._empty(x.dtype)))

        return replace_tensors(form.template if result is None else result, "output", change)

    def _may_write(self, stream: torch.Tensor) -> bool:
        """Return whether nothing relies on what a norm reads as it is: it was not recorded."""
        return not is_marked(stream)

    def _write(self, stream: Any, recorded: np.ndarray) -> bool:
        """Write recorded values into the stream that a norm reads; return whether it could be."""
        return self.stream.write(stream, recorded)

    def composite(
        self,
        layer: WatchedLayer | None,
        arguments: Mapping[str, Any],
        roles: Mapping[str, str],
        keep: Callable[[Any], None] | None = None,
        run: Callable[..., Any] | None = None,
        recorded: bool = False,
    ) -> Callable[[Mapping[str, Any]], Any]:
        """Return a function that computes a layer of several operations from arrays by role.

        Args:
            layer: The layer. None: the whole network.
            arguments: The arguments of its call by name, which the arrays replace.
            roles: The role of each tensor in them.
            keep: Called with the result.
            run: Computes the whole network from its arguments by name.
            recorded: Whether the arrays are those of the port.
        """
        held = {name: copy(x) for name, x in arguments.items() if type(x) in (list, dict)}

        def compute(values: Mapping[str, Any]) -> Any:
            passed: list[tuple[torch.Tensor, torch.Tensor, int]] = []

            def change(raw: str, x: torch.Tensor) -> torch.Tensor:
                value = values.get(roles.get(raw, ""), x)
                made = self.cast(to_tensor(value, x) if isinstance(value, np.ndarray) else x)
                if made is not x:
                    mark(made, recorded or is_marked(x))
                if made is not x and not made.is_inference():
                    passed.append((x, made, made._version))
                return made

            fresh = {**arguments, **{name: copy(x) for name, x in held.items()}}
            replaced = dict(replace_tensors(fresh, "", change))
            before = {name: copy(replaced[name]) for name in held}
            for raw, role in roles.items():
                if raw in replaced and role in values and values[role] is None:
                    replaced[raw] = None
            if layer is None:
                assert run is not None
                result = run(**replaced)
            else:
                result = call_with(self.network.layers[layer.path].forward, replaced)
            if self._trial is None:
                self.written = [(x, made) for x, made, v in passed if made._version != v]
                for x, made in self.written:
                    x.copy_(made)
                for name, x in before.items():
                    _write_items(arguments[name], x, replaced[name])
            if keep is not None:
                keep(result)
            return self._arrays_of(result, "" if layer is None else layer.kind)

        return compute

    def operation_call(self, name: str, operation: Operation) -> LayerCall:
        """Return an operation as judges and known faults see it."""
        likes = {**operation.inputs, **operation.parameters}

        def run(values: Mapping[str, Any]) -> Any:
            tensors = {role: self._as_tensor(x, likes.get(role)) for role, x in values.items()}
            casted = {role: self.cast(x) for role, x in likes.items()}
            with self.unseen():
                result = operation.compute({**casted, **operation.attributes, **tensors})
            if isinstance(result, tuple | list):
                return tuple(map(to_array, result))
            return to_array(result)

        inputs = {role: to_array(x) for role, x in operation.inputs.items()}
        parameters = {role: to_array(x) for role, x in operation.parameters.items()}
        layer = name.partition(AGAIN)[0]
        return LayerCall(
            name, operation.kind, inputs, parameters, operation.attributes, run, layer=layer
        )

    def _as_tensor(self, x: object, like: torch.Tensor | None) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        like = self._empty(self.network.dtype) if like is None else like
        return self.cast(to_tensor(x, like))

    def operation_again(
        self, name: str, operation: Operation, trial: Trial, run: Callable[[], Any]
    ) -> Any:
        """Return the result of an operation in a repeated run: recorded, changed or computed."""

        def compute(change: OperationChange | None) -> Any:
            if change is None:
                return run()
            call = self.operation_call(name, operation)
            return self._like(change(call, {**call.parameters, **call.inputs}), operation)

        def inputs() -> dict[str, np.ndarray]:
            return {role: to_array(x) for role, x in operation.inputs.items()}

        first = next(iter(operation.inputs.values()))
        return self._repeat(RepeatedLayer(name, inputs, compute, first), trial)

    def _like(self, changed: Any, operation: Operation) -> Any:
        """Return changed arrays as tensors of the kind that an operation returns."""
        like = next(iter(operation.inputs.values()))
        turned = any(x.is_complex() for x in operation.inputs.values())
        if operation.kind in ("pair", "polar") or (turned and operation.kind != "unpair"):
            like = self._empty(torch.complex128)
        elif operation.kind in ("unpair", "embedding") or not _is_real(like):
            like = self._empty(self.network.dtype)
        if isinstance(changed, tuple):
            return tuple(self.cast(to_tensor(x, like)) for x in changed)
        return self.cast(to_tensor(changed, like))

    def _empty(self, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor without numbers, of a format, where the module is."""
        parameter = next(self.network.network.parameters(), None)
        return torch.empty(0, dtype=dtype, device=None if parameter is None else parameter.device)


def _write_items(own: Any, before: Any, after: Any) -> None:
    """Write into a list or mapping what a layer wrote into a copy of it.

    Args:
        own: What the layer would have written into; such as a cache of features.
        before: The copy, as the layer was given it.
        after: The copy after the layer.
    """
    if isinstance(own, dict):
        own |= {key: x for key, x in after.items() if key not in before or x is not before[key]}
        return
    for i, x in enumerate(after):
        if i >= len(before):
            own.append(x)
        elif x is not before[i]:
            own[i] = x


def call_with(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function with arguments by name; `input.N` are those by position that have none."""
    extra = [x for name, x in arguments.items() if name.startswith("input.")]
    named = {name: x for name, x in arguments.items() if not name.startswith("input.")}
    return function(*named.values(), *extra) if extra else function(**named)


def first_of(roles: Mapping[str, str], *names: str) -> str | None:
    """Return the first of some names of a role that a layer was recorded with; None if none was."""
    return next((name for name in names if name in roles), None)


def _is_real(x: torch.Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
