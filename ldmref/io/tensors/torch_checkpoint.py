"""Read pickled checkpoints (.ckpt, .pt, .pth, .bin) as named tensors, without torch.

torch.save writes a zip with the pickle `data.pkl` and one member per storage; before version 1.6 it
wrote five pickles one after the other, then the storages. Source: pytorch/pytorch,
torch/serialization.py.

A pickle is a program: it names functions and calls them. This reader only knows tensors, plain
containers, numbers and strings. Every name is looked up in a fixed
table, nothing is ever imported, and a name outside the table is an error.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from ldmref.errors import CorruptModelError, UnsafeFileError
from ldmref.io.tensors.safetensors import DTYPES
from ldmref.support.files import make_read_error, open_file

# torch's storage classes -> the type's name in safetensors.
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
MAX_MEMO = 10_000_000  # entries; the pickle chooses the size
MAX_OBJECTS = 10_000  # in a tuple
HASHABLE = {pickletools.pytuple, pickletools.pyfrozenset}
UNHASHABLE = {pickletools.pylist, pickletools.pydict, pickletools.pyset}
NESTING = 64


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of `numel` numbers of one type, in the file under `key`."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A view of a storage, read on demand; `strides` and `offset` are in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Table(dict):
    """The replacement of OrderedDict; the attributes that torch sets (`_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class Name:
    """The replacement of an allowed global, which can only be called."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: object) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise UnsafeFileError("the pickle changes a function", code="E-PICKLE")

    def __setstate__(self, state: object) -> NoReturn:
        raise UnsafeFileError("the pickle changes a function", code="E-PICKLE")


def load_pickle(stream: BinaryIO, file: str) -> Any:
    """Load one pickle, reading to its end and no further; tensors become `LazyTensor`.

    Args:
        stream: A seekable stream.
        file: The name of the file, for errors.

    Raises:
        UnsafeFileError: It names anything but tensors and plain containers.
        CorruptModelError: It is damaged.
    """
    start = stream.tell()
    try:
        _scan(stream)
        stream.seek(start)
        return _Unpickler(stream, file).load()
    except UnsafeFileError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise CorruptModelError(
            f"{file} is damaged: its pickle cannot be read ({type(error).__name__})",
            code="E-PICKLE-DAMAGED",
        ) from error


def _scan(stream: BinaryIO) -> None:
    """Refuse operations that could cost much memory or time, without executing any.

    A key that is a tuple is hashed with everything in it, as often as it is mentioned: a few bytes
    of pickle can represent more objects than can ever be hashed. Therefore the stack is simulated,
    with each object replaced by the number of objects in it.
    """
    stack: list[int | None] = []  # None is a mark
    memo: dict[int, int | None] = {}
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        before = operation.stack_before
        if name.startswith("EXT") or name in ("NEXT_BUFFER", "READONLY_BUFFER"):
            raise ValueError(name)
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else int(argument or 0)
            if not 0 <= index <= MAX_MEMO:
                raise ValueError(name)
            memo[index] = stack[-1]
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
            continue
        first = len(stack) - len(before)
        if pickletools.markobject in before:
            mark = len(stack) - 1 - stack[::-1].index(None)
            first = mark - before.index(pickletools.markobject)
        after = operation.stack_after
        size = 1 + sum(n or 0 for n in stack[first:])
        if first < 0 or (size > MAX_OBJECTS and (name == "REDUCE" or HASHABLE & {*after})):
            raise ValueError(name)
        if name == "BUILD" or UNHASHABLE & {*after}:
            size = 1
        del stack[first:]
        stack += [None if kind is pickletools.markobject else size for kind in after]


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, file: str):
        super().__init__(stream, encoding="utf-8")
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return Name(_StorageKind(STORAGES[name]))
        known = NAMES.get((module, name))
        if known is None:
            raise UnsafeFileError(
                f"{self.file} names {module}.{name}, which is not a tensor and could run code",
                code="E-PICKLE",
                hint="ask for a safetensors file, or one with the weights only",
            )
        return Name(known)

    def persistent_load(self, pid: Any) -> Storage:
        """Resolve a reference to a storage: ("storage", type, key, location, numel[, view])."""
        word, kind, key, _, numel = pid[:5]
        if word != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise ValueError(word)
        kind = kind._call
        if not isinstance(kind, _StorageKind) or type(numel) is not int or numel < 0:
            raise ValueError("storage")
        return Storage(kind.name, str(key), numel)


class _StorageKind:
    """The data type of a storage; the pickle names it and never calls it."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args: object) -> NoReturn:
        raise ValueError("storage")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> LazyTensor:
    """Check and build a tensor, a view within its storage; torch._utils._rebuild_tensor_v2."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("tensor")
    if len(shape) != len(strides) or len(shape) > NESTING:
        raise ValueError("tensor")
    count = 1
    last = offset
    for n, stride in zip(shape, strides, strict=True):
        count = count * n
        last = last + (n - 1) * stride
    if count and (last >= storage.numel or count > storage.numel):
        raise ValueError("tensor")
    return LazyTensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: object, *_: object) -> LazyTensor:
    """Unwrap a tensor with a flag; torch._utils._rebuild_parameter."""
    if not isinstance(tensor, LazyTensor):
        raise ValueError("parameter")
    return tensor


def _bytes(text: object, codec: object) -> bytes:
    """Encode the text as which protocol 2 writes bytes; _codecs.encode."""
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError("bytes")
    return text.encode("latin1")


NAMES: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): Table,
}


def load_pickle_bytes(data: bytes, file: str) -> Any:
    """Load a pickle from bytes; see `load_pickle`."""
    return load_pickle(io.BytesIO(data), file)


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


def read_checkpoint(path: Path, alone: str = "") -> PickledCheckpoint:
    """Open a pickled checkpoint: a dictionary of tensors, or one that holds it as `state_dict`.

    Keys of nested dictionaries are joined with dots.

    Args:
        path: The file.
        alone: The name of a tensor that is alone in its file. "": such a file is refused.

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
    if isinstance(content, LazyTensor) and alone:
        content = {alone: content}
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
    node: object, file: str, count: Iterator[int], name: str = "", depth: int = 0
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


def _storages(node: object, seen: set[int], depth: int = 0) -> Iterator[Storage]:
    """Yield the storages of all tensors in plain containers; `seen` holds containers' ids."""
    if isinstance(node, LazyTensor):
        yield node.storage
    elif isinstance(node, Mapping | list | tuple) and depth <= NESTING and id(node) not in seen:
        seen.add(id(node))
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _storages(child, seen, depth + 1)
