"""Pickled checkpoints (.ckpt, .pt, .pth, .bin) to named tensors, without torch and without trust.

torch.save writes a zip with the pickle `data.pkl` and one member per storage; before version 1.6 it
wrote five pickles one after the other, then the storages. Source: pytorch/pytorch,
torch/serialization.py.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.tensors.safetensors import DTYPES
from ldmref.io.tensors.unpickler import NESTING, LazyTensor, Storage, load_pickle, load_pickle_bytes

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_PICKLE = 256 * 2**20
EMBEDDING = "string_to_param.*"  # A1111's textual-inversion files: the vectors of their word


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint by name, and what else it held, which is left out.

    `read(tensor)` gives its numbers, bfloat16 as its bits (uint16).
    """

    tensors: dict[str, LazyTensor]
    left_out: list[str]
    read: Callable[[LazyTensor], np.ndarray]


def is_pickle(path: Path) -> bool:
    """Whether a file starts as a zip or a pickle does."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80")


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a pickled checkpoint. Its tensors stand in a dictionary, or in one under `state_dict`;
    dictionaries within are joined with dots.

    Raises:
        UnsafeFileError: the pickle names anything but tensors and plain containers.
        InputError, CorruptModelError: the file cannot be read, is damaged, or holds no tensors.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                found, read = _open_zip(path)
            else:
                file.seek(0)
                found, read = _open_legacy(file, path)
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}", code="E-MODEL") from error
    state = found.get("state_dict") if isinstance(found, dict) else None
    inner = state if isinstance(state, dict) else found
    left_out = [str(key)[:80] for key in found if key != "state_dict"] if inner is state else []
    tensors: dict[str, LazyTensor] = {}
    inner = inner if isinstance(inner, dict) else {}
    for name, leaf in _leaves(inner, path.name):
        if not isinstance(leaf, LazyTensor):
            left_out.append(name)
        elif name in tensors:
            raise _damaged(path.name, f"it has two tensors {name!r}")
        else:
            tensors[name] = leaf
    if EMBEDDING in tensors and len(tensors) == 1:
        tensors = {"emb_params": tensors[EMBEDDING]}
    if not tensors:
        raise CorruptModelError(f"{path.name} holds no tensors with names", code="E-NO-TENSORS")
    return Checkpoint(tensors, left_out, read)


def _leaves(node: Any, what: str, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict) or depth > NESTING:
        yield name, node
        return
    for key, child in node.items():
        if not isinstance(key, str | int):
            raise _damaged(what, "a tensor's name is no text")
        yield from _leaves(child, what, f"{name}.{key}" if name else str(key), depth + 1)


def _view(tensor: LazyTensor, storage: np.ndarray) -> np.ndarray:
    """The tensor's numbers; that it lies within its storage was checked when it was unpickled."""
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, storage.dtype)
    strides = tuple(n * storage.itemsize for n in tensor.strides)
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.asarray(view, order="C")


# -- zip ------------------------------------------------------------------------------------------


def _open_zip(path: Path) -> tuple[Any, Callable]:
    what = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise _damaged(what, "two members have one name")
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise _damaged(what, "it is compressed, which torch.save never does")
            pickles = [n for n in members if n == "data.pkl" or n.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _damaged(what, "it is a zip, but holds no data.pkl of torch.save")
            root = pickles[0].removesuffix("data.pkl")
            if members[pickles[0]].file_size > MAX_PICKLE:
                raise _damaged(what, "its pickle is too large")
            if root + "byteorder" in members and archive.read(root + "byteorder") != b"little":
                raise CorruptModelError(f"{what} is big-endian", code="E-PICKLE-FORMAT")
            data = archive.read(pickles[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _damaged(what, "it is no whole zip file; is it cut off?") from error
    found = load_pickle_bytes(data, what)

    def storage(s: Storage) -> np.ndarray:
        dtype, name = DTYPES[s.kind], f"{root}data/{s.key}"
        if name not in members or members[name].file_size != s.numel * dtype.itemsize:
            raise _damaged(what, f"the numbers {s.key!r} are missing or have another size")
        try:
            with zipfile.ZipFile(path) as archive:
                return np.frombuffer(archive.read(name), dtype)
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise _damaged(what, f"the numbers {s.key!r} are damaged") from error

    return found, lambda tensor: _view(tensor, storage(tensor.storage))


# -- before torch 1.6 -----------------------------------------------------------------------------


def _open_legacy(file: BinaryIO, path: Path) -> tuple[Any, Callable]:
    what, storages = path.name, {}
    if load_pickle(file, what) != LEGACY_MAGIC or load_pickle(file, what) != LEGACY_PROTOCOL:
        raise CorruptModelError(
            f"{what} is a pickle, but was not made by torch.save", code="E-PICKLE-FORMAT"
        )
    system = load_pickle(file, what)
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise CorruptModelError(f"{what} is big-endian", code="E-PICKLE-FORMAT")
    found, keys = load_pickle(file, what), load_pickle(file, what)
    kinds = {s.key: s for s in _storages(found)}
    size = path.stat().st_size
    for key in keys if isinstance(keys, list) else ():
        numel = int.from_bytes(file.read(8), "little", signed=True)
        if key not in kinds or numel != kinds[key].numel:
            raise _damaged(what, f"the numbers {key!r} have another size")
        storages[key] = file.tell()
        if file.seek(numel * DTYPES[kinds[key].kind].itemsize, 1) > size:
            raise _damaged(what, "it is cut off")

    def read(tensor: LazyTensor) -> np.ndarray:
        s = tensor.storage
        if s.key not in storages:
            raise _damaged(what, f"the numbers {s.key!r} are missing")
        return _view(tensor, np.fromfile(path, DTYPES[s.kind], s.numel, offset=storages[s.key]))

    return found, read


def _storages(node: Any, depth: int = 0) -> Iterator[Storage]:
    """The storages of all tensors in plain containers."""
    if isinstance(node, LazyTensor):
        yield node.storage
    elif isinstance(node, Mapping | list | tuple) and depth <= NESTING:
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _storages(child, depth + 1)


def _damaged(what: str, why: str) -> CorruptModelError:
    return CorruptModelError(f"{what} is damaged: {why}", code="E-PICKLE-DAMAGED")
