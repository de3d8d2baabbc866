"""Whole calls of known pipelines in the terms of the modules that ran.

A recorder of pipelines names what goes into a network as ldmref does, with ldmref's timesteps, and
latents (n, c, h, w) also where the network reads tokens. A module is called by its own arguments.
"""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ldmref.locate.recorded.layouts import latents_as_tokens
from ldmref.models.family import family_of_pipeline
from ldmref.ports.port import FamilyPort, find_port, port_of
from ldmref.trace.calls import FAMILY, MODULE_ARGUMENTS, OF_MODULE, TraceCall
from ldmref.trace.model import Trace, TraceEntry, tensor_name

# The arguments by ldmref's role.
ARGUMENTS = {"sample": ("hidden_states", "sample"), "latents": ("z",), "image": ("x",)}
SAMPLE = "sample"  # the input of denoisers, whose layers a recorder converts
TIME = "timestep"
FRAMES = ("z", "x")  # what decoders and encoders of videos read
IDS = "img_ids"  # the positions of the tokens, of which the last two are row and column


def in_terms_of_module(
    port: Trace, entry: TraceEntry, function: Callable[..., Any], frames: bool = False
) -> Trace:
    """Return a port whose whole call has the names and layouts of a module's arguments.

    A call that was recorded with the module's own arguments is as it was; where they were recorded
    beside ldmref's, they take their place.

    Args:
        port: The trace.
        entry: The whole call.
        function: What computes it.
        frames: Whether it is of videos: recordings have those of one frame as (n, c, h, w).
    """
    if MODULE_ARGUMENTS in entry.attributes:
        return _with_own_arguments(port, entry)
    names = set(inspect.signature(function).parameters)
    if "arguments" in entry.attributes or {*entry.inputs} <= names:
        return port
    inputs = {_argument(role, names): name for role, name in entry.inputs.items()}
    outputs = dict(entry.outputs)
    added: dict[str, np.ndarray] = {}
    for argument in FRAMES if frames else ():
        if argument in inputs:
            key = tensor_name(entry.call, "", "input", f"{argument}.frames")
            added[key] = np.asarray(port.tensors[inputs[argument]])[:, :, None]
            inputs[argument] = key
    calls = _calls_of(port)
    if calls is not None and calls.unpack is not None and IDS in inputs:
        ids = np.asarray(port.tensors[inputs[IDS]])[..., -2:].reshape(-1, 2)
        rows, columns = (int(n) + 1 for n in ids.max(0))
        if rows * columns != len(ids):
            return port  # tokens of reference images follow
        for roles, role in ((inputs, "hidden_states"), (outputs, "output")):
            x = np.asarray(port.tensors[roles[role]]) if role in roles else np.zeros(0)
            if x.ndim == 4:
                key = tensor_name(entry.call, "", "input", f"{role}.tokens")
                added[key] = latents_as_tokens(calls.unpack, x, rows, columns)
                roles[role] = key
    if calls is not None and TIME in inputs and "hidden_states" in inputs:
        tensors = ChainMap(added, port.tensors)  # type: ignore[arg-type]
        times = _times_of(calls, {name: np.asarray(tensors[key]) for name, key in inputs.items()})
        if times is None:
            return port
        inputs[TIME] = tensor_name(entry.call, "", "input", "times")
        added[inputs[TIME]] = times
    return port.with_entries([replace(entry, inputs=inputs, outputs=outputs)], added)


def _with_own_arguments(port: Trace, entry: TraceEntry) -> Trace:
    """Return a port whose whole call has the module's own arguments, which were recorded too."""

    def own(roles: Mapping[str, str]) -> dict[str, str]:
        found = {role: name for role, name in roles.items() if role.startswith(OF_MODULE)}
        return {role.removeprefix(OF_MODULE): name for role, name in found.items()}

    inputs, outputs = own(entry.inputs), own(entry.outputs) or entry.outputs
    attributes = {**entry.attributes, "arguments": entry.attributes[MODULE_ARGUMENTS]}
    return port.with_entries(
        [replace(entry, inputs=inputs, outputs=outputs, attributes=attributes)]
    )


class ConvertedLayers:
    """Knows which arrays of layers a recorder wrote otherwise than their modules have them.

    The recorder of a known pipeline writes them in the unit and layout of ldmref's layer.

    Args:
        port: The trace, as it was recorded.
    """

    def __init__(self, port: Trace):
        self.port = port
        calls = _calls_of(port)
        self.convert = None if calls is None else calls.layer
        self._inputs: dict[str, dict[str, torch.Tensor]] = {}  # of whole calls

    def holds(self, layer: str, entry: TraceEntry) -> bool:
        """Return whether it wrote those of a layer so.

        Args:
            layer: The name of the layer, without the number of its visit.
            entry: Its recorded arrays.
        """
        whole = self.port.find(entry.call)
        if self.convert is None or whole is None or SAMPLE not in whole.inputs:
            return False
        inputs = self._inputs_of(whole)
        pairs = [(x, self.convert(inputs, layer, x)) for x in self._read(entry).values()]
        return any(y is None or y.shape != x.shape or not torch.equal(x, y.to(x)) for x, y in pairs)

    def as_recorded(self, call: TraceCall, layer: str, x: np.ndarray) -> np.ndarray:
        """Return an array of a module's layer as the recorder writes it.

        Args:
            call: The call.
            layer: The name of the layer, without the number of its visit; "" for the network.
            x: The array.
        """
        whole = self.port.find(call)
        if self.convert is None or not layer or whole is None or SAMPLE not in whole.inputs:
            return x
        before = torch.from_numpy(np.asarray(x))
        made = self.convert(self._inputs_of(whole), layer, before)
        return x if made is before or made is None else made.numpy()

    def _inputs_of(self, whole: TraceEntry) -> dict[str, torch.Tensor]:
        if whole.call not in self._inputs:
            self._inputs[whole.call] = self._read(whole)
        return self._inputs[whole.call]

    def _read(self, entry: TraceEntry) -> dict[str, torch.Tensor]:
        return {role: torch.tensor(self.port.tensors[name]) for role, name in entry.inputs.items()}


def _times_of(calls: FamilyPort, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the times that a module was given, of which ldmref's timesteps are a linear function.

    Args:
        calls: How the family's pipelines call it.
        arrays: The arguments by name, with ldmref's timesteps.

    Returns:
        The times; None if the family does not say how they are related.
    """
    arguments = {name: torch.as_tensor(np.array(x)) for name, x in arrays.items()}
    ours = np.asarray(arrays[TIME], np.float64)
    ends = []
    for time in (0.0, 1.0):
        probe = torch.full(ours.shape, time, dtype=torch.float64)
        try:
            ends.append(np.asarray(calls.inputs({**arguments, TIME: probe})[TIME], np.float64))
        except (KeyError, TypeError, IndexError, AttributeError):
            return None
    slope = ends[1] - ends[0]
    return (ours - ends[0]) / slope if np.all(slope) else None


def _argument(role: str, names: set[str]) -> str:
    """Return the argument of a module that ldmref calls by a role."""
    return next((name for name in ARGUMENTS.get(role, ()) if name in names), role)


def _calls_of(port: Trace) -> FamilyPort | None:
    """Return how the pipelines of a port's family call its networks; None: no family reads them."""
    kind, name = port.manifest.get("pipeline"), port.manifest.get(FAMILY)
    if isinstance(name, str):
        return find_port(name)
    family = family_of_pipeline(kind) if isinstance(kind, str) else None
    return None if family is None else port_of(family)
