"""A trace in memory: entries of layers, and the tensors that they name.

The name of a tensor is `CALL/LAYER/ROLE`:

- CALL: one run of a network or one computation on the host, such as `unet.003` or `sampler.003`.
- LAYER: the module path, `down_blocks.0.resnets.0.conv1`; empty for the whole call.
- ROLE: `input`, `input.NAME`, `output` or `output.NAME`.

These names are all that a trace needs; the manifest adds what they cannot say.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ldmref.errors import InputError
from ldmref.trace.calls import OF_MODULE, TraceCall

NUMBERS = "biufc"  # kinds of the types of arrays
UNKNOWN_NAMES = "unknown_names"  # the key of tensors whose names are not those of a trace
# The attribute of a call: layers that ran, whose arrays no layer of ours has.
UNLIKE = "unlike_ours"
MISSING = "missing_tensors"  # the key of tensors that entries of the manifest name in vain
NAME = re.compile(r"(?P<call>[^/]+)/(?P<layer>[^/]*)/(?P<side>input|output)(\.(?P<role>[^/]+))?")


def tensor_name(call: str, layer: str, side: str, role: str = "") -> str:
    """Return the name of a tensor.

    Args:
        call: The call, such as "unet.000".
        layer: The layer's module path; "" for the whole call.
        side: "input" or "output".
        role: The argument or output; "" for the only one.

    Returns:
        `CALL/LAYER/SIDE`, with `.ROLE` for a role other than the side itself.

    >>> from ldmref.trace import tensor_name
    >>> tensor_name("unet.000", "conv_in", "input", "input")
    'unet.000/conv_in/input'
    >>> tensor_name("unet.000", "", "input", "timestep")
    'unet.000//input.timestep'
    """
    suffix = "" if role in ("", side) else f".{role}"
    return f"{call}/{layer}/{side}{suffix}"


@dataclass(frozen=True)
class TraceEntry:
    """One layer of one call.

    Attributes:
        call: The call, "unet.003"; any text, which becomes a `TraceCall`.
        layer: The layer's module path; "" for the whole call.
        inputs: Tensor names by role: "input" for the only or first input, others by argument.
        outputs: Tensor names by role: "output" for the only output.
        kind: The operation or function, "conv2d" or "resnet_block"; "" if it is not known.
        attributes: Arguments that are not arrays: "stride", "eps", "num_heads".

    >>> import numpy as np
    >>> from ldmref.trace import build_trace
    >>> x = np.ones((1, 4, 8, 8))
    >>> trace = build_trace({"unet.000/conv_in/input": x, "unet.000/conv_in/output": 2.0 * x})
    >>> trace.entries[0].name, trace.entries[0].outputs
    ('unet.000/conv_in', {'output': 'unet.000/conv_in/output'})
    """

    call: TraceCall
    layer: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.call) is not TraceCall:
            object.__setattr__(self, "call", TraceCall(self.call))

    @property
    def name(self) -> str:
        """Return `CALL/LAYER`."""
        return f"{self.call}/{self.layer}"


@dataclass(frozen=True)
class Trace:
    """A recorded run of some program.

    Attributes:
        tensors: Arrays by tensor name, usually read when they are used. bfloat16 is read as
            float32.
        entries: The layers in the order in which they were recorded.
        manifest: Program, model, backend, dtype, request, seeds; {} if it was not recorded.
        kinds: Stored types by tensor name as safetensors names them ("BF16", "F32"); those that are
            missing are the arrays' own.
        source: The file or folder, for messages.

    >>> import numpy as np
    >>> from ldmref.trace import build_trace
    >>> x = np.ones((1, 4, 8, 8))
    >>> trace = build_trace({"unet.000/conv_in/input": x, "unet.000/conv_in/output": 2.0 * x})
    >>> entry = trace.find("unet.000", "conv_in")
    >>> trace.read_outputs(entry)["output"].shape
    (1, 4, 8, 8)
    """

    tensors: Mapping[str, np.ndarray] = field(repr=False)
    entries: tuple[TraceEntry, ...] = field(repr=False)
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict, repr=False)
    source: str = ""

    @cached_property
    def by_name(self) -> dict[tuple[str, str], TraceEntry]:
        """Entries by call and layer."""
        return {(entry.call, entry.layer): entry for entry in self.entries}

    @property
    def calls(self) -> list[TraceCall]:
        """The calls, in the order of the entries."""
        return [entries[0].call for entries in self.by_call.values()]

    @cached_property
    def by_call(self) -> dict[str, list[TraceEntry]]:
        """The entries of each call, in their order."""
        found: dict[str, list[TraceEntry]] = {}
        for entry in self.entries:
            found.setdefault(entry.call, []).append(entry)
        return found

    def of_call(self, call: str) -> Iterator[TraceEntry]:
        """Yield the entries of `call`, such as "unet.003", in their order."""
        return iter(self.by_call.get(call, ()))

    def find(self, call: str, layer: str = "") -> TraceEntry | None:
        """Return the entry of `layer` ("": the whole call) in `call`; None if there is none."""
        return self.by_name.get((call, layer))

    def read_inputs(self, entry: TraceEntry) -> dict[str, np.ndarray]:
        """Return the inputs of `entry` by role, read from the file."""
        return {role: self.tensors[name] for role, name in entry.inputs.items()}

    def read_outputs(self, entry: TraceEntry) -> dict[str, np.ndarray]:
        """Return the outputs of `entry` by role, read from the file."""
        return {role: self.tensors[name] for role, name in entry.outputs.items()}

    def with_entries(
        self, changed: Iterable[TraceEntry], added: Mapping[str, np.ndarray] | None = None
    ) -> Trace:
        """Return the trace with other entries in the place of those of their call and layer.

        Args:
            changed: The entries; one of a call or layer that the trace lacks is left out.
            added: Further arrays by tensor name, which they name. None: there are none.

        >>> from dataclasses import replace
        >>> import numpy as np
        >>> from ldmref.trace import build_trace
        >>> trace = build_trace({"unet.000/conv_in/input": np.ones(2)})
        >>> other = replace(trace.entries[0], inputs={"input": "twice"})
        >>> [*trace.with_entries([other], {"twice": np.full(2, 2.0)}).tensors]
        ['unet.000/conv_in/input', 'twice']
        """
        by_name = {entry.name: entry for entry in changed}
        if not by_name and not added:
            return self
        entries = tuple(by_name.get(entry.name, entry) for entry in self.entries)
        tensors = self.tensors
        if added:
            tensors = ChainMap(added, tensors)  # type: ignore[arg-type]
        return replace(self, tensors=tensors, entries=entries)


def build_trace(
    tensors: Mapping[str, np.ndarray],
    manifest: Mapping[str, Any] | None = None,
    kinds: Mapping[str, str] | None = None,
    source: str = "",
) -> Trace:
    """Build a trace from named tensors; the manifest's entries give order, kind and attributes.

    An entry of the manifest may name a tensor of another layer, which is stored once. Tensors with
    other names than `CALL/LAYER/ROLE` are left out.

    Args:
        tensors: Arrays by tensor name, `CALL/LAYER/ROLE`.
        manifest: The manifest of the trace. None: {}.
        kinds: Stored types by tensor name, as safetensors names them. None: the arrays' own.
        source: The file or folder, for messages.

    Returns:
        The trace. Its manifest has "missing_tensors": names in entries that no tensor has.

    Raises:
        InputError: A tensor in memory does not hold numbers.

    >>> import numpy as np
    >>> from ldmref.trace import build_trace
    >>> trace = build_trace({"unet.000/conv_in/input": np.ones(3), "unet.000/conv_in/output": 1.0})
    >>> trace.entries[0].name, trace.entries[0].inputs
    ('unet.000/conv_in', {'input': 'unet.000/conv_in/input'})
    """
    if type(tensors) is dict:
        _require_numbers(tensors)
    manifest = manifest or {}
    stored = set(tensors)
    sides: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    described = {(e["call"], e["layer"]): e for e in manifest.get("entries", ())}
    for key, entry in described.items():
        sides[key] = {
            side: {role: name for role, name in entry.get(names, {}).items() if name in stored}
            for side, names in (("input", "inputs"), ("output", "outputs"))
        }
    for name in tensors:
        match = NAME.fullmatch(name)
        if match is None:
            continue
        key = match["call"], match["layer"]
        roles = sides.setdefault(key, {"input": {}, "output": {}})[match["side"]]
        roles.setdefault(match["role"] or match["side"], name)
    calls = {call: TraceCall(call) for call, _ in sides}
    entries = tuple(
        TraceEntry(
            calls[key[0]],
            key[1],
            side["input"],
            side["output"],
            described.get(key, {}).get("kind", ""),
            described.get(key, {}).get("attributes", {}),
        )
        for key, side in sides.items()
        if side["input"] or side["output"]
    )
    rest = {key: value for key, value in manifest.items() if key != "entries"}
    named = [name for entry in described.values() for name in _named(entry)]
    missing = [name for name in named if name not in stored]
    if missing:
        rest[MISSING] = missing
    return Trace(tensors, entries, rest, dict(kinds or {}), source)


def without_own_arguments(trace: Trace) -> Trace:
    """Return a trace without what modules were given beside ldmref's arguments of whole calls.

    >>> x = np.ones(2)
    >>> arrays = {"transformer.000//input.sample": x, "transformer.000//input.module.x": x}
    >>> [entry.inputs for entry in without_own_arguments(build_trace(arrays)).entries]
    [{'sample': 'transformer.000//input.sample'}]
    """
    changed = []
    for entry in trace.entries:
        roles = (*entry.inputs, *entry.outputs) if not entry.layer else ()
        if any(role.startswith(OF_MODULE) for role in roles):
            inputs, outputs = map(_without_own, (entry.inputs, entry.outputs))
            changed.append(replace(entry, inputs=inputs, outputs=outputs))
    return trace.with_entries(changed)


def _without_own(roles: Mapping[str, str]) -> dict[str, str]:
    return {role: name for role, name in roles.items() if not role.startswith(OF_MODULE)}


def _require_numbers(tensors: Mapping[str, Any]) -> None:
    """Refuse arrays in memory that hold something else; readers of files do so themselves."""
    for name, value in tensors.items():
        kind = getattr(value, "dtype", None)
        if isinstance(kind, np.dtype) and kind.kind not in NUMBERS:
            message = f"{name[:80]!r} holds {kind}, not numbers"
            raise InputError(message, code="E-TRACE-FILE", hint="leave it out of the trace")


def _named(entry: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors of a manifest's entry."""
    return [*entry.get("inputs", {}).values(), *entry.get("outputs", {}).values()]
