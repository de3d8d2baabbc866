"""Record modules of PyTorch: networks by name, or the layers of a model that is a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ldmref.trace import torch_names as known
from ldmref.trace.calls import FAMILY
from ldmref.trace.files import require_call_name
from ldmref.trace.frameworks.framework import RecordedModules
from ldmref.trace.name_maps import NameMap, Renamer, make_renamer
from ldmref.trace.selection import Selection
from ldmref.trace.torch_arguments import describe_arguments
from ldmref.trace.torch_calls import TorchTraceWriter, describe_parameters
from ldmref.trace.torch_denoiser import DenoiserRecorder, family_of_denoiser
from ldmref.trace.torch_hooks import LayerRecorder, refuse_compiled
from ldmref.trace.torch_methods import (
    AutoencoderRecorder,
    ReplacedMethods,
    end_named,
    is_autoencoder,
    is_autoencoder_of_diffusers,
    watch_methods,
)
from ldmref.trace.torch_operations import named_inputs


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
    refuse_compiled("the module", module)
    program = RecordedModules({call: module})
    with record_program(program, folder, names, selection, overwrite) as writer:
        yield writer


@contextmanager
def record_program(
    program: RecordedModules,
    folder: str | Path,
    names: NameMap | None = None,
    selection: Selection | None = None,
    overwrite: bool = False,
) -> Iterator[TorchTraceWriter]:
    """Record the calls of networks, or of the layers of a functional model, in a `with` block.

    Args:
        program: The networks or layers, which are not compiled.
        folder, names, selection, overwrite: As for `record_module`.

    Yields:
        The writer.

    Raises:
        UsageError: A pattern of `names` or a name is not valid.
        OutputError: The folder has a trace (unless `overwrite`), or cannot be written.
    """
    rename = make_renamer(names)
    for call in program.calls:
        require_call_name(call)
    writer = TorchTraceWriter(folder, selection, overwrite)
    writer.manifest |= describe_parameters(program.modules.values())
    recorder = LayerRecorder(writer)
    replaced = ReplacedMethods(writer.left_out)
    try:
        if program.call is None:
            for name, module in program.modules.items():
                _observe_calls(recorder, replaced, name, module, names)
                own = known.make_renamer(module) if names is None else rename
                recorder.attach(module, own)
        else:
            _attach_layers(recorder, program.call, program.modules, rename)
        with recorder:
            yield writer
        if program.call is not None:
            recorder.end()
    finally:
        replaced.restore()
        recorder.detach()
    writer.close()


def _observe_calls(
    recorder: LayerRecorder,
    replaced: ReplacedMethods,
    name: str,
    network: torch.nn.Module,
    names: NameMap | None,
) -> None:
    """Observe the calls of a network: those of an autoencoder are what it encodes and decodes."""
    if is_autoencoder_of_diffusers(network):
        AutoencoderRecorder(recorder, network, name).attach(replaced)
        return
    if is_autoencoder(network):
        watch_methods(recorder, replaced, network, name)
        recorder.hook(network, name, *_forward_hooks(recorder, name))
        return
    recorder.hook_call(network, name, *_call_hooks(recorder, name, network, names))


def _forward_hooks(recorder: LayerRecorder, name: str) -> tuple[Callable, Callable]:
    """Return what sees a forward pass of an autoencoder in which neither of its methods ran."""
    ended: list[object] = []

    def before(*_: object) -> None:
        ended[:] = [recorder.writer.last]

    def after(*_: object) -> None:
        if ended and ended[0] is recorder.writer.last:
            reason = "a forward pass that calls neither encode nor decode is not recorded"
            recorder.writer.left_out.note(name, reason)

    return before, after


def _call_hooks(
    recorder: LayerRecorder, call: str, network: torch.nn.Module, names: NameMap | None
) -> tuple[Callable, Callable]:
    """Return what begins and what describes the calls of a network.

    A denoiser of diffusers under its own names is read as in a pipeline, if only its family knows
    what its arrays are.
    """
    left_out = recorder.writer.left_out
    family = family_of_denoiser(network) if names is None else None
    if family is not None:
        denoiser = DenoiserRecorder(recorder, family)
        recorder.writer.manifest[FAMILY] = family.name
        return denoiser.make_begin(call), lambda module, args, kwargs, output: denoiser.end(output)

    def before(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        begun = recorder.begin(module, call, True)
        begun.add("", "", named_inputs(module, "", args, kwargs))
        with left_out.guard(f"{begun.name}: arguments that are not tensors"):
            begun.add("", attributes={"arguments": describe_arguments(module, args, kwargs)})

    def after(
        module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: object
    ) -> None:
        end_named(recorder, output)

    return before, after


def _attach_layers(
    recorder: LayerRecorder, call: str, layers: Mapping[str, torch.nn.Module], rename: Renamer
) -> None:
    """Observe the layers of a model that is a function.

    A call begins with the layer that is called first, and ends when that is called again.
    """
    whole = torch.nn.Module()
    whole._modules.update(layers)  # whose names have dots, which `add_module` refuses
    first: list[torch.nn.Module] = []

    def before(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        again = bool(first) and module is first[0] and not recorder.is_in_layer
        if recorder.call is None or again:
            recorder.end()
            first[:] = [module]
            recorder.begin(whole, call, True)

    for name, layer in layers.items():
        recorder.hook(layer, name, before, _nothing)
    recorder.attach(whole, rename)


def _nothing(*_: object) -> None:
    """Do nothing after a call."""
