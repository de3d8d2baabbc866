"""Record the networks of a pipeline that no family reads, each under the name of its component.

What such a pipeline computes between its networks (tokens, schedule, guidance, steps) has no names,
so it is left out, and the trace says so; the request is in the manifest. The networks are judged by
modules of PyTorch (`ldmref.locate.diff_modules`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ldmref.trace.selection import Selection
from ldmref.trace.torch_arguments import describe_named
from ldmref.trace.torch_calls import TorchTraceWriter, describe_parameters
from ldmref.trace.torch_hooks import LayerRecorder
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_names import make_renamer
from ldmref.trace.torch_operations import name_arguments, named_outputs
from ldmref.trace.torch_request import RequestRecorder
from ldmref.trace.torch_values import find_tensors

METHODS = ("encode", "decode")  # of autoencoders, which pipelines call
BETWEEN = "between the networks"


@contextmanager
def record_networks(
    pipe: object,
    networks: Mapping[str, torch.nn.Module],
    folder: str | Path,
    selection: Selection | None = None,
    overwrite: bool = False,
) -> Iterator[TorchTraceWriter]:
    """Record each call of some networks in a `with` block; no number changes.

    Args:
        pipe: The pipeline.
        networks: Its networks by name: the calls of "transformer" are `transformer.000`,
            `transformer.001`; the methods of an autoencoder are `vae.decode`, `vae.decode~1`.
        folder: The folder of the trace.
        selection: Calls and layers to record. None: all.
        overwrite: Whether an existing trace is replaced.

    Yields:
        The writer, whose `manifest` may be extended; it has what the pipeline was asked for.

    Raises:
        OutputError: The folder has a trace (unless `overwrite`), or cannot be written.
    """
    writer = TorchTraceWriter(folder, selection, overwrite)
    writer.manifest |= describe_parameters(networks.values())
    writer.manifest["pipeline"] = type(pipe).__name__
    recorder = LayerRecorder(writer)
    request = RequestRecorder(writer, LatentLayout(None))
    replaced: list[tuple[torch.nn.Module, str]] = []
    end_calls = request.observe_calls(pipe) if callable(pipe) else None
    try:
        for name, network in networks.items():
            recorder.attach(network, make_renamer(network))
            recorder.hook_call(network, name, *_hooks(recorder, name))
            for method in METHODS:
                if callable(getattr(network, method, None)) and method not in vars(network):
                    setattr(network, method, _watched(recorder, network, name, method))
                    replaced.append((network, method))
        with recorder:
            yield writer
    finally:
        writer.left_out.ended = True
        recorder.detach()
        for network, method in replaced:
            vars(network).pop(method, None)
        if end_calls is not None:
            end_calls()
    if request.requests:
        writer.manifest |= {"request": request.asked, "requests": request.requests}
    writer.left_out.note(BETWEEN, f"no family of ldmref reads a {type(pipe).__name__}")
    writer.close()


def _hooks(recorder: LayerRecorder, name: str) -> tuple[Callable, Callable]:
    """Return what begins and what ends the calls of a network."""

    def begin(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        _begin(recorder, module, name, True, name_arguments(module, args, kwargs))

    def end(
        module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: object
    ) -> None:
        if recorder.call is not None:
            recorder.call.add("", outputs=named_outputs(output))
            recorder.note_unread(recorder.call, "", output)

    return begin, end


def _watched(
    recorder: LayerRecorder, network: torch.nn.Module, name: str, method: str
) -> Callable[..., Any]:
    """Return a method of a network that is recorded as a call."""
    function = getattr(network, method)
    names = list(inspect.signature(function).parameters)

    def before(args: tuple, kwargs: Mapping[str, Any]) -> None:
        named = dict(zip(names, args, strict=False)) | dict(kwargs)
        _begin(recorder, network, f"{name}.{method}", False, named)

    def after(state: None, args: tuple, kwargs: Mapping[str, Any], result: object) -> None:
        if recorder.call is not None:
            recorder.call.add("", outputs=named_outputs(result))
            recorder.note_unread(recorder.call, "", result)
        recorder.end()

    return recorder.writer.left_out.observed(function, f"{name}.{method}", before, after)


def _begin(
    recorder: LayerRecorder,
    network: torch.nn.Module,
    name: str,
    numbered: bool,
    arguments: Mapping[str, Any],
) -> None:
    """Begin a call with its arguments by name."""
    call = recorder.begin(network, name, numbered)
    call.add("", "", dict(find_tensors(arguments, "")))
    with recorder.writer.left_out.guard(f"{call.name}: arguments that are not tensors"):
        call.add("", attributes={"arguments": describe_named(arguments)})
