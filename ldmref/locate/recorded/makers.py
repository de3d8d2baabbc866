"""Ldmref's names for the layers of a port that has those of its makers' file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ldmref.io.compvis.keys import original_autoencoder_table
from ldmref.io.key_table import KeyEntry
from ldmref.locate.recorded.derived import Derivation, with_derived
from ldmref.locate.recorded.names import layers_of
from ldmref.models.model import LatentDiffusion
from ldmref.trace.calls import GUIDE_CALLS
from ldmref.trace.model import Trace, TraceEntry, tensor_name
from ldmref.trace.name_maps import Joined

AUTOENCODER = "vae"  # its parameters
OF_AUTOENCODER = ("vae.decode", "vae.encode")  # its calls
IN_FILE = "first_stage_model."  # what precedes the names of an autoencoder in a whole file
OF_LAYERS = ("weight", "bias")  # parameters whose owner is a layer, and no module around some


FileLayers = Mapping[str, "str | Joined"]


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
    denoiser = model.config.denoiser.network
    parts: dict[str, Derivation] = {}
    renamed: dict[int, str | Joined] = {}  # by the id of an entry
    for networks, params, files in (
        ((denoiser,), denoiser, _read_files(model)),
        (OF_AUTOENCODER, AUTOENCODER, _read_autoencoder_files(model)),
    ):
        own = {name for name, _ in layers_of(model.params[params], "")}
        entries = [e for e in port.entries if e.call.kind.removeprefix(GUIDE_CALLS) in networks]
        layers = _find_file({entry.layer for entry in entries}, own, files)
        renamed |= {id(e): layers[e.layer] for e in entries if e.layer in layers}
    if not renamed:
        return port
    named: list[TraceEntry] = []
    for entry in port.entries:
        own_name = renamed.get(id(entry), entry.layer)
        if isinstance(own_name, Joined):
            named += _divide(entry, own_name, parts)
        else:
            named.append(replace(entry, layer=own_name))
    return with_derived(port, named, parts)


def _find_file(recorded: set[str], own: set[str], files: Iterator[FileLayers]) -> FileLayers:
    """Return ldmref's layers by those of the file that has most of the recorded ones.

    Args:
        recorded: The layers of a network that were recorded.
        own: Those that ldmref has.
        files: The files.

    Returns:
        The layers; none if ldmref's names are known as often.
    """
    best: FileLayers = {}
    if not recorded - own - {""}:
        return best
    most = len(own & recorded)
    for layers in files:
        known = len(recorded & layers.keys())
        if known > most:
            best, most = layers, known
    return best


def _read_files(model: LatentDiffusion) -> Iterator[FileLayers]:
    """Yield ldmref's layers by those of each single file, without what precedes all names."""
    for file in model.family.files:
        layers = _layers_of(file.table(model.config))
        yield layers
        yield {name.removeprefix(_shared_prefix(layers)): own for name, own in layers.items()}


def _read_autoencoder_files(model: LatentDiffusion) -> Iterator[FileLayers]:
    """Yield ldmref's layers of the autoencoder by those of its makers' file, and of a whole one."""
    layers = _layers_of(original_autoencoder_table(model.config.vae))
    yield layers
    yield {IN_FILE + name: own for name, own in layers.items()}


def _layers_of(table: Mapping[str, KeyEntry]) -> FileLayers:
    """Return ldmref's layers by those of the file of a table."""
    parts: dict[str, dict[str, tuple[int, int]]] = {}
    interleaved: set[str] = set()
    for name, entry in table.items():
        own, _, parameter = name.rpartition(".")
        if not isinstance(entry, KeyEntry) or parameter not in OF_LAYERS:
            continue
        layer = entry.name.rpartition(".")[0]
        parts.setdefault(layer, {})[own] = _find_part(entry)
        if entry.heads > 1:
            interleaved.add(layer)
    joined = {name: _join(found) for name, found in parts.items() if name not in interleaved}
    return {name: own for name, own in joined.items() if own is not None}


def _find_part(entry: KeyEntry) -> tuple[int, int]:
    """Return where the output of a layer begins in that of the file's layer, and its size."""
    size = entry.shape[0]
    if entry.third is not None:
        return entry.third * size, size
    return (0, 0) if entry.rows is None else (entry.rows[0], size)


def _join(parts: Mapping[str, tuple[int, int]]) -> str | Joined | None:
    """Return what a layer of a file is; None where its parts leave rows out."""
    names = sorted(parts, key=lambda name: parts[name])
    sizes = tuple(parts[name][1] for name in names)
    if any(parts[name][0] != sum(sizes[:i]) for i, name in enumerate(names)):
        return None
    return names[0] if len(names) == 1 else Joined(tuple(names), sizes) if all(sizes) else None


def _shared_prefix(names: Collection[str]) -> str:
    """Return the parts with which all names begin, such as "model.diffusion_model."."""
    first, last = min(names, default=""), max(names, default="")
    shared = ""
    for part, other in zip(first.split("."), last.split("."), strict=False):
        if part != other:
            break
        shared += f"{part}."
    return shared


def _divide(
    entry: TraceEntry, joined: Joined, parts: dict[str, Derivation]
) -> Iterator[TraceEntry]:
    """Yield the layers of ldmref that an entry is; the parts of its outputs are added."""
    for i, layer in enumerate(joined.names):
        outputs = {}
        for role, name in entry.outputs.items():
            outputs[role] = tensor_name(entry.call, layer, "output", role)
            parts[outputs[role]] = name, partial(_part_of, joined, i)
        yield replace(entry, layer=layer, outputs=outputs)


def _part_of(joined: Joined, part: int, x: np.ndarray) -> np.ndarray:
    """Return a part of a recorded output; of one that cannot be divided so, the channels of it."""
    try:
        return joined.part_of(x, part)
    except ValueError:
        begin = sum(joined.shares[:part])
        return x[..., begin : begin + joined.shares[part]]
