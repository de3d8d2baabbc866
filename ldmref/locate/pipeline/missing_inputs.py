"""Inputs of networks that were not recorded: what the layers say of them, and rows for the rest.

A layer is judged from its own recorded input, so a network whose layers all agree may still have
been given another time or another text. An input that a network declares and that its call lacks is
judged by what the first layer was given that reads it unchanged; if none was recorded either, it
has a row "not judged".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ldmref.errors import UsageError
from ldmref.locate.findings import UNKNOWN, Row
from ldmref.locate.pipeline.coverage import KIND
from ldmref.locate.recorded.names import find_role
from ldmref.locate.replay.networks import find_definition
from ldmref.models.control import ControlNet
from ldmref.models.declared import DeclaredNetwork, NetworkInput
from ldmref.models.model import LatentDiffusion
from ldmref.ports.arguments import first_layers_of, names_of
from ldmref.samplers.predictions import read_steering
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

RUN = ("sampler", "train")  # kinds of calls of which a trace of a run has one at least


def fill_inputs(
    port: Trace, model: LatentDiffusion, controlnets: Sequence[ControlNet] = ()
) -> Trace:
    """Return a trace in which calls have the inputs that only their first layers recorded.

    Calls that guidance steers are left as they are: their layers may read other texts.

    Args:
        port: The trace.
        model: The model that the port ran.
        controlnets: The ControlNets of the run.
    """
    filled: list[TraceEntry] = []
    for call, network in _networks_of(port, model, controlnets):
        entry = port.find(call)
        if entry is None or read_steering(entry.attributes):
            continue
        found = {x.role: _find_in_layers(port, call, network, x) for x in _missing(entry, network)}
        known = {role: name for role, name in found.items() if name}
        if known:
            filled.append(replace(entry, inputs={**entry.inputs, **known}))
    return port.with_entries(filled)


def rows_of_missing(
    port: Trace, model: LatentDiffusion, controlnets: Sequence[ControlNet] = ()
) -> Iterator[Row]:
    """Yield a row for each call of a network that lacks inputs which its network declares.

    Layers alone, without any call between the networks, say nothing of inputs, and need none.

    Args:
        port, model, controlnets: As for `fill_inputs`.
    """
    of_run = any(call.kind in RUN for call in port.calls)
    for call, network in _networks_of(port, model, controlnets):
        entry = port.find(call)
        if entry is None and not of_run:
            continue
        missing = [x.role for x in _missing(entry, network) if not _has_none(port, entry, x)]
        if missing:
            several = len(missing) > 1
            note = (
                f"{', '.join(missing)} {'were' if several else 'was'} not recorded, and nothing "
                f"else says {'them' if several else 'it'}"
            )
            yield Row(call, "", KIND, verdict=UNKNOWN, note=note)


def _networks_of(
    port: Trace, model: LatentDiffusion, controlnets: Sequence[ControlNet]
) -> Iterator[tuple[TraceCall, DeclaredNetwork]]:
    """Yield the calls of networks with the declaration of each, as far as it is known."""
    for call in port.calls:
        if not call.network or (call.network.startswith("controlnet") and not controlnets):
            continue
        try:
            yield call, find_definition(model, port, call, controlnets)[0]
        except UsageError:  # the layers of such a call are not judged either
            continue


def _missing(entry: TraceEntry | None, network: DeclaredNetwork) -> Iterator[NetworkInput]:
    """Yield the inputs that a call needs and lacks."""
    known: Mapping[str, str] = {} if entry is None else entry.inputs
    for x in network.inputs:
        if x.of_references:
            continue
        if not known.keys() & {x.argument, *names_of(network, x)}:
            yield x


def _has_none(port: Trace, entry: TraceEntry | None, x: NetworkInput) -> bool:
    """Return whether a pipeline gave a network no mask: its recording has all arrays."""
    selection = port.manifest.get("selection") or {}
    whole = entry is not None and bool(entry.inputs) and not selection.get("without")
    return x.content == "mask" and "pipeline" in port.manifest and whole


def _find_in_layers(port: Trace, call: str, network: DeclaredNetwork, x: NetworkInput) -> str:
    """Return the name of the tensor that the first layer was given which reads an input; ""."""
    for entry in port.of_call(call):
        for layer, role in first_layers_of(network, x):
            if not entry.layer or not f".{entry.layer}".endswith(f".{layer}"):
                continue
            roles = entry.outputs if role == "output" else entry.inputs
            name = find_role(roles, role)
            if name and np.ndim(port.tensors[name]) == len(x.shape):
                return name
    return ""
