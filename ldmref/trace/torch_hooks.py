"""Record every layer of PyTorch modules by hooks, which change no number.

Modules are seen by forward hooks. Operations without a module (attention, activations, residual
sums, resampling) are seen as calls of functions of torch, which `LayerRecorder` observes as a
`TorchFunctionMode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ldmref.errors import UsageError
from ldmref.trace import torch_names as known
from ldmref.trace.files import require_call_name
from ldmref.trace.name_maps import NameMap, make_renamer
from ldmref.trace.recorder import CallRecord
from ldmref.trace.selection import Selection
from ldmref.trace.torch_calls import (
    TorchTraceWriter,
    describe_parameters,
    find_tensors,
    first_tensor,
)
from ldmref.trace.torch_operations import NOISE, SUMS, identify_operation, named_inputs

FEED_FORWARD = ("ff", "ff_context")  # of blocks of transformers
SILENT = (torch.nn.ModuleList, torch.nn.Sequential, torch.nn.Dropout, torch.nn.Identity)


@dataclass
class Scope:
    """A layer that is being computed.

    Attributes:
        name: Its name.
        inner: The name in front of its attention; another one in attention blocks, which are two
            layers of ldmref of the same name.
        module: The module.
        image: The shape of its input if it is an attention block, otherwise ().
        last_sum: The operands and the result of its last sum.
    """

    name: str
    inner: str
    module: torch.nn.Module
    image: tuple[int, ...] = ()
    last_sum: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None


class LayerRecorder(TorchFunctionMode):
    """Records the layers of networks while it is entered.

    Attributes:
        writer: Where calls are written.
        call: The call of a network being recorded, None between them.
        noise: The tensors of normal noise since it was set to an empty list; None: ignored.
        as_ours: Returns an array of a layer in our layout, from the layer's name and the array, or
            None if no layer of ours has it. None: arrays stay as they are.
    """

    def __init__(self, writer: TorchTraceWriter):
        super().__init__()
        self.writer = writer
        self.call: CallRecord | None = None
        self.noise: list[torch.Tensor] | None = None
        self.as_ours: Callable[[str, torch.Tensor], torch.Tensor | None] | None = None
        self._scopes: list[Scope] = []
        self._muted = 0  # layers around the current one whose operations are left out
        self._handles: list[Any] = []

    def begin(self, network: torch.nn.Module, name: str, numbered: bool) -> CallRecord:
        """Begin the call of a network."""
        if self.call is not None:
            self.writer.left_out.note(self.call.name, "it did not end before the next call")
            self.call.store.close()
            self.call = None
        self._scopes = []
        self._muted = 0
        self.writer.flush()
        self.call = self.writer.begin(name, numbered, network)
        return self.call

    def end(self) -> None:
        """End the call of the network."""
        call, self.call = self.call, None
        if call is not None:
            self.writer.end(call)

    def attach(self, network: torch.nn.Module, rename: Callable[[str], str | None]) -> None:
        """Observe the modules of a network whose name `rename` knows.

        Feed-forward layers that are called for a part of the tokens at a time are left out; the
        block around them is observed.
        """
        parts = [p for p, m in network.named_modules() if getattr(m, "_chunk_size", None)]
        chunked = tuple(f"{path}.{name}" for path in parts for name in FEED_FORWARD)
        for path, module in network.named_modules():
            if not path or isinstance(module, SILENT):
                continue
            if path in chunked:
                self.hook(module, path, self._mute, self._unmute)
            if (path + ".").startswith(tuple(name + "." for name in chunked)):
                continue
            operation = known.ACTIVATIONS.get(type(module).__name__)
            name = rename(path)
            if operation is not None:
                self.hook(module, path, None, self._make_activation(operation))
            elif name and known.is_layer(name, module):
                self._observe(network, module, name.replace("/", "."))

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
            unique = call.unique(name) if inside else name
            inputs = named_inputs(module, kind, args, kwargs)
            scope = Scope(unique, unique, module)
            if kind == "attention_block":
                scope.inner = call.unique(name)
                scope.image = tuple(inputs["input"].shape)
            call.add(unique, kind, self._change(unique, self._as_image(kind, inputs)))
            self._scopes.append(scope)

        def leave(
            module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: object
        ) -> None:
            call = self._call_of(network)
            if call is None or not self._enter_again(module):
                return
            if kind == "resnet_block":
                with self.writer.left_out.guard(f"{call.name}/{self._scopes[-1].name}.add"):
                    self._record_sum(self._scopes[-1])
            scope = self._scopes.pop()
            outputs = dict(find_tensors(output, "output"))
            tensor = first_tensor(output)
            if tensor is not None and (kind or len(outputs) == 1):
                outputs = {"output": tensor}
            outputs = self._change(scope.name, self._as_image(kind, outputs))
            call.add(scope.name, kind, {}, known.attributes_of(module, kind), outputs)
            if self.call is None:  # the call has ended: this is the network's output
                call.add("", outputs=outputs)

        self.hook(module, name, enter, leave)

    def _enter_again(self, module: torch.nn.Module) -> bool:
        """Leave the scopes within that of a module, whose end was not seen; whether it has one."""
        for i in reversed(range(len(self._scopes))):
            if self._scopes[i].module is module:
                del self._scopes[i + 1 :]
                return True
        return False

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
        return {role: x for role, x in changed.items() if x is not None}

    def _as_image(
        self, kind: str, tensors: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a group norm in an attention block as images, (n, c, h, w)."""
        if kind != "group_norm" or not self._scopes or not self._scopes[-1].image:
            return tensors
        shape = self._scopes[-1].image
        return {role: x.reshape(shape) if x.ndim == 3 else x for role, x in tensors.items()}

    # -- operations

    def _mute(self, *_: object) -> None:
        self._muted += 1

    def _unmute(self, *_: object) -> None:
        self._muted -= 1

    def __torch_function__(
        self, func: Any, types: object, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        try:
            self._see_operation(func, args, kwargs, result)
        except Exception as error:
            name = getattr(func, "__name__", "operation")
            self.writer.left_out.note(f"{self.call.name}/{name}" if self.call else name, error)
        return result

    def _see_operation(
        self, func: object, args: tuple, kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Record the noise that the scheduler draws, and the operations of a network's call."""
        if func in NOISE and self.noise is not None:
            self.noise.append(result)
        if self.call is None or self._muted:
            return
        if func in SUMS:
            self._see_sum(args, result)
        else:
            found = identify_operation(func, args, kwargs, result)
            if found is not None:
                operation, inputs, attributes = found
                self._record(operation, inputs, result, attributes)

    def _make_activation(self, operation: str) -> Callable:
        def record(
            module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any
        ) -> None:
            if self.call is not None and not self._muted:
                self._record(operation, {"input": args[0]}, output)

        return record

    def _record(
        self,
        operation: str,
        inputs: Mapping[str, torch.Tensor],
        result: torch.Tensor,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        assert self.call is not None
        scope = self._scopes[-1] if self._scopes else None
        prefix = "" if scope is None else scope.inner if operation == "attention" else scope.name
        layer = self.call.unique(f"{prefix}.{operation}" if prefix else operation)
        inputs = self._change(layer, inputs)
        outputs = self._change(layer, {"output": result})
        self.call.add(layer, operation, inputs, attributes, outputs)

    def _see_sum(self, args: tuple, result: torch.Tensor) -> None:
        """Record a sum of two equal shapes, which may be a residual connection."""
        shapes = {getattr(x, "shape", None) for x in args[:2]}
        if len(shapes) > 1 or len(args) < 2:
            return
        if not self._scopes:  # embeddings of time, text and sizes
            if result.ndim == 2:
                self._record("add", {"input": args[0], "b": args[1]}, result)
            return
        scope = self._scopes[-1]
        scope.last_sum = (args[0], args[1], result)
        if known.kind_of(scope.module) != "resnet_block":  # whose first sum adds the timestep
            self._record_sum(scope)

    def _record_sum(self, scope: Scope) -> None:
        kind = known.class_in(scope.module, known.RESIDUALS)
        if scope.last_sum is None or not kind:
            return
        a, b, result = scope.last_sum
        if known.RESIDUALS[kind]:
            a, b = b, a
        self._record("add", {"input": a, "b": b}, result)


def refuse_compiled(name: str, module: object) -> None:
    """Refuse what is not a module, or was compiled: hooks do not see the layers of either.

    Raises:
        UsageError: It is one of these.
    """
    if not isinstance(module, torch.nn.Module):
        message = f"{name} must be a torch.nn.Module, not {type(module).__name__}"
        raise UsageError(message, code="E-TRACE")
    if hasattr(module, "_orig_mod"):
        message = f"{name} was compiled with torch.compile, which hides its layers"
        raise UsageError(message, code="E-TRACE", hint="record it without torch.compile")


@contextmanager
def record_module(
    module: torch.nn.Module,
    folder: str | Path,
    *,
    call: str = "unet",
    names: NameMap | None = None,
    selection: Selection | None = None,
    overwrite: bool = False,
) -> Iterator[TorchTraceWriter]:
    """Record each forward pass of a module in a `with` block; its numbers do not change.

    Args:
        module: The module, in any dtype and on any device.
        folder: The folder of the trace.
        call: The name of its calls, which are numbered: `unet.000`, `unet.001`.
        names: The layer of ldmref for each of the module's submodules, by their path: a mapping of
            names or globs, or a function (`ldmref.trace.name_maps.make_renamer`). Modules without a
            name are left out. None: the paths are ldmref's.
        selection: Layers to record. None: all.
        overwrite: Whether an existing trace is replaced.

    Yields:
        The writer, whose `manifest` may be extended.

    Raises:
        UsageError: A pattern of `names` or the name `call` is not valid, or the module is compiled.
        OutputError: The folder has a trace (unless `overwrite`), or cannot be written.

    >>> from ldmref.trace import record_module
    >>> with record_module(network, "trace", names={"first": "conv_in"}):  # doctest: +SKIP
    ...     network(torch.zeros(1, 4, 8, 8))
    """
    rename = make_renamer(names)
    refuse_compiled("the module", module)
    require_call_name(call)
    writer = TorchTraceWriter(folder, selection, overwrite)
    writer.manifest |= describe_parameters([module])
    recorder = LayerRecorder(writer)

    def before(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        recorder.begin(module, call, True).add("", "", named_inputs(module, "", args, kwargs))

    def after(
        module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: object
    ) -> None:
        outputs = dict(find_tensors(output, "output"))
        if recorder.call is not None:
            single = {"output": first_tensor(output)} if len(outputs) == 1 else outputs
            recorder.call.add("", outputs=single)

    try:
        recorder.hook_call(module, call, before, after)
        recorder.attach(module, rename)
        with recorder:
            yield writer
    finally:
        recorder.detach()
    writer.close()
