"""JSON that names the files of a dump: raw numbers, and the debugger of transformers.

Raw numbers are described by an object with a row for each array, in C order and little-endian:

    {"unet.000/conv_in/output": {"file": "dump.bin", "shape": [1, 8, 4, 4], "offset": 0}}

`dtype` is "float32" unless it says "float64", "float16", "bfloat16", "int32" or "int64".

`transformers.model_addition_debugger_context(model, debug_path, use_repr=False)` writes the tree of
modules of one call as `*_FULL_TENSORS.json`, with a safetensors file for each array.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.family import family_of
from ldmref.models.params import flatten
from ldmref.models.presets import list_presets
from ldmref.support.bfloat16 import decode_bfloat16
from ldmref.support.files import open_file, shown
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace.manifest import CODE
from ldmref.trace.model import tensor_name

TREE = "_FULL_TENSORS.json"  # how the name of a file of transformers' debugger ends
DATA = "data"  # the tensor in each file beside it
TYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
}


class RawArray(NamedTuple):
    """A part of a file of raw numbers."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int

    def read(self) -> np.ndarray:
        """Read the numbers."""
        with open_file(self.path, CODE) as file:
            file.seek(self.offset)
            data = file.read(math.prod(self.shape) * TYPES[self.dtype].itemsize)
        array = np.frombuffer(data, TYPES[self.dtype]).reshape(self.shape)
        return decode_bfloat16(array) if self.dtype == "bfloat16" else array


class RawArrays(LazyMapping[np.ndarray]):
    """Arrays of raw numbers that JSON describes.

    Args:
        content: The JSON.
        folder: The folder of the JSON and of the files that it names.

    Attributes:
        kinds: "BF16" for arrays of bfloat16, which are read as float32.

    Raises:
        CorruptModelError: A row is damaged, or a file is too short or elsewhere.
    """

    def __init__(self, content: Mapping[str, Any], folder: Path):
        self._rows = {str(name): _read_row(name, row, folder) for name, row in content.items()}
        self.kinds = {name: "BF16" for name, row in self._rows.items() if row.dtype == "bfloat16"}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._rows[name].read()

    @property
    def names(self) -> Collection[str]:
        """The names of all arrays."""
        return self._rows


def is_raw(content: object) -> bool:
    """Return whether JSON describes raw numbers."""
    if not isinstance(content, Mapping) or not content:
        return False
    return all(
        isinstance(row, Mapping) and {"file", "shape"} <= row.keys() for row in content.values()
    )


def _read_row(name: str, row: Mapping[str, Any], folder: Path) -> RawArray:
    label = str(name)[:80]
    try:
        shape = tuple(int(size) for size in row["shape"])
        found = RawArray(
            inside(folder, row["file"]),
            shape,
            row.get("dtype", "float32"),
            int(row.get("offset", 0)),
        )
        if found.dtype not in TYPES or min((*shape, found.offset)) < 0:
            raise ValueError(f"dtype {found.dtype!r}, shape {shape}")
    except (TypeError, ValueError, OverflowError) as error:
        problem = f"the row of {label!r} is damaged: {error}"[:300]
        raise CorruptModelError(problem, code=CODE) from error
    end = found.offset + math.prod(shape) * TYPES[found.dtype].itemsize
    with open_file(found.path, CODE) as file:
        size = os.fstat(file.fileno()).st_size
    if end > size:
        message = f"{shown(found.path)} has {size:,} bytes, and {label!r} ends at {end:,}"
        raise CorruptModelError(message[:300], code=CODE)
    return found


def inside(folder: Path, name: object) -> Path:
    """Return a file in the folder of JSON.

    Raises:
        InputError: It is somewhere else.
    """
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        message = f"{str(name)[:80]!r} is not in the folder {shown(folder)!r}"
        raise InputError(message, code=CODE, hint="copy the file into the folder")
    return path


# -- the debugger of transformers -----------------------------------------------------------------


class DebuggedCall(LazyMapping[np.ndarray]):
    """The arrays of one call that transformers' debugger wrote, by the names of a trace.

    Args:
        tree: The JSON.
        folder: The folder of the JSON and of the files that it names.

    Raises:
        InputError: Arrays were printed instead of saved, or no network has such layers.
    """

    def __init__(self, tree: Mapping[str, Any], folder: Path):
        top = str(tree["module_path"])
        found = {
            (layer, side, role): inside(folder, file)
            for layer, side, role, file in _walk(tree, top)
        }
        call = find_call({layer for layer, _, _ in found})
        if not call:
            message = f"no network has the layers of {top[:80]!r}"
            raise InputError(message, code=CODE, hint="record a network of the model")
        self._files = {tensor_name(call, *key): path for key, path in found.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return TensorFile(self._files[name])[DATA]

    @property
    def names(self) -> Collection[str]:
        """The names of all arrays."""
        return self._files


def find_call(layers: Collection[str]) -> str:
    """Return the first call of the network that has most of these layers; "" if none has any."""
    best, most = "", 0
    for call, known in _list_layers().items():
        score = sum(layer in known for layer in layers)
        if score > most:
            best, most = call, score
    return best


@cache
def _list_layers() -> dict[str, set[str]]:
    """Return the layers with parameters of each network of all families, by its first call.

    Versions of transformers name those of CLIP with `text_model.` or without.
    """
    found: dict[str, set[str]] = {}
    for config in list_presets().values():
        for network in family_of(config).networks(config):
            names = {path.rpartition(".")[0] for path in flatten(network.spec())}
            names |= {name.removeprefix("text_model.") for name in names}
            call = f"{network.name}.000" if network.numbered else network.name
            found.setdefault(call, set()).update(names)
    return found


def _walk(node: Mapping[str, Any], top: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (layer, side, role, file) of each array of a module and of those in it."""
    path = str(node.get("module_path", ""))
    layer = path.removeprefix(f"{top}.") if path != top else ""
    arguments = node.get("inputs") or {}
    for i, value in enumerate(arguments.get("args") or ()):
        yield from _arrays(layer, "input", str(i) if i else "", value)
    for role, value in (arguments.get("kwargs") or {}).items():
        yield from _arrays(layer, "input", role, value)
    yield from _arrays(layer, "output", "", node.get("outputs"))
    for child in node.get("children") or ():
        yield from _walk(child, top)


def _arrays(layer: str, side: str, role: str, value: object) -> Iterator[tuple[str, str, str, str]]:
    """Yield the arrays of an argument or a result, which may hold several."""
    if isinstance(value, list):
        alone = len(value) == 1
        for i, part in enumerate(value):
            yield from _arrays(layer, side, role if alone else f"{role}.{i}".strip("."), part)
        return
    if not isinstance(value, Mapping):
        return
    if "value" not in value or "shape" not in value:
        for key, part in value.items():
            yield from _arrays(layer, side, f"{role}.{key}".strip("."), part)
        return
    if not isinstance(value["value"], str):
        message = f"{layer[:80]!r} was printed, not saved"
        hint = "model_addition_debugger_context(model, debug_path=FOLDER, use_repr=False)"
        raise InputError(message, code=CODE, hint=hint)
    yield layer, side, role, value["value"]
