"""Record the networks of a pipeline that no family reads, each under the name of its component.

What such a pipeline computes between its networks (tokens, schedule, guidance, steps) has no names,
so it is left out, and the trace says so; the request is in the manifest. The networks are judged by
modules of PyTorch (`ldmref.locate.diff_modules`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ldmref.trace.selection import Selection
from ldmref.trace.torch_calls import TorchTraceWriter, describe_parameters
from ldmref.trace.torch_hooks import LayerRecorder
from ldmref.trace.torch_latents import LatentLayout
from ldmref.trace.torch_methods import ReplacedMethods, begin_named, end_named, watch_methods
from ldmref.trace.torch_names import make_renamer
from ldmref.trace.torch_operations import name_arguments
from ldmref.trace.torch_request import RequestRecorder

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
    replaced = ReplacedMethods(writer.left_out)
    end_calls = request.observe_calls(pipe) if callable(pipe) else None
    try:
        for name, network in networks.items():
            recorder.attach(network, make_renamer(network))
            recorder.hook_call(network, name, *_hooks(recorder, name))
            watch_methods(recorder, replaced, network, name)
        with recorder:
            yield writer
    finally:
        writer.left_out.ended = True
        recorder.detach()
        replaced.restore()
        if end_calls is not None:
            end_calls()
    if request.requests:
        writer.manifest |= {"request": request.asked, "requests": request.requests}
    writer.left_out.note(BETWEEN, f"no family of ldmref reads a {type(pipe).__name__}")
    writer.close()


def _hooks(recorder: LayerRecorder, name: str) -> tuple[Callable, Callable]:
    """Return what begins and what ends the calls of a network."""

    def begin(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        begin_named(recorder, module, name, True, name_arguments(module, args, kwargs))

    def end(
        module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], output: object
    ) -> None:
        end_named(recorder, output)

    return begin, end
