"""A pickle reader that knows tensors, plain containers, numbers and strings, and nothing else.

A pickle is a program: it names functions and calls them. Here every name is looked up in a short
table of our own, nothing is ever imported, and whatever is not in the table is refused by name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from ldmref.errors import CorruptModelError, UnsafeFileError

# torch's storage classes -> the type's name in safetensors.
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
MAX_MEMO = 10_000_000  # the memo is a table that the pickle sizes itself
NESTING = 64


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of `numel` numbers of one type, in the file under `key`."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A view of a storage, read when it is needed: `strides` and `offset` count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Table(dict):
    """An OrderedDict without attributes; what torch hangs on it (`_metadata`) is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Name:
    """What stands in the pickle's world for an allowed name: it can be called, and nothing else."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise UnsafeFileError("the pickle changes a function", code="E-PICKLE")

    def __setstate__(self, state: Any) -> NoReturn:
        raise UnsafeFileError("the pickle changes a function", code="E-PICKLE")


def load_pickle(stream: BinaryIO, what: str) -> Any:
    """The object of one pickle, read to its end and no further.

    Args:
        stream: seekable; tensors come out as `LazyTensor`.
        what: the file's name, for errors.

    Raises:
        UnsafeFileError: it names anything but tensors and plain containers.
        CorruptModelError: it is damaged.
    """
    start = stream.tell()
    try:
        _scan(stream)
        stream.seek(start)
        return _Unpickler(stream, what).load()
    except UnsafeFileError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise CorruptModelError(
            f"{what} is damaged: its pickle cannot be read ({type(error).__name__})",
            code="E-PICKLE-DAMAGED",
        ) from error


def _scan(stream: BinaryIO) -> None:
    """Read through the operations without doing any, for what would cost memory or time."""
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= MAX_MEMO:
            raise ValueError(name)
        if name.startswith("EXT") or name in ("NEXT_BUFFER", "READONLY_BUFFER"):
            raise ValueError(name)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, what: str):
        super().__init__(stream, encoding="utf-8")
        self.what = what

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return Name(_StorageKind(STORAGES[name]))
        known = NAMES.get((module, name))
        if known is None:
            raise UnsafeFileError(
                f"{self.what} names {module}.{name}, which is no tensor and could run code",
                code="E-PICKLE",
                hint="ask for a safetensors file, or one with the weights only",
            )
        return Name(known)

    def persistent_load(self, pid: Any) -> Storage:
        """torch's reference to a storage: ("storage", type, key, location, numel[, view])."""
        word, kind, key, _, numel = pid[:5]
        if word != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise ValueError(word)
        kind = kind._call
        if not isinstance(kind, _StorageKind) or type(numel) is not int or numel < 0:
            raise ValueError("storage")
        return Storage(kind.name, str(key), numel)


class _StorageKind:
    """A storage's type; it is named in the pickle and never called."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args: Any) -> NoReturn:
        raise ValueError("storage")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> LazyTensor:
    """torch._utils._rebuild_tensor_v2; the view must lie within its storage."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("tensor")
    if len(shape) != len(strides) or len(shape) > NESTING:
        raise ValueError("tensor")
    count, last = 1, offset
    for n, stride in zip(shape, strides, strict=True):
        count, last = count * n, last + (n - 1) * stride
    if count and (last >= storage.numel or count > storage.numel):
        raise ValueError("tensor")
    return LazyTensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> LazyTensor:
    """torch._utils._rebuild_parameter: a tensor with a flag."""
    if not isinstance(tensor, LazyTensor):
        raise ValueError("parameter")
    return tensor


def _bytes(text: Any, codec: Any) -> bytes:
    """_codecs.encode as protocol 2 uses it: bytes, written as text."""
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError("bytes")
    return text.encode("latin1")


def _size(shape: Any = ()) -> tuple:
    return tuple(shape)


NAMES: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): Table,
}


def load_pickle_bytes(data: bytes, what: str) -> Any:
    """`load_pickle` of bytes."""
    return load_pickle(io.BytesIO(data), what)
