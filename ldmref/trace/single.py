"""A trace as one file: the tensors of all calls, and the manifest in the metadata."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ldmref.io.tensors.writer import KINDS, TensorSource, as_real, write_tensors, write_to
from ldmref.support.bfloat16 import bfloat16_bits
from ldmref.support.files import MAX_TABLE_VALUES, parse_json
from ldmref.trace.files import SharedTensors, manifest_text, tensor_metadata
from ldmref.trace.manifest import CODE, FORMAT, VERSION, check_manifest
from ldmref.trace.model import MISSING, UNKNOWN_NAMES, Trace, TraceEntry, build_trace, tensor_name

KEY = "manifest"  # of the metadata
OF_A_FOLDER = ("format", "version", "digests", MISSING, UNKNOWN_NAMES)


def save_trace(trace: Trace, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a trace as one file, which `load_trace` reads; it appears complete or not at all.

    Tensors of equal bytes are stored once.

    Args:
        trace: The trace.
        path: A name, usually with the ending .safetensors.
        overwrite: Whether an existing file is replaced.

    Returns:
        The path.

    Raises:
        OutputError: The file exists (without `overwrite`), or cannot be written.

    >>> import os, tempfile
    >>> import numpy as np
    >>> from ldmref.trace import build_trace, load_trace, save_trace
    >>> trace = build_trace({"unet.000/conv_in/output": np.ones((1, 4, 8, 8), np.float32)})
    >>> path = save_trace(trace, os.path.join(tempfile.mkdtemp(), "run.safetensors"))
    >>> load_trace(path).calls
    ['unet.000']
    """
    tensors, metadata = _pack(trace)
    write_tensors(Path(path), tensors, metadata, overwrite=overwrite)
    return Path(path)


def trace_bytes(trace: Trace) -> bytes:
    """Return the content of the file of a trace."""
    buffer = io.BytesIO()
    write_to(buffer, *_pack(trace))
    return buffer.getvalue()


def is_single(metadata: Mapping[str, str]) -> bool:
    """Return whether the metadata of a file are those of a trace in one file."""
    return metadata.get("format") == FORMAT and KEY in metadata


def unpack_trace(
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    kinds: Mapping[str, str],
    source: str,
) -> Trace:
    """Return the trace of a file of `save_trace`.

    Raises:
        CorruptModelError: Its manifest is damaged, or of a later version.
    """
    found = parse_json(metadata[KEY], source, CODE, most=MAX_TABLE_VALUES)
    manifest = check_manifest(found, Path(source))
    named = SharedTensors(tensors, metadata, source)
    return build_trace(named, manifest, named.name_kinds(kinds), source)


def _pack(trace: Trace) -> tuple[dict[str, TensorSource], dict[str, str]]:
    """Return the tensors to write and the metadata."""
    stored: dict[tuple[str, bool, tuple[int, ...], bytes], str] = {}
    sources: dict[str, TensorSource] = {}
    shared: dict[str, str] = {}

    def store(entry: TraceEntry, side: str, names: Mapping[str, str]) -> dict[str, str]:
        found = {}
        for role, old in names.items():
            name = tensor_name(entry.call, entry.layer, side, role)
            kind, array, is_complex = _stored(trace, old)
            digest = hashlib.blake2b(array.data, digest_size=16).digest()
            first = stored.setdefault((kind, is_complex, array.shape, digest), name)
            found[role] = first
            if first != name:
                shared[name] = first
                continue
            read = partial(_read_stored, trace, old)
            sources[name] = TensorSource(kind, array.shape, read, is_complex)
        return found

    entries = [
        replace(
            entry,
            inputs=store(entry, "input", entry.inputs),
            outputs=store(entry, "output", entry.outputs),
        )
        for entry in trace.entries
    ]
    manifest = {key: value for key, value in trace.manifest.items() if key not in OF_A_FOLDER}
    metadata = {"format": FORMAT, "version": str(VERSION), KEY: manifest_text(manifest, entries)}
    return sources, metadata | tensor_metadata(shared, sources)


def _stored(trace: Trace, name: str) -> tuple[str, np.ndarray, bool]:
    """Return the stored type of a tensor, its values, and whether they are parts of complex ones.

    bfloat16 is stored as bits.
    """
    array = np.asarray(trace.tensors[name])
    array = np.ascontiguousarray(array).reshape(array.shape)
    if trace.kinds.get(name) == "BF16":
        return "BF16", bfloat16_bits(array), False
    real = as_real(array)
    return KINDS[real.dtype.newbyteorder("<")], real, real is not array


def _read_stored(trace: Trace, name: str) -> np.ndarray:
    return _stored(trace, name)[1]
