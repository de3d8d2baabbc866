"""Recognise what kind of trace a path is, and open it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.tensors.gguf import GGUFFile
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.torch_checkpoint import is_pickle
from ldmref.support.files import (
    MAX_TABLE_VALUES,
    check_input_path,
    open_file,
    parse_json,
    read_file,
    shown,
)
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace.files import read_trace
from ldmref.trace.manifest import MANIFEST
from ldmref.trace.model import UNKNOWN_NAMES, Trace, build_trace
from ldmref.trace.name_maps import NameMap
from ldmref.trace.order import in_order_of_run
from ldmref.trace.readers.json_dumps import TREE, DebuggedCall, RawArrays, is_raw
from ldmref.trace.readers.names import StoredPart, rename_all
from ldmref.trace.readers.npy import NpyFolder, NpzFile
from ldmref.trace.readers.runtimes import (
    MAX_DUMP,
    is_layer,
    is_polygraphy,
    name_tensors,
    read_polygraphy,
)
from ldmref.trace.readers.torch_files import ENDINGS, TorchFiles, is_torch_zip, read_torch_folder
from ldmref.trace.single import is_single, unpack_trace

CODE = "E-TRACE-FILE"
READABLE = (
    "a folder of ldmref trace, .safetensors, .npz, a folder of .npy, .pt, a folder of .pt, .gguf, "
    ".json of Polygraphy, of raw numbers and of transformers' debugger"
)


def load_trace(path: str | Path, names: NameMap | str | Path | None = None) -> Trace:
    """Open the intermediates that a program wrote; tensors are read when they are used.

    Args:
        path: A folder of `ldmref trace`, a file of `ldmref record`, a folder of safetensors or
            .npy files (also in folders, or with `__` for `/` in their names), a safetensors, .npz
            or GGUF file, a file of `torch.save` or a folder of them, JSON of Polygraphy (a file of
            outputs, or a folder with that and the file of inputs), JSON that describes raw numbers
            (`ldmref.trace.readers.json_dumps`), or the folder of transformers' debugger. The kind
            is recognised by content. No code of a pickle runs.
        names: The trace's name of each tensor, `CALL/LAYER/input` or `CALL/LAYER/output`: a
            mapping of names or globs, a function (see `make_renamer`), or a JSON or TOML file
            of such a mapping. A list of names is that of the layers which a joined one has in one.
            Tensors that it does not name keep their name if that is a
            trace's. None: they have a trace's names.

    Returns:
        The trace. Its manifest has "unknown_names": tensors with other names, which are left out.

    Raises:
        InputError: The file is missing, damaged or hostile, or no tensor has a known name.
        UsageError: The name map is not valid.
        BackendUnavailable: A quantised type needs the package `gguf`.

    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from ldmref.trace import load_trace
    >>> path = os.path.join(tempfile.mkdtemp(), "port.npz")
    >>> np.savez(path, first_conv=np.ones((1, 4, 8, 8), np.float32))
    >>> load_trace(path, {"first_conv": "unet.000/conv_in/output"}).entries[0].name
    'unet.000/conv_in'
    """
    path = check_input_path(path, "the path of a trace", CODE)
    if path.name == MANIFEST and path.is_file():
        path = path.parent
    if path.is_dir():
        return _load_folder(path, names)
    with open_file(path, CODE) as file:
        start = file.read(8)
    tensors: Mapping[str, np.ndarray]
    if is_polygraphy(start):
        return _build(_read_json([path]), names, path)
    if start.startswith(b"GGUF"):
        tensors = GGUFFile(path, CODE)
    elif (start.startswith(b"\x80") and is_pickle(path)) or is_torch_zip(path):
        tensors = TorchFiles([("", path)])
    elif start.startswith(b"PK"):
        tensors = NpzFile(path)
    elif start.startswith(b"\x93NUMPY"):
        message = f"{shown(path)} is one array, which has no name"
        raise InputError(message, code=CODE, hint="name the folder of .npy files")
    else:
        return _load_file(TensorFile(path), names)
    return _build(tensors, names, path)


def _load_file(file: TensorFile, names: NameMap | str | Path | None) -> Trace:
    """Open a safetensors file: a trace in one file, or named tensors."""
    if not is_single(file.metadata):
        return in_order_of_run(_build(file, names, file.path))
    trace = unpack_trace(file, file.metadata, file.kinds, str(file.path))
    if names is None:
        return trace
    return _build(trace.tensors, names, file.path, trace.kinds, trace.manifest)


def _read_json(paths: list[Path]) -> Mapping[str, np.ndarray]:
    """Return the tensors that files of JSON hold or name."""
    first = paths[0]
    content = parse_json(
        read_file(first, MAX_DUMP, CODE), shown(first), CODE, most=MAX_TABLE_VALUES
    )
    if isinstance(content, Mapping) and "module_path" in content:
        return DebuggedCall(content, first.parent)
    return RawArrays(content, first.parent) if is_raw(content) else read_polygraphy(paths)


def _load_folder(folder: Path, names: NameMap | str | Path | None) -> Trace:
    trees = sorted(folder.glob(f"*{TREE}"))
    if trees:
        require_inside(folder, trees)
        return _build(_read_json(trees[:1]), names, folder)
    if any(folder.glob("*.safetensors")):
        require_inside(folder, folder.glob("*.safetensors"))
        require_inside(folder, folder.glob(MANIFEST))
        trace = read_trace(folder)
        if names is None and trace.manifest:
            return trace
        built = _build(trace.tensors, names, folder, trace.kinds, trace.manifest)
        return built if trace.manifest else in_order_of_run(built)
    dumps = sorted(folder.glob("*.json"))
    if dumps:
        require_inside(folder, dumps)
        return _build(_read_json(dumps), names, folder)
    require_inside(folder, (path for path in folder.iterdir() if path.suffix in ENDINGS))
    saved = read_torch_folder(folder)
    if saved is not None:
        return _build(saved, names, folder)
    arrays = NpyFolder(folder)
    require_inside(folder, arrays.paths.values())
    if arrays.paths:
        return _build(arrays, names, folder)
    raise CorruptModelError(
        f"{shown(folder)} holds no trace", code=CODE, hint=f"readable are {READABLE}"
    )


def require_inside(folder: Path, files: Iterable[Path]) -> None:
    """Refuse files that are links to somewhere outside of their folder.

    Raises:
        InputError: One of them is.
    """
    real = folder.resolve()
    for path in files:
        if not path.resolve().is_relative_to(real):
            message = f"{shown(path)} is a link out of the folder {shown(folder)!r}"
            raise InputError(message, code=CODE, hint="copy the file into the folder")


class _Renamed(LazyMapping[np.ndarray]):
    """Tensors under other names."""

    def __init__(self, tensors: Mapping[str, np.ndarray], stored: Mapping[str, StoredPart]):
        self._tensors = tensors
        self._stored = stored

    def __getitem__(self, name: str) -> np.ndarray:
        return self._stored[name].read(self._tensors)

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._stored


def _build(
    tensors: Mapping[str, np.ndarray],
    names: NameMap | str | Path | None,
    path: Path,
    kinds: Mapping[str, str] | None = None,
    manifest: Mapping[str, object] | None = None,
) -> Trace:
    exported = name_tensors(tensors) if names is None else None
    if exported is not None:  # every tensor of an exported ONNX file
        names = exported
        tensors = {name: tensors[name] for name in tensors if is_layer(name)}
    stored, unknown = rename_all(tensors, names, path)
    known: Mapping[str, str] = getattr(tensors, "kinds", {}) if kinds is None else kinds
    new_kinds = {new: known[old.name] for new, old in stored.items() if old.name in known}
    more = {UNKNOWN_NAMES: unknown} if unknown else {}
    return build_trace(_Renamed(tensors, stored), dict(manifest or {}) | more, new_kinds, str(path))
