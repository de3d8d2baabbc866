"""A pickle reader that only knows tensors, plain containers, numbers and strings.

A pickle is a program: it names functions and calls them. Here every name is looked up in a fixed
table, nothing is ever imported, and a name outside the table is an error.
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

    def __setstate__(self, state: Any) -> None:
        pass


class Name:
    """The replacement of an allowed global, which can only be called."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise UnsafeFileError("the pickle changes a function", code="E-PICKLE")

    def __setstate__(self, state: Any) -> NoReturn:
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

    def __call__(self, *args: Any) -> NoReturn:
        raise ValueError("storage")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> LazyTensor:
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


def _parameter(tensor: Any, *_: Any) -> LazyTensor:
    """Unwrap a tensor with a flag; torch._utils._rebuild_parameter."""
    if not isinstance(tensor, LazyTensor):
        raise ValueError("parameter")
    return tensor


def _bytes(text: Any, codec: Any) -> bytes:
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
