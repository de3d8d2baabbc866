"""The pre-flight of a diff: traces that cannot be compared are refused before anything is judged.

A comparison can lie: hooks record a profiling run, a buffer that a captured graph uses again, or a
run whose images are black; a reference fell back to another sampler, or arrays were recorded in
another format than the one that is named. What such traces hold would be judged as faults of the
port, or as agreement with a reference that is none.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN
from ldmref.errors import UsageError, abbreviated, counted
from ldmref.locate.recorded.layouts import first_nonfinite
from ldmref.locate.recorded.precision import round_to
from ldmref.locate.replay.networks import number_controlnet
from ldmref.samplers.predictions import read_steering
from ldmref.trace.calls import REQUESTED
from ldmref.trace.left_out import LEFT_OUT
from ldmref.trace.model import MISSING, UNKNOWN_NAMES, UNLIKE, Trace, TraceEntry

CODE = "E-TRACE-RUN"
MAX_LISTED = 3
MOST_NAMES = 5  # of parts and tensors, that are listed
LEAST_VALUES = 32  # different ones, that tell the format of an array
FEW = 1024  # values that are looked at
MAX_CHECKED = 16  # layers, from the first to the last
TABLE = re.compile(r"(embedding|embed_tokens|shared)$")  # layers that only look up
IMAGES = ("vae.decode",)  # networks whose output is never one colour


def require_comparable(port: Trace, reference: Trace | None = None, dtype: str = "float64") -> None:
    """Check that a port's trace holds results, and that a reference does and is of the same run.

    Args:
        port: The trace of the port.
        reference: The trace that it is compared with; None: there is none.
        dtype: The number format by which the port is judged.

    Raises:
        UsageError: All outputs of the port are constant, or hold numbers of a narrower format than
            `dtype`; all layers of two calls hold the same numbers for other inputs; the reference
            is not finite, an image of it has one colour, or it was made by another sampler,
            schedule or scheduler; or all outputs of the two traces have other shapes.

    >>> import numpy as np
    >>> from ldmref.trace import build_trace
    >>> zeros = {f"unet.000/{layer}/output": np.zeros((1, 4)) for layer in ("conv_in", "conv_out")}
    >>> require_comparable(build_trace(zeros))
    Traceback (most recent call last):
    ldmref.errors.UsageError: the port's trace: all 2 outputs are constant, so they are no results
    hint: hooks also see profiling and warm-up runs; record a run that generates an image
    """
    _require_results(port, "the port's trace")
    _require_format(port, dtype)
    _require_own_buffers(port)
    if reference is not None:
        _require_results(reference, "the reference")
        _require_sound(reference)
        _require_same_program(port, reference)
        _require_same_sizes(port, reference)


def with_request(port: Trace, reference: Trace | None) -> Trace:
    """Return the port's trace, with the request of the reference if it does not have its own.

    The images and arrays of the request are a part of it.
    """
    request = None if reference is None else reference.manifest.get("params")
    if reference is None or request is None:
        return port
    if "params" in port.manifest or "scheduler" in port.manifest:
        return port
    port = replace(port, manifest={**port.manifest, "params": request})
    known = reference.find(REQUESTED)
    if known is None or port.find(REQUESTED) is not None:
        return port
    arrays = {name: reference.tensors[name] for name in known.inputs.values()}
    tensors = ChainMap(arrays, port.tensors)  # type: ignore[arg-type]
    return replace(port, tensors=tensors, entries=(known, *port.entries))


def find_gaps(port: Trace, controlnets: int = 0) -> list[str]:
    """Return what a trace lacks or holds that cannot be compared, in words.

    Args:
        port: The trace.
        controlnets: Number of ControlNets of the run.
    """
    found = []
    if port.manifest.get("complete") is False:
        found.append("the recorded run was stopped before its end")
    missing = list(port.manifest.get(MISSING, ()))
    if missing:
        listed = abbreviated(missing, MOST_NAMES)
        found.append(f"{counted(len(missing), 'tensor')} of the manifest missing: {listed}")
    left_out = port.manifest.get(LEFT_OUT) or {}
    if isinstance(left_out, Mapping) and left_out:
        listed = abbreviated([f"{k} ({v})"[:80] for k, v in left_out.items()], MOST_NAMES)
        found.append(f"{counted(len(left_out), 'part')} of the run not recorded: {listed}")
    unknown = list(port.manifest.get(UNKNOWN_NAMES, ()))
    if unknown:
        listed = abbreviated([str(name)[:80] for name in unknown], MOST_NAMES)
        found.append(f"{counted(len(unknown), 'name')} of tensors not known: {listed}")
    return [*found, *missing_layers(port, controlnets)]


def missing_layers(port: Trace, controlnets: int = 0) -> Iterator[str]:
    """Yield in words which calls lack layers that an earlier call of the same network has.

    Hooks do not run again within captured graphs, so modules of later calls are missing. A call
    that guidance steers, in which it skips layers or replaces attention, has other layers than one
    of the network as it is, and a call that reads cached keys and values may have layers whose
    arrays no layer of ldmref has.

    Args:
        port: The trace.
        controlnets: Number of ControlNets, each of which has its own layers.
    """
    seen: dict[tuple[str, int, str], tuple[str, set[str]]] = {}
    for call in port.calls:
        network = call.network and call.kind
        entries = [*port.of_call(call)]
        layers = {entry.layer for entry in entries}
        if not network:
            continue
        number = number_controlnet(port, call) if network == "controlnet" else 0
        whole = next((entry.attributes for entry in entries if not entry.layer), {})
        steering = repr(read_steering(whole))
        key = (network, number % max(controlnets, 1), steering)
        first, known = seen.setdefault(key, (call, layers))
        unlike = {*unlike_ours(whole)}  # which may be fewer of a name
        lost = sorted(x for x in known - layers if x.partition(AGAIN)[0] not in unlike)
        if lost and layers:
            listed = abbreviated(lost, MAX_LISTED)
            yield f"{call} lacks {counted(len(lost), 'layer')} that {first} has: {listed}"


def unlike_ours(attributes: Mapping[str, Any]) -> list[str]:
    """Return the layers of a call that ran, and whose arrays no layer of ldmref has.

    Args:
        attributes: Those of the whole call.
    """
    found = attributes.get(UNLIKE)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


# -- the checks -----------------------------------------------------------------------------------


def _require_results(trace: Trace, what: str) -> None:
    """Refuse a trace in which every output has one value."""
    count = 0
    for entry in trace.entries:
        outputs = _arrays(trace, entry) if entry.call.network else ()
        for x in outputs:
            if x.size > 1 and not _is_constant(x):
                return
            count += x.size > 1
    if count > 1:
        raise UsageError(
            f"{what}: all {count} outputs are constant, so they are no results",
            code=CODE,
            hint="hooks also see profiling and warm-up runs; record a run that generates an image",
        )


def _require_format(port: Trace, dtype: str) -> None:
    """Refuse a trace of float32 of which arrays throughout the run hold a narrower format.

    A program that computes in bfloat16 would be judged by the roundings of float32. Rows of a table
    of embeddings have the format of the checkpoint, so they do not count.
    """
    if dtype != "float32":
        return
    computed = [e for e in port.entries if e.call.network and not TABLE.search(e.layer)]
    narrower = {"bfloat16", "float16"}
    count = 0
    for entry in computed[:: max(len(computed) // MAX_CHECKED, 1)]:
        for x in _arrays(port, entry):
            values = np.ravel(x)[:FEW]
            if len(np.unique(values)) < LEAST_VALUES:
                continue
            narrower = {name for name in narrower if np.array_equal(round_to(values, name), values)}
            count += 1
        if not narrower:
            return
    if count > 1:
        form = min(narrower)
        raise UsageError(
            f"the port's trace is judged as {dtype}, and its outputs hold numbers of {form}",
            code=CODE,
            hint=f"--dtype {form}, or record each array before it is cast",
        )


def _require_own_buffers(port: Trace) -> None:
    """Refuse two calls of a network with other inputs in which all layers hold the same numbers."""
    last: dict[str, str] = {}
    for call in port.calls:
        network = call.network and call.kind
        before = last.get(network)
        last[network] = call
        if network and before is not None and _has_same_outputs(port, before, call):
            raise UsageError(
                f"{before} and {call} hold the same numbers in all layers for other inputs",
                code=CODE,
                hint="a buffer was recorded after it was used again: copy each array when its "
                "layer ends, without captured graphs",
            )


def _require_sound(reference: Trace) -> None:
    """Refuse a reference that is not finite, or whose image has one colour."""
    for entry in reference.entries:
        name = entry.call.kind
        if entry.layer or not entry.call.network:
            continue
        for x in _arrays(reference, entry):
            bad = first_nonfinite(x)
            flat = name in IMAGES and x.size > 1 and _is_constant(x)
            if bad or flat:
                text = f"has {bad}" if bad else "is one colour"
                raise UsageError(
                    f"the output of {entry.call} of the reference {text}, so it proves nothing",
                    code=CODE,
                    hint="diff the port alone, or make the reference again in float32",
                )


def _require_same_program(port: Trace, reference: Trace) -> None:
    """Refuse a reference that says that another sampler, schedule or scheduler made it."""
    for name in ("sampler", "schedule", "scheduler"):
        ours, theirs = (_settings(trace).get(name) for trace in (port, reference))
        if ours is not None and theirs is not None and ours != theirs:
            raise UsageError(
                f"the reference was made with {name} {theirs!r}, and the port with {ours!r}",
                code=CODE,
                hint="make the reference with the port's settings, or diff the port alone",
            )


def _settings(trace: Trace) -> dict[str, Any]:
    """Return what a trace says of its sampler: the request's names, and a scheduler's class."""
    request = dict(trace.manifest.get("params") or {})
    found = {name: request.get(name) for name in ("sampler", "schedule")}
    return found | {"scheduler": (trace.manifest.get("scheduler") or {}).get("class")}


def _require_same_sizes(port: Trace, reference: Trace) -> None:
    """Refuse traces without an output of the same shape."""
    pairs = []
    for entry in port.entries:
        other = reference.find(entry.call, entry.layer)
        if other is None or not entry.call.network:
            continue
        for x, y in zip(_arrays(port, entry), _arrays(reference, other), strict=False):
            if x.shape == y.shape:
                return
            pairs.append(f"{x.shape} and {y.shape} in {entry.name}")
    if pairs:
        raise UsageError(
            f"no output of the port has the shape of the reference's: {pairs[0]}",
            code=CODE,
            hint="record runs of the same size and batch",
        )


def _has_same_outputs(port: Trace, before: str, call: str) -> bool:
    """Return whether all recorded outputs of two calls are equal, and an input is not."""
    others = False
    layers = 0
    for entry in port.of_call(call):
        other = port.find(before, entry.layer)
        if other is None:
            return False
        same = _is_same(port, entry.outputs, other.outputs)
        if entry.outputs and not same:
            return False
        layers += bool(entry.outputs)
        others = others or not _is_same(port, entry.inputs, other.inputs)
    return others and layers > 1


def _is_same(port: Trace, roles: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Return whether the arrays of two layers are equal, role by role."""
    return roles.keys() == others.keys() and all(
        np.array_equal(port.tensors[name], port.tensors[others[role]])
        for role, name in roles.items()
    )


def _arrays(trace: Trace, entry: TraceEntry) -> Iterator[np.ndarray]:
    """Yield the outputs of a layer that are floating."""
    for name in entry.outputs.values():
        x = np.asarray(trace.tensors[name])
        if x.dtype.kind == "f":
            yield x


def _is_constant(x: np.ndarray) -> bool:
    return bool((x == x.flat[0]).all())
