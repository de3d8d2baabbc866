"""Record every layer of PyTorch modules by hooks, which change no number.

Modules are seen by forward hooks. Operations without a module (attention, activations, residual
sums, resampling) are seen as calls of functions of torch, which `LayerRecorder` observes as a
`TorchFunctionMode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ldmref.errors import UsageError
from ldmref.trace import torch_names as known
from ldmref.trace.name_maps import Joined, Renamer
from ldmref.trace.recorder import CallRecord
from ldmref.trace.torch_calls import TorchTraceWriter
from ldmref.trace.torch_operations import (
    NOISE,
    SUMS,
    before_writing,
    identify_operation,
    is_operation,
    name_arguments,
    named_inputs,
    named_outputs,
)
from ldmref.trace.torch_scopes import (
    CHUNKED,
    LAYER,
    LayerNames,
    Scope,
    find_layers,
    is_named_sum,
    operands_of_sum,
)
from ldmref.trace.torch_values import find_tensors, find_unread


class LayerRecorder(TorchFunctionMode):
    """Records the layers of networks while it is entered.

    Attributes:
        writer: Where calls are written.
        call: The call of a network being recorded, None between them.
        noise: The tensors of normal noise since it was set to an empty list; None: ignored.
        as_ours: Returns an array of a layer in our layout, from the layer's name and the array, or
            None if no layer of ours has it. None: arrays stay as they are.
        unlike: The layers of the call so far with an array that no layer of ours has.
    """

    def __init__(self, writer: TorchTraceWriter):
        super().__init__()
        self.writer = writer
        self.call: CallRecord | None = None
        self.noise: list[torch.Tensor] | None = None
        self.as_ours: Callable[[str, torch.Tensor], torch.Tensor | None] | None = None
        self.unlike: set[str] = set()
        self._names = LayerNames()
        self._joined: dict[str, Joined] = {}  # by the name of the whole
        self._muted = 0  # layers around the current one whose operations are left out
        self._handles: list[Any] = []

    def begin(self, network: torch.nn.Module, name: str, numbered: bool) -> CallRecord:
        """Begin the call of a network."""
        if self.call is not None:
            self.writer.left_out.note(self.call.name, "it did not end before the next call")
            self.call.store.close()
            self.call = None
        self._names = LayerNames()
        self._muted = 0
        self.unlike.clear()
        self.writer.flush()
        self.call = self.writer.begin(name, numbered, network)
        self.call.joined = self._joined
        return self.call

    @property
    def is_in_layer(self) -> bool:
        """Whether a layer is being computed."""
        return bool(self._names.scopes)

    def end(self) -> None:
        """End the call of the network, if one has begun."""
        call, self.call = self.call, None
        if call is not None:
            self.writer.end(call)

    def attach(self, network: torch.nn.Module, rename: Renamer) -> None:
        """Observe the modules of a network whose name `rename` knows.

        Feed-forward layers that are called for a part of the tokens at a time are left out; the
        block around them is observed.
        """
        for found in find_layers(network, rename):
            if found.joined is not None:
                self._joined[found.name] = found.joined
            if found.role == LAYER:
                self._observe(network, found.module, found.name)
            elif found.role == CHUNKED:
                self.hook(found.module, found.path, self._mute, self._unmute)
            else:
                self.hook(found.module, found.path, *self._make_activation(found.role))

    def hook(
        self, module: torch.nn.Module, name: str, before: Callable | None, after: Callable
    ) -> None:
        """Call `before(module, args, kwargs)` and `after(module, args, kwargs, output)`.

        If one raises an error, the layer `name` is left out and the module's call goes on.
        """
        if before is not None:
            seen = self._guarded(before, name)
            self._handles.append(module.register_forward_pre_hook(seen, with_kwargs=True))
        seen = self._guarded(after, name)
        self._handles.append(module.register_forward_hook(seen, with_kwargs=True))

    def hook_call(
        self, network: torch.nn.Module, name: str, before: Callable, after: Callable
    ) -> None:
        """Call as `hook` does what begins and describes the calls of a network; then end them."""

        def end(*call: object) -> None:
            try:
                after(*call)
            finally:
                self.end()

        self.hook(network, name, before, end)

    def _guarded(self, function: Callable, name: str) -> Callable:
        def run(*args: object) -> None:
            call = self.call
            try:
                function(*args)
            except Exception as error:
                full = name if call is None else f"{call.name}/{name}"
                self.writer.left_out.note(full, error)

        return run

    def detach(self) -> None:
        """Remove all hooks."""
        while self._handles:
            self._handles.pop().remove()

    # -- modules

    def _observe(self, network: torch.nn.Module, module: torch.nn.Module, name: str) -> None:
        kind = known.kind_of(module)

        def enter(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
            call = self._call_of(network)
            if call is None:
                return
            inside = self.call is not None
            inputs = named_inputs(module, kind, args, kwargs)
            unique = call.unique if inside else _as_it_is
            arrays = self._as_image(kind, inputs)
            first = next(iter(inputs.values()), None)
            layer = self._names.enter(module, name, unique, first).name
            call.add(layer, kind, self._change(layer, arrays))
            self.note_unread_arguments(call, layer, name_arguments(module, args, kwargs))

        def leave(
            module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: object
        ) -> None:
            call = self._call_of(network)
            if call is None or not self._names.enter_again(module):
                return
            scope = self._names.scopes[-1]
            if kind == "resnet_block" and scope.last_sum is not None:
                with self.writer.left_out.guard(f"{call.name}/{scope.name}.add"):
                    self._record_sum(scope, scope.last_sum[:2], scope.last_sum[2])
            self._names.scopes.pop()
            outputs = named_outputs(output, kind)
            self.note_unread(call, scope.name, output)
            outputs = self._change(scope.name, self._as_image(kind, outputs))
            call.add(scope.name, kind, {}, known.attributes_of(module, kind), outputs)
            if self.call is None:  # the call has ended: this is the network's output
                call.add("", outputs=outputs)

        self.hook(module, name, enter, leave)

    def note_unread(self, call: CallRecord, layer: str, result: object) -> None:
        """Note what could not be read of a layer's result, and that it holds no array.

        Args:
            call: The call.
            layer: The layer; "" for the whole network.
            result: The result.
        """
        if not call.takes(layer):
            return
        name = f"{call.name}/{layer}/output"
        unread = [*find_unread(result, name)]
        for path, kind in unread:
            self.writer.left_out.note(path, f"no array is found in a {kind}")
        if not unread and next(find_tensors(result, "output"), None) is None:
            self.writer.left_out.note(name, f"a {type(result).__name__} holds no array")

    def note_unread_arguments(
        self, call: CallRecord, layer: str, arguments: Mapping[str, Any]
    ) -> None:
        """Note the arguments by name of a layer in which no array can be found."""
        if call.takes(layer):
            for path, kind in find_unread(arguments, f"{call.name}/{layer}/input"):
                self.writer.left_out.note(path, f"no array is found in a {kind}")

    def _call_of(self, network: torch.nn.Module) -> CallRecord | None:
        """Return the call that runs, or the last one if it was of the same network."""
        if self.call is not None:
            return self.call
        last = self.writer.last
        return last if last is not None and last.network is network else None

    def _change(
        self, layer: str, tensors: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a layer in our layout."""
        change = self.as_ours
        if change is None:
            return tensors
        changed = {role: change(layer, x) for role, x in tensors.items()}
        if any(x is None for x in changed.values()):
            self.unlike.add(layer)
        return {role: x for role, x in changed.items() if x is not None}

    def _as_image(
        self, kind: str, tensors: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a group norm in an attention block as images, (n, c, h, w)."""
        scopes = self._names.scopes
        if kind != "group_norm" or not scopes or not scopes[-1].image:
            return tensors
        shape = scopes[-1].image
        return {role: x.reshape(shape) if x.ndim == 3 else x for role, x in tensors.items()}

    # -- operations

    def _mute(self, *_: object) -> None:
        self._muted += 1

    def _unmute(self, *_: object) -> None:
        self._muted -= 1

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        before: tuple[tuple, Mapping[str, Any]] = args, kwargs
        try:
            if self.call is not None and not self._muted and is_operation(func):
                before = before_writing(func, args, kwargs)
        except Exception as error:
            self._note_operation(func, error)
        result = func(*args, **kwargs)
        try:
            self._see_operation(func, *before, result)
        except Exception as error:
            self._note_operation(func, error)
        return result

    def _note_operation(self, func: object, error: Exception) -> None:
        name = getattr(func, "__name__", "operation")
        self.writer.left_out.note(f"{self.call.name}/{name}" if self.call else name, error)

    def _see_operation(
        self, func: object, args: tuple, kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Record the noise that the scheduler draws, and the operations of a network's call."""
        if func in NOISE and self.noise is not None:
            self.noise.append(result.detach().clone())  # a step may scale it in place
        if self.call is None or self._muted:
            return
        if func in SUMS:
            self._see_sum(args, result)
        else:
            found = identify_operation(func, args, kwargs, result)
            if found is not None:
                operation, inputs, attributes = found
                self._record(operation, inputs, result, attributes)

    def _make_activation(self, operation: str) -> tuple[Callable, Callable]:
        """Return what records an activation before and after its call, which may write into it."""
        begun: list[tuple[CallRecord, str]] = []

        def before(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
            begun.clear()
            if self.call is not None and not self._muted:
                x = args[0] if args else next(iter(kwargs.values()))
                layer = self._names.operation(operation, self.call.unique)
                self.call.add(layer, operation, self._change(layer, {"input": x}))
                begun.append((self.call, layer))

        def after(
            module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any
        ) -> None:
            if begun:
                call, layer = begun.pop()
                call.add(layer, outputs=self._change(layer, {"output": output}))

        return before, after

    def _record(
        self,
        operation: str,
        inputs: Mapping[str, torch.Tensor],
        result: torch.Tensor,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        assert self.call is not None
        layer = self._names.operation(operation, self.call.unique)
        inputs = self._change(layer, inputs)
        outputs = self._change(layer, {"output": result})
        self.call.add(layer, operation, inputs, attributes, outputs)

    def _see_sum(self, args: tuple, result: torch.Tensor) -> None:
        """Record a sum of two equal shapes, which may be a residual connection."""
        scope = self._names.scopes[-1] if self._names.scopes else None
        if is_named_sum(scope, args, result):
            self._record_sum(scope, args, result)
        elif scope is not None and scope.last_sum is not None and scope.last_sum[2] is result:
            if known.kind_of(scope.module) == "resnet_block":  # whose later code may write into it
                a, b, end = (x.detach().clone() for x in scope.last_sum)
                scope.last_sum = a, b, end

    def _record_sum(self, scope: Scope | None, args: tuple, result: torch.Tensor) -> None:
        a, b = operands_of_sum(scope, args)
        self._record("add", {"input": a, "b": b}, result)


def _as_it_is(name: str) -> str:
    return name


def refuse_compiled(name: str, module: object, *, copied: bool = False) -> None:
    """Refuse what is not a module, or was compiled, whole or in parts: hooks do not see its layers.

    `torch.compile(module)` returns another module, which holds the original; `module.compile()`
    is forgotten by a copy.

    Args:
        name: What the message calls it.
        module: The module.
        copied: Whether copies of it are watched.

    Raises:
        UsageError: It is one of these.
    """
    if not isinstance(module, torch.nn.Module):
        message = f"{name} must be a torch.nn.Module, not {type(module).__name__}"
        raise UsageError(message, code="E-TRACE")
    for path, part in module.named_modules():
        in_place = not copied and getattr(part, "_compiled_call_impl", None) is not None
        if in_place or hasattr(part, "_orig_mod"):
            how = "module.compile()" if in_place else "torch.compile"
            what = f"{path} of {name}" if path else name
            message = f"{what} was compiled with {how}, which hides its layers"
            raise UsageError(message, code="E-TRACE", hint="use it without compiling it")
