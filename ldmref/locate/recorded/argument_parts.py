"""Arguments in which programs join several of ldmref's, as those of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ldmref.locate.recorded.derived import Derivation, with_derived
from ldmref.models.config import ModelConfig
from ldmref.ports.port import FindPart, find_port
from ldmref.trace.calls import GUIDE_CALLS
from ldmref.trace.model import Trace, TraceEntry, tensor_name


def divide_arguments(port: Trace, config: ModelConfig) -> Trace:
    """Return a port whose denoiser has the arguments that its own ones join.

    Args:
        port: The trace.
        config: The configuration of the model that the port ran.

    Returns:
        The trace; an argument of which no part is found remains, and so does one beside its parts.

    >>> import numpy as np
    >>> from ldmref.math import timestep_embedding
    >>> from ldmref.models import preset
    >>> from ldmref.trace import build_trace
    >>> sizes = timestep_embedding(np.array([16.0, 24.0, 0.0, 0.0, 16.0, 24.0]), 256)
    >>> vector = np.concatenate([np.ones((1, 1280)), sizes.reshape(1, -1)], axis=1)
    >>> found = divide_arguments(build_trace({"unet.000//input.y": vector}), preset("sdxl"))
    >>> found.read_inputs(found.entries[0])["time_ids"]
    array([[16., 24.,  0.,  0., 16., 24.]])
    """
    joined = find_port(config.denoiser.family).joined(config)
    made: dict[str, Derivation] = {}
    entries = []
    for entry in port.entries:
        of_denoiser = entry.call.kind.removeprefix(GUIDE_CALLS) == config.denoiser.network
        known = joined if of_denoiser and not entry.layer else {}
        entries.append(_divide(port, entry, known, made))
    return with_derived(port, entries, made) if made else port


def _divide(
    port: Trace,
    entry: TraceEntry,
    joined: Mapping[str, Mapping[str, FindPart]],
    made: dict[str, Derivation],
) -> TraceEntry:
    """Return a call with the parts of its arguments, which are added to the derived arrays."""
    inputs = dict(entry.inputs)
    for own, parts in joined.items():
        if own not in inputs or parts.keys() & inputs.keys():
            continue
        source = inputs[own]
        array = np.asarray(port.tensors[source])
        found = {role: part for role, find in parts.items() if (part := find(array)) is not None}
        for role, part in found.items():
            inputs[role] = tensor_name(entry.call, "", "input", role)
            made[inputs[role]] = source, lambda _, part=part: part
        if found.keys() == parts.keys():
            del inputs[own]
    return replace(entry, inputs=inputs)
