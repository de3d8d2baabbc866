"""Read pickled checkpoints (.ckpt, .pt, .pth, .bin) as named tensors, without torch.

torch.save writes a zip with the pickle `data.pkl` and one member per storage; before version 1.6 it
wrote five pickles one after the other, then the storages. Source: pytorch/pytorch,
torch/serialization.py.
"""

from __future__ import annotations

import itertools
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.io.tensors.safetensors import DTYPES
from ldmref.io.tensors.unpickler import NESTING, LazyTensor, Storage, load_pickle, load_pickle_bytes
from ldmref.support.files import make_read_error, open_file

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_PICKLE = 256 * 2**20
MAX_NAMES = 50_000
MOST_NETWORKS = 8  # dictionaries in a list whose tensors are named
MAX_GROWTH = 4  # size of all tensors, as views of the storages, relative to the file
EMBEDDING = "string_to_param.*"  # A1111's textual-inversion files: the vectors of their word
Reader = Callable[[LazyTensor], np.ndarray]


@dataclass(frozen=True)
class PickledCheckpoint:
    """The tensors of a pickled checkpoint.

    Attributes:
        tensors: The tensors by name.
        left_out: The names of everything else in the file.
        read: A function that returns the numbers of a tensor, bfloat16 as raw bits (uint16).
    """

    tensors: dict[str, LazyTensor]
    left_out: list[str]
    read: Reader


def is_pickle(path: Path) -> bool:
    """Return whether a file starts like a zip or a pickle.

    Raises:
        InputError: It cannot be read.
    """
    with open_file(path) as file:
        start = file.read(9)
    return start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80")


def read_checkpoint(path: Path) -> PickledCheckpoint:
    """Open a pickled checkpoint: a dictionary of tensors, or one that holds it as `state_dict`.

    Keys of nested dictionaries are joined with dots.

    Raises:
        UnsafeFileError: The pickle names anything but tensors and plain containers.
        InputError, CorruptModelError: The file cannot be read, is damaged, or holds no tensors.
    """
    try:
        with open_file(path) as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            content, read = _open_zip(file, path) if zipped else _open_legacy(file, path)
    except OSError as error:
        raise make_read_error(path, error) from error
    left_out: list[str] = []
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        left_out = [str(key)[:80] for key in content if key != "state_dict"]
        content = content["state_dict"]
    tensors: dict[str, LazyTensor] = {}
    for name, leaf in _leaves(
        content if isinstance(content, dict) else {}, path.name, itertools.count()
    ):
        if not isinstance(leaf, LazyTensor):
            left_out.append(name)
        elif name in tensors:
            raise _damaged(path.name, f"it has two tensors {name!r}")
        else:
            tensors[name] = leaf
    if list(tensors) == [EMBEDDING]:
        tensors = {"emb_params": tensors[EMBEDDING]}
    _require_proportion(path.name, tensors, size)
    if not tensors:
        raise CorruptModelError(f"{path.name} holds no named tensors", code="E-NO-TENSORS")
    return PickledCheckpoint(tensors, left_out, read)


def _require_proportion(file: str, tensors: Mapping[str, LazyTensor], size: int) -> None:
    """Refuse tensors that share storages and together are much larger than the file."""
    total = sum(math.prod(t.shape) * DTYPES[t.storage.kind].itemsize for t in tensors.values())
    if total > MAX_GROWTH * size:
        problem = f"its tensors have {total:,} bytes together, the file {size:,}"
        raise _damaged(file, f"{problem}; at most {MAX_GROWTH} times as many can be")


def _leaves(
    node: Any, file: str, count: Iterator[int], name: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every value in nested dictionaries, and short lists of them.

    `count` counts the values, including dictionaries, since one may occur in many places.
    """
    if next(count) > MAX_NAMES:
        raise _damaged(file, f"it holds more than {MAX_NAMES:,} names")
    if isinstance(node, list | tuple) and len(node) <= MOST_NETWORKS:
        if node and all(isinstance(part, dict) for part in node):  # as in hypernetworks
            node = dict(enumerate(node))
    if not isinstance(node, dict) or depth > NESTING:
        yield name, node
        return
    for key, child in node.items():
        if not isinstance(key, str | int):
            raise _damaged(file, "the name of a tensor is not text")
        yield from _leaves(child, file, count, f"{name}.{key}" if name else str(key), depth + 1)


def _view(tensor: LazyTensor, storage: np.ndarray) -> np.ndarray:
    """Return the numbers of a tensor, which is within its storage, as the unpickler checked."""
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, storage.dtype)
    strides = tuple(n * storage.itemsize for n in tensor.strides)
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.asarray(view, order="C")


def _damaged(file: str, why: str) -> CorruptModelError:
    return CorruptModelError(f"{file} is damaged: {why}", code="E-PICKLE-DAMAGED")


def _format_error(file: str, why: str) -> CorruptModelError:
    return CorruptModelError(f"{file} {why}", code="E-PICKLE-FORMAT")


# -- zip ------------------------------------------------------------------------------------------

# NotImplementedError: flags of a patch or a method; RuntimeError: it is encrypted
NOT_READABLE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError)


def _open_zip(stream: BinaryIO, path: Path) -> tuple[Any, Reader]:
    file = path.name
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise _damaged(file, "two members have one name")
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise _damaged(file, "it is compressed, which torch.save never does")
            pickles = [n for n in members if n == "data.pkl" or n.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _damaged(file, "it is a zip, but holds no data.pkl of torch.save")
            root = pickles[0].removesuffix("data.pkl")
            if members[pickles[0]].file_size > MAX_PICKLE:
                raise _damaged(file, "its pickle is too large")
            if root + "byteorder" in members and archive.read(root + "byteorder") != b"little":
                raise _format_error(file, "is big-endian")
            data = archive.read(pickles[0])
    except NOT_READABLE as error:
        raise _damaged(file, "it is not a complete zip file; is it truncated?") from error

    def read(tensor: LazyTensor) -> np.ndarray:
        key = tensor.storage.key
        dtype = DTYPES[tensor.storage.kind]
        info = members.get(f"{root}data/{key}")
        if info is None or info.file_size != tensor.storage.numel * dtype.itemsize:
            raise _damaged(file, f"the storage {key!r} is missing or has another size")
        try:
            with open_file(path) as again, zipfile.ZipFile(again) as archive:
                return _view(tensor, np.frombuffer(archive.read(info.filename), dtype))
        except NOT_READABLE as error:
            raise _damaged(file, f"the storage {key!r} is damaged") from error

    return load_pickle_bytes(data, file), read


# -- before torch 1.6 -----------------------------------------------------------------------------


def _open_legacy(stream: BinaryIO, path: Path) -> tuple[Any, Reader]:
    file = path.name
    offsets = {}
    if load_pickle(stream, file) != LEGACY_MAGIC or load_pickle(stream, file) != LEGACY_PROTOCOL:
        raise _format_error(file, "is a pickle, but was not made by torch.save")
    system = load_pickle(stream, file)
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise _format_error(file, "is big-endian")
    content = load_pickle(stream, file)
    keys = load_pickle(stream, file)
    storages = {storage.key: storage for storage in _storages(content, set())}
    size = path.stat().st_size
    for key in keys if isinstance(keys, list) else ():
        numel = int.from_bytes(stream.read(8), "little", signed=True)
        if key not in storages or numel != storages[key].numel:
            raise _damaged(file, f"the storage {key!r} has another size")
        offsets[key] = stream.tell()
        if stream.seek(numel * DTYPES[storages[key].kind].itemsize, 1) > size:
            raise _damaged(file, "it is truncated")

    def read(tensor: LazyTensor) -> np.ndarray:
        storage = tensor.storage
        if storage.key not in offsets:
            raise _damaged(file, f"the storage {storage.key!r} is missing")
        dtype = DTYPES[storage.kind]
        offset = offsets[storage.key]
        with open_file(path) as again:
            again.seek(offset)
            data = again.read(storage.numel * dtype.itemsize)
        if len(data) < storage.numel * dtype.itemsize:
            raise _damaged(file, "it was truncated while it was being read")
        return _view(tensor, np.frombuffer(data, dtype))

    return content, read


def _storages(node: Any, seen: set[int], depth: int = 0) -> Iterator[Storage]:
    """Yield the storages of all tensors in plain containers; `seen` holds containers' ids."""
    if isinstance(node, LazyTensor):
        yield node.storage
    elif isinstance(node, Mapping | list | tuple) and depth <= NESTING and id(node) not in seen:
        seen.add(id(node))
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _storages(child, seen, depth + 1)
