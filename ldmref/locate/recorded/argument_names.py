"""The arguments of whole networks, and of parts of a run, under the names that ldmref has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ldmref.families.lookup import networks_of_run
from ldmref.locate.recorded.argument_parts import divide_arguments
from ldmref.locate.recorded.listed import with_arrays_of_lists
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork, NetworkInput
from ldmref.ports.arguments import names_of
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.trace.calls import GUIDE_CALLS
from ldmref.trace.model import Trace, TraceEntry

GUIDED = {"cond": ("cond", "text")}  # the names that programs give to predictions


def with_declared_arguments(port: Trace, config: ModelConfig) -> Trace:
    """Return a port whose networks have ldmref's arguments, in the place of its own ones.

    Lists with an array for each image are the arrays of a batch, numbers have names, and what is
    joined is divided.

    Args:
        port: The trace.
        config: The configuration of the model that the port ran.

    Returns:
        The trace; what is none of ldmref's arguments remains.

    >>> import numpy as np
    >>> from ldmref.models import preset
    >>> from ldmref.trace import build_trace
    >>> arrays = {"x.0": np.ones((16, 1, 4, 4)), "x.1": np.ones((16, 1, 4, 4)), "1": np.ones(2)}
    >>> trace = build_trace({f"transformer.000//input.{k}": x for k, x in arrays.items()})
    >>> [*with_declared_arguments(trace, preset("z-image-tiny")).entries[0].inputs]
    ['timestep', 'sample']
    """
    networks = networks_of_run(config)
    return divide_arguments(name_numbered(with_arrays_of_lists(port, networks), networks), config)


def name_numbered(port: Trace, networks: Iterable[DeclaredNetwork]) -> Trace:
    """Return a port whose numbered arguments of networks have the names of their roles.

    Programs that record arguments by their places number them in the order of the network that ran:
    diffusers' transformers take the text before the time, and others after it. So a number names
    the first declared input that has no name yet and may have the sizes of the array. The first
    argument is what the network changes in all programs, and keeps its number.

    Args:
        port: The trace.
        networks: The networks of the run.

    Returns:
        The trace; what fits no input keeps its number.

    >>> import numpy as np
    >>> from ldmref.families.lookup import networks_of_run
    >>> from ldmref.models import preset
    >>> from ldmref.trace import build_trace
    >>> arrays = {"input": np.ones((1, 16, 2, 2)), "1": np.ones((1, 3, 60)), "2": np.ones(1)}
    >>> trace = build_trace({f"transformer.000//input.{k}": x for k, x in arrays.items()})
    >>> named = name_numbered(trace, networks_of_run(preset("flux2-tiny")))
    >>> [*named.entries[0].inputs]
    ['input', 'encoder_hidden_states', 'timestep']
    """
    by_name = {network.name: network for network in networks}
    named = []
    for entry in port.entries:
        known = by_name.get(entry.call.kind.removeprefix(GUIDE_CALLS))
        numbers = sorted((role for role in entry.inputs if _is_later(role)), key=int)
        if not entry.layer and known is not None and numbers:
            named.append(replace(entry, inputs=_name(port, entry, numbers, known)))
    return port.with_entries(named)


def name_as_declared(port: Trace, networks: Iterable[DeclaredNetwork]) -> Trace:
    """Return a port whose networks, guidance and steps have the names of their arguments' roles.

    Args:
        port: The trace.
        networks: The networks of the run.

    Returns:
        The trace; a call that has an argument under its role keeps that of another name.

    >>> import numpy as np
    >>> from ldmref.families.lookup import networks_of_run
    >>> from ldmref.models import preset
    >>> from ldmref.trace import build_trace
    >>> arrays = {"unet.000//input.x": np.ones((1, 4, 8, 8))}
    >>> arrays["guidance.000//input.text"] = np.ones(1)
    >>> trace = name_as_declared(build_trace(arrays), networks_of_run(preset("tiny")))
    >>> [role for entry in trace.entries for role in entry.inputs]
    ['sample', 'cond']
    """
    names = {
        network.name: {x.role: names_of(network, x) for x in (*network.inputs, *network.optional)}
        for network in networks
    }
    names[STEP.call] = {slot.roles[0]: slot.roles for slot in STEP.inputs}
    names[COMBINE.call] = GUIDED
    return replace(port, entries=tuple(_declared(entry, names) for entry in port.entries))


def _declared(entry: TraceEntry, names: Mapping[str, Mapping[str, Sequence[str]]]) -> TraceEntry:
    """Return a call with the names of roles for its inputs; a layer as it is."""
    known = {} if entry.layer else names.get(entry.call.kind.removeprefix(GUIDE_CALLS), {})
    roles: dict[str, str] = {}
    for role, others in known.items():
        recorded = next((name for name in others if name in entry.inputs), role)
        roles.setdefault(recorded, role)
    inputs = {roles.get(name, name): tensor for name, tensor in entry.inputs.items()}
    return replace(entry, inputs=inputs) if len(inputs) == len(entry.inputs) else entry


def _is_later(role: str) -> bool:
    """Return whether a name is the number of an argument after the first."""
    return role.isdecimal() and role != "0"


def _name(
    port: Trace, entry: TraceEntry, numbers: Iterable[str], network: DeclaredNetwork
) -> Mapping[str, str]:
    """Return the inputs of a call with names in place of numbers."""
    free = [
        x
        for x in network.inputs[1:]
        if not x.of_references and not {x.argument, *names_of(network, x)} & {*entry.inputs}
    ]
    found: dict[str, str] = {}
    for number in numbers:
        array = port.tensors[entry.inputs[number]]
        x = next((x for x in free if _may_be(x, array)), None)
        if x is not None:
            free.remove(x)
            found[number] = x.role
    return {found.get(role, role): name for role, name in entry.inputs.items()}


def _may_be(x: NetworkInput, array: np.ndarray) -> bool:
    """Return whether an array has the sizes and the numbers of an input."""
    if len(x.shape) == 1:  # a number for each image, or one for all
        return array.ndim <= 1
    if array.ndim != len(x.shape):
        return False
    if x.content == "mask":
        return bool(np.isin(array, (0, 1)).all())
    if x.content in ("ids", "labels"):
        return array.dtype.kind in "iu"
    known = (size == n for size, n in zip(x.shape, array.shape, strict=True) if type(size) is int)
    return array.dtype.kind == "f" and all(known)
