"""The names of layers and operations in a call of a PyTorch module, for those who follow it.

A recorder and a replay see the same calls, and count them in one way: `LayerNames` gives each layer
and each operation without a module the name that it has in a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ldmref.trace import torch_names as known
from ldmref.trace.name_maps import Joined, Renamer

FEED_FORWARD = ("ff", "ff_context")  # of blocks of transformers
SILENT = (torch.nn.ModuleList, torch.nn.Sequential, torch.nn.Dropout, torch.nn.Identity)
LAYER = "layer"
CHUNKED = "chunked"  # a layer that is called for a part of the tokens at a time


@dataclass
class Scope:
    """A layer that is being computed.

    Attributes:
        name: Its name.
        inner: The name in front of its attention; another one in attention blocks, which are two
            layers of ldmref of the same name.
        module: The module.
        image: The shape of its input if it is an attention block, otherwise ().
        size: The number of elements of its input, which residual sums have as well. 0: not known.
        last_sum: The operands and the result of its last sum.
    """

    name: str
    inner: str
    module: torch.nn.Module
    image: tuple[int, ...] = ()
    size: int = 0
    last_sum: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None


@dataclass(frozen=True)
class ModuleRole:
    """The role of a submodule of a network for those who follow its calls.

    Attributes:
        path: Its path.
        module: The module.
        name: The name of its layer; "" for an activation.
        role: "layer", "chunked", or the operation that an activation computes.
        joined: The layers of ldmref that it is in one. None: it is one.
    """

    path: str
    module: torch.nn.Module
    name: str
    role: str
    joined: Joined | None = None


def find_layers(network: torch.nn.Module, rename: Renamer) -> Iterator[ModuleRole]:
    """Yield the submodules of a network that are layers, and those that are activations.

    Feed-forward layers that are called for a part of the tokens at a time do not count, nor do the
    layers in them.

    Args:
        network: The network.
        rename: Returns the name of a layer for a path, or those of the layers that it joins. None
            or "": it is not followed.
    """
    parts = [p for p, m in network.named_modules() if getattr(m, "_chunk_size", None)]
    chunked = tuple(f"{path}.{name}" for path in parts for name in FEED_FORWARD)
    for path, module in network.named_modules():
        if not path or isinstance(module, SILENT):
            continue
        if path in chunked:
            yield ModuleRole(path, module, "", CHUNKED)
        if (path + ".").startswith(tuple(name + "." for name in chunked)):
            continue
        operation = known.ACTIVATIONS.get(type(module).__name__)
        name = rename(path)
        if operation is not None:
            yield ModuleRole(path, module, "", operation)
        elif isinstance(name, Joined):
            yield ModuleRole(path, module, name.name, LAYER, name)
        elif name and known.is_layer(name, module):
            yield ModuleRole(path, module, name.replace("/", "."), LAYER)


class LayerNames:
    """Gives names to the layers and the operations of a call, in the order in which they run.

    Attributes:
        scopes: The layers that are being computed, the innermost last.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    def enter(
        self,
        module: torch.nn.Module,
        name: str,
        unique: Callable[[str], str],
        first: torch.Tensor | None = None,
    ) -> Scope:
        """Begin a layer.

        Args:
            module: The module.
            name: Its name, without a number.
            unique: Returns a name with its number in the call.
            first: Its first input. None: it has none.
        """
        full = unique(name)
        scope = Scope(full, full, module, size=0 if first is None else first.numel())
        if first is not None and known.kind_of(module) == "attention_block":
            scope.inner = unique(name)
            scope.image = tuple(first.shape)
        self.scopes.append(scope)
        return scope

    def enter_again(self, module: torch.nn.Module) -> bool:
        """Leave the scopes within that of a module, whose end was not seen; whether it has one."""
        for i in reversed(range(len(self.scopes))):
            if self.scopes[i].module is module:
                del self.scopes[i + 1 :]
                return True
        return False

    def operation(self, operation: str, unique: Callable[[str], str]) -> str:
        """Return the name of an operation within the layer that is being computed."""
        scope = self.scopes[-1] if self.scopes else None
        prefix = "" if scope is None else scope.inner if operation == "attention" else scope.name
        return unique(f"{prefix}.{operation}" if prefix else operation)


def is_named_sum(scope: Scope | None, args: tuple, result: torch.Tensor) -> bool:
    """Return whether a sum is one that has a name when it is computed.

    Sums of two equal shapes have one in layers whose residual sums are named, except in residual
    blocks, whose last sum is named at their end; outside of layers, embeddings have one. A residual
    sum has as many elements as the input of its layer, and neither term is a parameter of it: a
    table of shifts and the time may agree in their shapes, as those of one image do.
    """
    shapes = {getattr(x, "shape", None) for x in args[:2]}
    if len(shapes) > 1 or len(args) < 2:
        return False
    if scope is None:
        return result.ndim == 2  # embeddings of time, text and sizes
    scope.last_sum = (args[0], args[1], result)
    if known.kind_of(scope.module) == "resnet_block":  # whose first sum adds the timestep
        return False
    if not known.class_in(scope.module, known.RESIDUALS) or scope.size not in (0, result.numel()):
        return False
    own = [*scope.module.parameters(recurse=False)]
    return not any(_holds(x, parameter) for x in args[:2] for parameter in own)


def _holds(x: torch.Tensor, parameter: torch.Tensor) -> bool:
    """Return whether an array is a parameter, a part of one, or one in another number format."""
    if x.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr():
        return True
    if x.numel() != parameter.numel() or x.shape[-parameter.ndim :] != parameter.shape:
        return False
    return torch.equal(x.reshape(parameter.shape), parameter.to(x.dtype))


def operands_of_sum(scope: Scope | None, args: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the terms of a named sum as ldmref orders them: the residual first."""
    a, b = args[:2]
    kind = "" if scope is None else known.class_in(scope.module, known.RESIDUALS)
    return (b, a) if kind and known.RESIDUALS[kind] else (a, b)
