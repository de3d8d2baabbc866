"""Ldmref's names for the layers of a port that has those of its makers' file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ldmref.io.key_table import KeyEntry
from ldmref.locate.names import layers_of
from ldmref.models.model import LatentDiffusion
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace.calls import GUIDE_CALLS
from ldmref.trace.model import Trace, TraceEntry, tensor_name

OF_LAYERS = ("weight", "bias")  # parameters whose owner is a layer, and no module around some


class OwnPart(NamedTuple):
    """A layer of ldmref that is a layer of a port, or a part of its last axis.

    Attributes:
        name: Its name in ldmref.
        begin: Where it begins in the last axis of the output.
        size: The size of the part. 0: it is the whole.
    """

    name: str
    begin: int = 0
    size: int = 0


FileLayers = Mapping[str, "list[OwnPart]"]


def name_as_makers(port: Trace, model: LatentDiffusion) -> Trace:
    """Return a port whose layers have ldmref's names, where they had those of their makers' file.

    The names are those by which the model's single files are read. A layer that is several of
    ldmref in one becomes these, each with its part of the output.

    Args:
        port: The trace.
        model: The model that the port ran.

    Returns:
        The trace; layers that no file names keep their names.

    >>> import numpy as np
    >>> import ldmref
    >>> from ldmref.trace import build_trace
    >>> qkv = {"input": np.ones((1, 5, 16)), "output": np.ones((1, 5, 48))}
    >>> layer = "transformer.000/double_blocks.0.img_attn.qkv"
    >>> trace = build_trace({f"{layer}/{role}": x for role, x in qkv.items()})
    >>> named = name_as_makers(trace, ldmref.random_model("flux-tiny"))
    >>> [entry.layer.partition(".0.")[2] for entry in named.entries]
    ['attn.to_q', 'attn.to_k', 'attn.to_v']
    """
    network = model.config.denoiser.network
    own = {name for name, _ in layers_of(model.params[network], "")}
    of_network = [e for e in port.entries if e.call.kind.removeprefix(GUIDE_CALLS) == network]
    recorded = {entry.layer for entry in of_network}
    if not recorded - own - {""}:
        return port
    best: FileLayers = {}
    most = len(recorded & own)
    for layers in _read_files(model):
        known = len(recorded & layers.keys())
        if known > most:
            best, most = layers, known
    if not best:
        return port
    ids = {id(entry) for entry in of_network}
    arrays = PartArrays(port.tensors)
    entries: list[TraceEntry] = []
    for entry in port.entries:
        parts = best.get(entry.layer) if id(entry) in ids else None
        entries += [entry] if parts is None else arrays.divide(entry, parts)
    return replace(port, tensors=arrays, entries=tuple(entries))


def _read_files(model: LatentDiffusion) -> Iterator[FileLayers]:
    """Yield ldmref's layers by those of each single file, without what precedes all names."""
    for file in model.family.files:
        parts: dict[str, list[OwnPart]] = {}
        interleaved: set[str] = set()
        for name, entry in file.table(model.config).items():
            own, _, parameter = name.rpartition(".")
            if not isinstance(entry, KeyEntry) or parameter not in OF_LAYERS:
                continue
            layer = entry.name.rpartition(".")[0]
            found = OwnPart(own, *_find_part(entry))
            known = parts.setdefault(layer, [])
            if found not in known:
                known.append(found)
            if entry.heads > 1:
                interleaved.add(layer)
        layers = {layer: found for layer, found in parts.items() if layer not in interleaved}
        yield layers
        yield {layer.removeprefix(_shared_prefix(layers)): x for layer, x in layers.items()}


def _find_part(entry: KeyEntry) -> tuple[int, int]:
    """Return where the output of a layer begins in that of the file's layer, and its size."""
    size = entry.shape[0]
    if entry.third is not None:
        return entry.third * size, size
    return (0, 0) if entry.rows is None else (entry.rows[0], size)


def _shared_prefix(names: Collection[str]) -> str:
    """Return the parts with which all names begin, such as "model.diffusion_model."."""
    first, last = min(names, default=""), max(names, default="")
    shared = ""
    for part, other in zip(first.split("."), last.split("."), strict=False):
        if part != other:
            break
        shared += f"{part}."
    return shared


class PartArrays(LazyMapping[np.ndarray]):
    """Arrays of a trace, and parts of them under the names of other layers.

    Args:
        arrays: The arrays by name.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self.parts: dict[str, tuple[str, OwnPart]] = {}

    @property
    def names(self) -> Collection[str]:
        return self.arrays.keys() | self.parts.keys()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.parts:
            return self.arrays[name]
        whole, part = self.parts[name]
        return self.arrays[whole][..., part.begin : part.begin + part.size]

    def divide(self, entry: TraceEntry, parts: list[OwnPart]) -> Iterator[TraceEntry]:
        """Yield the layers of ldmref that an entry is, whose arrays are added."""
        for part in parts:
            outputs = dict(entry.outputs)
            for role, name in entry.outputs.items() if part.size else ():
                outputs[role] = tensor_name(entry.call, part.name, "output", role)
                self.parts[outputs[role]] = name, part
            yield replace(entry, layer=part.name, outputs=outputs)
