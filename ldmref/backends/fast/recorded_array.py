"""Arrays of NumPy that note the functions applied to them, and the memory behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector

# Methods of arrays, and functions, that compute something without being seen
_UNSEEN = (
    "__array__", "__bool__", "__complex__", "__float__", "__index__", "__int__", "argmax", "argmin",
    "argpartition", "argsort", "byteswap", "choose", "compress", "copy", "cumprod", "cumsum",
    "diagonal", "dot", "dump", "dumps", "fill", "flatten", "item", "nonzero", "partition", "put",
    "ravel", "repeat", "resize", "round", "searchsorted", "sort", "take", "tobytes", "tofile",
    "tolist", "trace",
)  # fmt: skip
_WITH_OUT = (np.concatenate, np.einsum, np.take)  # functions that can write into an array


class NotRecordable(Exception):
    """A network does what a recording cannot repeat, such as asking for a value."""


class Tape(Protocol):
    """The interface of a tape for recorded arrays (`tape.py`)."""

    def empty(self, shape: Sequence[int], dtype: Any) -> RecordedArray:
        """Return an uninitialised recorded array in C order."""
        ...

    def allocate(self, like: np.ndarray) -> RecordedArray:
        """Return an uninitialised recorded array of the shape, strides and type of another."""
        ...

    def keep(self, x: Any) -> RecordedArray:
        """Return a recorded copy of an array."""
        ...

    def add(self, function: Callable, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Add a call."""
        ...

    def free(self, slab: Slab) -> None:
        """Take back memory that no array uses any more."""
        ...


class Slab:
    """A piece of memory that arrays use, one after the other."""

    def __init__(self, size: int):
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        self.memory = memory[start : start + size]
        self.address = self.memory.ctypes.data

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.memory)

    def holds(self, x: np.ndarray) -> bool:
        """Return whether an array is in this memory."""
        return 0 <= x.ctypes.data - self.address < max(1, self.size)

    def view(self, x: np.ndarray) -> np.ndarray:
        """Return a plain array on the same elements as `x`, which is in this memory."""
        offset = x.ctypes.data - self.address
        return np.ndarray(x.shape, x.dtype, self.memory, offset, x.strides)


class Lease:
    """The right to use a slab, shared by an array and its views: it ends with the last of them."""

    def __init__(self, tape: Tape, slab: Slab):
        self.tape = tape
        self.slab = slab

    def __del__(self) -> None:
        self.tape.free(self.slab)


class RecordedArray(np.ndarray):
    """An array that adds the functions applied to it to a tape."""

    lease: Lease

    @classmethod
    def lend(cls, x: np.ndarray, lease: Lease) -> Self:
        """Return a recorded array on the same elements as `x`, which is in the leased memory."""
        offset = x.ctypes.data - lease.slab.address
        array = cls(x.shape, x.dtype, lease.slab.memory, offset, x.strides)
        array.lease = lease
        return array

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, RecordedArray):
            self.lease = parent.lease

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        tape = _find_tape([*inputs, *(out or ())])
        if ufunc.nout != 1 or method not in ("__call__", "reduce"):
            raise NotRecordable(f"{ufunc.__name__}.{method}")
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        operands = as_plain(inputs)
        options = as_plain(kwargs)
        if out is None:
            result = tape.keep(function(*operands, **options))
        else:
            (result,) = out
            function(*operands, out=as_plain(result), **options)
        tape.add(function, operands, options | {"out": as_plain(result)})
        return result

    def __array_function__(
        self, function: Callable, types: Any, args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        args = tuple(args)
        if function is np.reshape:
            return args[0].reshape(*args[1:], **kwargs)
        tape = _find_tape([*args, *kwargs.values()])
        operands = as_plain(args)
        options = as_plain(dict(kwargs))
        result = function(*operands, **options)
        if function is np.copyto:
            tape.add(function, operands, options)
            return None
        if function is np.empty_like:
            return tape.allocate(result)
        if isinstance(result, tuple | list):
            return type(result)(_as_view(args, x) for x in result)
        view = _as_view(args, result, required=False)
        if view is not None:
            return view
        kept = tape.keep(result)
        if function in _WITH_OUT:
            tape.add(function, operands, options | {"out": as_plain(kept)})
        else:
            tape.add(_call_into, (as_plain(kept), function, operands, options), {})
        return kept

    def __getitem__(self, key: Any) -> Any:
        result = super().__getitem__(key)
        if not isinstance(result, RecordedArray) or not self.lease.slab.holds(result):
            raise NotRecordable("an element, or an index that is an array")
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(k, np.ndarray | list) for k in keys):
            raise NotRecordable("an index that is an array")
        target = self[key if Ellipsis in keys else (*keys, Ellipsis)]
        if not _are_same(target, value):  # a[i] += b assigns the sum, which is already there
            np.copyto(target, value, casting="unsafe")

    def __repr__(self) -> str:
        return f"<RecordedArray, {self.shape}, {self.dtype}>"

    __str__ = __repr__

    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        """Return a view of another shape, or a recorded copy."""
        result = super().reshape(*shape, **kwargs)
        if self.lease.slab.holds(result):
            return result
        if kwargs:
            raise NotRecordable("a copy in another order")
        copy = self.lease.tape.empty(result.shape, result.dtype)
        np.copyto(copy.reshape(self.shape), self)
        return copy

    def ravel(self, order: str = "C") -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a flat view."""
        result = super().ravel(order)  # pyright: ignore[reportArgumentType]
        if not self.lease.slab.holds(result):
            raise NotRecordable("a flat copy")
        return result

    def astype(self, dtype: Any, copy: bool = True, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a recorded copy of another data type."""
        if not copy and self.dtype == dtype:
            return self
        result = self.lease.tape.keep(as_plain(self).astype(dtype, **kwargs))
        np.copyto(result, self, casting="unsafe")
        return result


def _refuse(name: str) -> Callable[..., Any]:
    def method(self: RecordedArray, *_: Any, **__: Any) -> Any:
        raise NotRecordable(name)

    return method


for _name in _UNSEEN:
    if _name not in vars(RecordedArray):
        setattr(RecordedArray, _name, _refuse(_name))


def _find_tape(values: Iterable[Any]) -> Tape:
    """Return the tape of the first recorded array."""
    for x in values:
        if isinstance(x, RecordedArray):
            return x.lease.tape
        if isinstance(x, tuple | list) and any(isinstance(item, RecordedArray) for item in x):
            return _find_tape(x)
    raise NotRecordable("a function of something that contains recorded arrays")


def as_plain(value: Any) -> Any:
    """Replace recorded arrays by plain ones on the same memory, which do not hold its lease."""
    if isinstance(value, RecordedArray):
        return value.lease.slab.view(value)
    if isinstance(value, tuple | list):
        return type(value)(as_plain(item) for item in value)
    if isinstance(value, dict):
        return {name: as_plain(item) for name, item in value.items()}
    return value


def _are_same(a: np.ndarray, b: Any) -> bool:
    return isinstance(b, RecordedArray) and (
        (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)
    )


def _as_view(args: Iterable[Any], result: Any, required: bool = True) -> RecordedArray | None:
    """Return a result as a recorded array if it is a view of one of the arguments."""
    for x in args:
        if isinstance(x, RecordedArray) and isinstance(result, np.ndarray):
            if x.lease.slab.holds(result):
                return RecordedArray.lend(result, x.lease)
    if required:
        raise NotRecordable("a function with several results")
    return None


def _call_into(target: np.ndarray, function: Callable, operands: Any, options: Any) -> None:
    np.copyto(target, function(*operands, **options))
