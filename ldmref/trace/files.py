"""The folder of a trace: `trace.json`, and one safetensors file per call."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, OutputError
from ldmref.files import check_input_path, parse_json, read_file, shown
from ldmref.io.atomic import atomic_write, check_writable
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import TensorSource, source, write_tensors
from ldmref.trace.model import Trace, TraceEntry, build_trace

FORMAT = "ldmref-trace"
VERSION = 1
MANIFEST = "trace.json"
MAX_MANIFEST = 2**28  # bytes
CODE = "E-TRACE-FILE"


class TraceWriter:
    """Write a trace call by call, so it may be larger than memory.

    A folder without `trace.json` is a trace that was interrupted: its complete calls can be read.

    Args:
        folder: The folder to write; it is created.
        manifest: The manifest, except for format, version and entries.
        overwrite: Whether an existing trace is replaced.

    Raises:
        OutputError: The folder has a trace (unless `overwrite`), or cannot be written.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *, overwrite: bool = False):
        self.folder = folder
        self.manifest = dict(manifest)
        self.overwrite = overwrite
        self._entries: list[TraceEntry] = []
        if folder.exists():
            check_writable(folder / MANIFEST, overwrite)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot create {shown(folder)!r}: {error.strerror}"
            raise OutputError(message, code="E-OUTPUT") from error

    def write_call(
        self,
        call: str,
        entries: Iterable[TraceEntry],
        tensors: Mapping[str, np.ndarray | TensorSource],
    ) -> None:
        """Write the tensors of one call to `CALL.safetensors`."""
        sources = {
            name: value if isinstance(value, TensorSource) else source(value)
            for name, value in tensors.items()
        }
        metadata = {"format": FORMAT, "version": str(VERSION), "call": call}
        path = self.folder / f"{call}.safetensors"
        write_tensors(path, sources, metadata, overwrite=self.overwrite)
        self._entries += entries

    def close(self) -> Path:
        """Write the manifest, which completes the trace; returns its path."""
        entries = [
            {
                "call": entry.call,
                "layer": entry.layer,
                "kind": entry.kind,
                "inputs": dict(entry.inputs),
                "outputs": dict(entry.outputs),
                "attributes": dict(entry.attributes),
            }
            for entry in self._entries
        ]
        head = {"format": FORMAT, "version": VERSION}
        text = json.dumps(head | self.manifest | {"entries": entries}, indent=1)
        path = self.folder / MANIFEST
        with atomic_write(path, overwrite=self.overwrite) as file:
            file.write(text.encode())
        return path


def read_trace(folder: Path) -> Trace:
    """Read a folder of `TraceWriter`, or any folder of safetensors files; tensors stay on disk.

    Raises:
        CorruptModelError: A file is damaged, or the folder has none.
    """
    folder = check_input_path(folder, "the path of a trace", CODE)
    files = [TensorFile(path) for path in sorted(folder.glob("*.safetensors"))]
    if not files:
        message = f"{shown(folder)}: no safetensors file"
        raise CorruptModelError(message, code=CODE, hint="a trace is a folder")
    manifest = folder / MANIFEST
    meta = {}
    if manifest.exists():
        meta = parse_json(read_file(manifest, MAX_MANIFEST, CODE), MANIFEST, CODE)
    tensors: ChainMap[str, Any] = ChainMap(*files)  # type: ignore[arg-type]
    kinds = {name: kind for file in files for name, kind in file.kinds.items()}
    return build_trace(tensors, meta, kinds, str(folder))
