"""The folder of a trace: `trace.json`, and one safetensors file per call."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ldmref.errors import (
    CorruptModelError,
    LdmrefError,
    OutputError,
    ResourceError,
    UsageError,
    short_repr,
)
from ldmref.io.atomic import atomic_write, check_writable
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import TensorSource, source, write_to
from ldmref.support.files import MAX_TABLE_VALUES, check_input_path, parse_json, read_file, shown
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace.manifest import (
    CODE,
    FORMAT,
    MANIFEST,
    MAX_MANIFEST,
    VERSION,
    read_manifest,
    require_digest,
    require_files,
)
from ldmref.trace.model import Trace, TraceEntry, build_trace
from ldmref.trace.store import count_bytes

SHARED = "shared"  # the key of the names of tensors that are stored under another name
MAX_CALL = 200  # bytes of the name of a call; systems allow names of files of 255
SIZE_CODE = "E-TRACE-SIZE"
SPARE = 2**28  # bytes of a disk that are left free
SMALLER = "--layers GLOB or --only-steps 0,1 records a part; --dtype float32 takes half"
COMPLEX = "complex"  # the key of the names of tensors whose last axis is real and imaginary


class TraceWriter:
    """Write a trace call by call, so it may be larger than memory.

    A folder without `trace.json` is a trace that was interrupted: its complete calls can be read.

    Args:
        folder: The folder to write; it is created.
        manifest: The manifest, except for what `close` adds.
        overwrite: Whether an existing trace is replaced. Its files are deleted, others are not.
        max_bytes: The most bytes of tensors. None: as many as the disk has room for.

    Attributes:
        size: Bytes of the tensors so far.

    Raises:
        OutputError: The folder has a trace (unless `overwrite`) or files of somebody else, or
            cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from ldmref.trace import TraceEntry, TraceWriter, read_trace
    >>> folder = Path(tempfile.mkdtemp()) / "trace"
    >>> writer = TraceWriter(folder, {"program": "my port"})
    >>> name = "unet.000/conv_in/output"
    >>> entry = TraceEntry("unet.000", "conv_in", outputs={"output": name})
    >>> writer.write_call("unet.000", [entry], {name: np.ones((1, 4, 8, 8), np.float32)})
    >>> path = writer.close()
    >>> read_trace(folder).calls
    ['unet.000']
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        *,
        overwrite: bool = False,
        max_bytes: int | None = None,
    ):
        self.folder = folder
        self.max_bytes = max_bytes
        self.size = 0
        self.manifest = dict(manifest)
        self.overwrite = overwrite
        self._entries: list[TraceEntry] = []
        self._digests: dict[str, str] = {}
        if folder.exists():
            check_writable(folder / MANIFEST, overwrite)
            _require_own_folder(folder, overwrite)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot create {shown(folder)!r}: {error.strerror}"
            raise OutputError(message, code="E-OUTPUT") from error
        if overwrite:
            _delete_trace(folder)

    @property
    def is_empty(self) -> bool:
        """Whether no call was written."""
        return not self._entries

    def write_call(
        self,
        call: str,
        entries: Iterable[TraceEntry],
        tensors: Mapping[str, np.ndarray | TensorSource],
        shared: Mapping[str, str] | None = None,
    ) -> None:
        """Write the tensors of one call to `CALL.safetensors`.

        Args:
            call: The call.
            entries: Its layers.
            tensors: Arrays of any shape, or sources of them, by tensor name.
            shared: Names of further tensors, each with the name of the stored tensor that it is
                equal to. None: there are none.

        Raises:
            ResourceError: The trace would take more than `max_bytes`, or than the disk has.
        """
        shared = shared or {}
        sources = {
            name: value if isinstance(value, TensorSource) else source(value)
            for name, value in tensors.items()
        }
        path = self.folder / f"{require_call_name(call)}.safetensors"
        more = sum(map(count_bytes, sources.values()))
        self.require_room(more)
        metadata = call_metadata(call, shared, sources)
        with atomic_write(path, overwrite=self.overwrite) as file:
            hashing = _HashingFile(file)
            write_to(hashing, sources, metadata)  # type: ignore[arg-type]
        self._digests[path.name] = hashing.digest.hexdigest()
        self._entries += (resolve_names(entry, shared) for entry in entries)
        self.size += more

    def require_room(self, more: int) -> None:
        """Check that the trace may grow.

        Args:
            more: Bytes of further tensors.

        Raises:
            ResourceError: It would take more than `max_bytes`, or than the disk has.
        """
        size = self.size + more
        if self.max_bytes is not None and size > self.max_bytes:
            limit = show_bytes(self.max_bytes)
            message = f"the trace takes at least {show_bytes(size)}, more than {limit}"
            raise ResourceError(message, code=SIZE_CODE, hint=SMALLER)
        free = shutil.disk_usage(self.folder).free - SPARE
        if more > free:
            left = show_bytes(max(free, 0))
            message = f"the trace takes {show_bytes(more)} more, and {left} are free"
            raise ResourceError(message, code=SIZE_CODE, hint=SMALLER)

    def discard(self) -> None:
        """Delete the calls that were written, and the folder if nothing else is in it."""
        for name in self._digests:
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def close(self, complete: bool = True) -> Path:
        """Write the manifest, and return its path.

        Args:
            complete: Whether the run was traced to its end.
        """
        more = {"complete": complete, "digests": self._digests}
        text = manifest_text(self.manifest | more, self._entries)
        path = self.folder / MANIFEST
        with atomic_write(path, overwrite=self.overwrite) as file:
            file.write(text.encode())
        return path


def _require_own_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder with files that are no trace; what ended before its manifest is replaced.

    Raises:
        OutputError: It is one.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if MANIFEST in names or not names:
        return
    if not overwrite or not all(name.endswith(".safetensors") for name in names):
        message = f"{shown(folder)!r} is not empty, and holds no trace"
        raise OutputError(message, code="E-OUTPUT", hint="name a new folder, or an empty one")


def show_bytes(size: float) -> str:
    """Return a size for people.

    Args:
        size: The size in bytes, >= 0.

    Returns:
        The size in B, kB, MB, GB, ... with three digits.

    >>> from ldmref.trace import show_bytes
    >>> show_bytes(1_250_000_000)
    '1.25 GB'
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def call_metadata(
    call: str, shared: Mapping[str, str], tensors: Mapping[str, TensorSource]
) -> dict[str, str]:
    """Return the metadata in the header of a call's file."""
    start = {"format": FORMAT, "version": str(VERSION), "call": call}
    return start | tensor_metadata(shared, tensors)


def tensor_metadata(
    shared: Mapping[str, str], tensors: Mapping[str, TensorSource]
) -> dict[str, str]:
    """Return the metadata that say how tensors are stored: under another name, or as two parts."""
    metadata = {}
    if shared:
        metadata[SHARED] = json.dumps(shared, separators=(",", ":"))
    parts = [name for name, tensor in tensors.items() if tensor.is_complex]
    if parts:
        metadata[COMPLEX] = json.dumps(parts, separators=(",", ":"))
    return metadata


def require_call_name(call: str) -> str:
    """Return the name of a call, which is the name of its file.

    Raises:
        UsageError: It would be a file of another folder, or none.
    """
    is_name = isinstance(call, str) and call.isprintable() and not set(call) & {"/", "\\", ":"}
    if not is_name or not 0 < len(call.encode()) <= MAX_CALL or call.startswith("."):
        message = f"a call cannot be named {short_repr(call)}: its file has this name"
        hint = f"use at most {MAX_CALL} letters, digits, '_', '-' and '.', such as unet"
        raise UsageError(message, code="E-TRACE", hint=hint)
    return call


def resolve_names(entry: TraceEntry, shared: Mapping[str, str]) -> TraceEntry:
    """Return an entry with the names of stored tensors."""
    inputs = {role: shared.get(name, name) for role, name in entry.inputs.items()}
    outputs = {role: shared.get(name, name) for role, name in entry.outputs.items()}
    return replace(entry, inputs=inputs, outputs=outputs)


def manifest_text(manifest: Mapping[str, Any], entries: Iterable[TraceEntry]) -> str:
    """Return the text of a manifest, with one line per entry."""
    head = {"format": FORMAT, "version": VERSION} | dict(manifest)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = [
        json.dumps(
            {
                "call": entry.call,
                "layer": entry.layer,
                "kind": entry.kind,
                "inputs": dict(entry.inputs),
                "outputs": dict(entry.outputs),
                "attributes": dict(entry.attributes),
            }
        )
        for entry in entries
    ]
    lines.append('"entries": [\n' + ",\n".join(rows) + "\n]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


class _HashingFile:
    """A file that computes the SHA-256 of what is written."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _delete_trace(folder: Path) -> None:
    """Delete the files that the manifest of an earlier trace lists, and the manifest."""
    path = folder / MANIFEST
    with suppress(LdmrefError, OSError):
        data = read_file(path, MAX_MANIFEST, CODE)
        old = parse_json(data, MANIFEST, CODE, most=MAX_TABLE_VALUES)
        if isinstance(old, dict) and old.get("format") == FORMAT:
            for name in dict(old.get("digests", {})):
                if Path(name).name == name:
                    (folder / name).unlink(missing_ok=True)
            path.unlink()


class SharedTensors(LazyMapping[np.ndarray]):
    """Tensors of a file, those that are stored once under several names included.

    Args:
        tensors: The stored tensors.
        metadata: The metadata of the file.
        name: The file, for messages.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], name: str):
        self.tensors = tensors
        shared = parse_json(metadata.get(SHARED, "{}"), name, CODE, most=MAX_TABLE_VALUES)
        self.stored = {name: name for name in tensors}
        if isinstance(shared, dict):
            known = {name: old for name, old in shared.items() if isinstance(old, str)}
            self.stored |= {name: old for name, old in known.items() if old in self.stored}
        parts = parse_json(metadata.get(COMPLEX, "[]"), name, CODE, most=MAX_TABLE_VALUES)
        texts = [part for part in parts if isinstance(part, str)] if isinstance(parts, list) else ()
        self.complex = {part for part in texts if part in self.stored}

    def __getitem__(self, name: str) -> np.ndarray:
        stored = self.stored[name]
        array = self.tensors[stored]
        return _join_parts(stored, array) if stored in self.complex else array

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self.stored

    def name_kinds(self, kinds: Mapping[str, str]) -> dict[str, str]:
        """Return the stored type of each name."""
        return {name: kinds[old] for name, old in self.stored.items() if old in kinds}


def _join_parts(name: str, parts: np.ndarray) -> np.ndarray:
    """Return complex numbers of a last axis with their two parts.

    Raises:
        CorruptModelError: There is no such axis.
    """
    if parts.shape[-1:] != (2,) or parts.dtype.kind != "f":
        message = f"{short_repr(name)} is not the real and imaginary parts of complex numbers"
        raise CorruptModelError(message, code=CODE)
    joined = np.empty(parts.shape[:-1], np.result_type(parts.dtype, np.complex64))
    joined.real = parts[..., 0]
    joined.imag = parts[..., 1]
    return joined


class _CallTensors(SharedTensors):
    """The tensors of one file of a folder.

    Args:
        file: The file.
        digest: Its SHA-256, which is checked before the first tensor is read; "": it is not known.
    """

    def __init__(self, file: TensorFile, digest: str = ""):
        super().__init__(file, file.metadata, file.path.name)
        self.file = file
        self.unchecked = digest

    def __getitem__(self, name: str) -> np.ndarray:
        if self.unchecked:
            require_digest(self.file.path, self.unchecked)
            self.unchecked = ""
        return super().__getitem__(name)


def read_trace(folder: Path) -> Trace:
    """Read a folder of `TraceWriter`, or any folder of safetensors files; tensors stay on disk.

    Args:
        folder: The folder.

    Returns:
        The trace.

    Raises:
        CorruptModelError: A file is damaged, missing, or was changed, or the folder has none. What
            a file holds is compared with its digest before its first tensor is read.

    >>> import tempfile
    >>> import ldmref
    >>> from ldmref import modes
    >>> from ldmref.trace import read_trace, record_trace
    >>> model = ldmref.random_model("tiny")
    >>> plan = modes.plan("txt2img", model, prompt="a red cat", seed=1, steps=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = record_trace(plan, model, folder)
    ...     read_trace(folder).find("unet.000", "conv_in").kind
    'conv2d'
    """
    folder = check_input_path(folder, "the path of a trace", CODE)
    paths = sorted(folder.glob("*.safetensors"))
    manifest = folder / MANIFEST
    meta = read_manifest(manifest) if manifest.exists() else {}
    require_files(folder, meta)
    if not paths:
        message = f"{shown(folder)}: no safetensors file"
        raise CorruptModelError(message, code=CODE, hint="a trace is a folder")
    digests = meta.get("digests") or {}
    files = [_CallTensors(TensorFile(path), digests.get(path.name, "")) for path in paths]
    # A ChainMap lists the names of its last mapping first.
    tensors: ChainMap[str, Any] = ChainMap(*reversed(files))  # type: ignore[arg-type]
    kinds = {name: kind for f in files for name, kind in f.name_kinds(f.file.kinds).items()}
    return build_trace(tensors, meta, kinds, str(folder))
