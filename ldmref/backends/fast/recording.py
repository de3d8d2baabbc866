"""Recordings: the calls of NumPy in one run of a network, to be repeated without the Python around.

A network is run once on `RecordedArray`s, arrays of NumPy that note every function applied to them,
with the memory it reads and writes. The notes are the whole computation for these shapes, because
nothing in a network depends on values: code that asks for one raises `NotRecordable`.

Repeating a recording calls the same functions on the same memory in the same order, so it gives the
same bits as the network. It saves the Python code between the calls, about a third of the time on
small images, and all allocations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ldmref.backends.fast import memory

ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector
LARGEST = 2**26  # bytes of all memory of a recording

Step: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]  # a function and its arguments

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


class Block:
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
        """Return whether an array lies in this memory."""
        return 0 <= x.ctypes.data - self.address < max(1, self.size)

    def view(self, x: np.ndarray, kind: type[np.ndarray] = np.ndarray) -> np.ndarray:
        """Return an array of `kind` on the same elements as `x`, which lies in this memory."""
        offset = x.ctypes.data - self.address
        return kind(x.shape, x.dtype, self.memory, offset, x.strides)


class Lease:
    """The right to use a block, shared by an array and its views: it ends with the last of them."""

    def __init__(self, recording: Recording, block: Block):
        self.recording = recording
        self.block = block

    def __del__(self) -> None:
        self.recording.free(self.block)


class RecordedArray(np.ndarray):
    """An array that adds the functions applied to it to a recording."""

    lease: Lease

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, RecordedArray):
            self.lease = parent.lease

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        recording = _find_recording([*inputs, *(out or ())])
        if ufunc.nout != 1 or method not in ("__call__", "reduce"):
            raise NotRecordable(f"{ufunc.__name__}.{method}")
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        operands = _plain(inputs)
        options = _plain(kwargs)
        if out is None:
            result = recording.keep(function(*operands, **options))
        else:
            (result,) = out
            function(*operands, out=_plain(result), **options)
        recording.add(function, operands, options | {"out": _plain(result)})
        return result

    def __array_function__(
        self, function: Callable, types: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        if function is np.reshape:
            return args[0].reshape(*args[1:], **kwargs)
        recording = _find_recording([*args, *kwargs.values()])
        operands = _plain(tuple(args))
        options = _plain(kwargs)
        result = function(*operands, **options)
        if function is np.copyto:
            recording.add(function, operands, options)
            return None
        if function is np.empty_like:
            return recording.allocate(result)
        if isinstance(result, tuple | list):
            return type(result)(_as_view(args, x) for x in result)
        view = _as_view(args, result, required=False)
        if view is not None:
            return view
        kept = recording.keep(result)
        if function in _WITH_OUT:
            recording.add(function, operands, options | {"out": _plain(kept)})
        else:
            recording.add(_call_into, (_plain(kept), function, operands, options), {})
        return kept

    def __getitem__(self, key: Any) -> Any:
        result = super().__getitem__(key)
        if not isinstance(result, RecordedArray) or not self.lease.block.holds(result):
            raise NotRecordable("an element, or an index that is an array")
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(k, np.ndarray | list) for k in keys):
            raise NotRecordable("an index that is an array")
        target = self[key if Ellipsis in keys else (*keys, Ellipsis)]
        if not _are_same(target, value):  # a[i] += b assigns the sum, which is already there
            np.copyto(target, value, casting="unsafe")

    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        """Return a view of another shape, or a recorded copy."""
        result = super().reshape(*shape, **kwargs)
        if self.lease.block.holds(result):
            return result
        if kwargs:
            raise NotRecordable("a copy in another order")
        copy = self.lease.recording.empty(result.shape, result.dtype)
        np.copyto(copy.reshape(self.shape), self)
        return copy

    def ravel(self, order: str = "C") -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a flat view."""
        result = super().ravel(order)  # pyright: ignore[reportArgumentType]
        if not self.lease.block.holds(result):
            raise NotRecordable("a flat copy")
        return result

    def astype(self, dtype: Any, copy: bool = True, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a recorded copy of another data type."""
        if not copy and self.dtype == dtype:
            return self
        result = self.lease.recording.keep(_plain(self).astype(dtype, **kwargs))
        np.copyto(result, self, casting="unsafe")
        return result


def _refuse(name: str) -> Callable[..., Any]:
    def method(self: RecordedArray, *_: Any, **__: Any) -> Any:
        raise NotRecordable(name)

    return method


for _name in _UNSEEN:
    if _name not in vars(RecordedArray):
        setattr(RecordedArray, _name, _refuse(_name))


def _find_recording(values: Iterable[Any]) -> Recording:
    """Return the recording of the first recorded array."""
    for x in values:
        if isinstance(x, RecordedArray):
            return x.lease.recording
        if isinstance(x, tuple | list) and any(isinstance(item, RecordedArray) for item in x):
            return _find_recording(x)
    raise NotRecordable("a function of something that contains recorded arrays")


def _plain(value: Any) -> Any:
    """Replace recorded arrays by plain ones on the same memory, which do not hold its lease."""
    if isinstance(value, RecordedArray):
        return value.lease.block.view(value)
    if isinstance(value, tuple | list):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _are_same(a: np.ndarray, b: Any) -> bool:
    return isinstance(b, RecordedArray) and (
        (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)
    )


def _as_view(args: Iterable[Any], result: Any, required: bool = True) -> RecordedArray | None:
    """Return a result as a recorded array if it is a view of one of the arguments."""
    for x in args:
        if isinstance(x, RecordedArray) and isinstance(result, np.ndarray):
            if x.lease.block.holds(result):
                view = x.lease.block.view(result, RecordedArray)
                view.lease = x.lease
                return view
    if required:
        raise NotRecordable("a function with several results")
    return None


def _call_into(target: np.ndarray, function: Callable, operands: Any, options: Any) -> None:
    np.copyto(target, function(*operands, **options))


class Recording:
    """The functions of one run with their arguments, and the memory that they use.

    Memory is used again as soon as the arrays on it are gone, as an allocator would do it.

    Args:
        function: Computes a list of arrays from a list of arrays.
        arrays: Its arguments, of which copies are kept.

    Attributes:
        result: The result of the recorded run.

    Raises:
        NotRecordable: The function depends on values, or takes more memory than `LARGEST`.
    """

    def __init__(self, function: Callable[[list[Any]], list[Any]], arrays: Sequence[np.ndarray]):
        self._steps: list[Step] = []
        self._free: list[Block] = []
        self._size = 0
        self._errors = np.geterr()
        inputs = [self.keep(x) for x in arrays]
        self._inputs: list[np.ndarray] = [_plain(x) for x in inputs]
        with memory.allocate_from(self):
            results = function(inputs)
        self._outputs: list[np.ndarray] = [_plain(x) for x in results]
        self.result = self._copy_outputs()

    def empty(self, shape: Sequence[int], dtype: Any) -> RecordedArray:
        """Return an uninitialised recorded array in C order."""
        return self.allocate(np.empty(shape, dtype))

    def allocate(self, like: np.ndarray) -> RecordedArray:
        """Return an uninitialised recorded array of the shape, strides and type of another."""
        if any(d > 1 and s <= 0 for d, s in zip(like.shape, like.strides, strict=True)):
            raise NotRecordable("an array whose elements share memory")
        extent = sum((d - 1) * s for d, s in zip(like.shape, like.strides, strict=True))
        block = self._take(extent + like.itemsize if like.size else 0)
        array = RecordedArray(like.shape, like.dtype, block.memory, 0, like.strides)
        array.lease = Lease(self, block)
        return array

    def free(self, block: Block) -> None:
        """Take back memory that no array uses any more."""
        self._free.append(block)

    def keep(self, x: Any) -> RecordedArray:
        """Return a recorded copy of an array."""
        if not isinstance(x, np.ndarray):
            raise NotRecordable("a single value")
        array = self.allocate(x)
        np.copyto(_plain(array), x)
        return array

    def add(self, function: Callable, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Add a call."""
        errors = np.geterr()
        if errors != self._errors:
            self._errors = errors
            self._steps.append((partial(np.seterr, **errors), ()))
        if isinstance(function, np.ufunc) and options.keys() == {"out"}:
            self._steps.append((function, (*args, options["out"])))
        else:
            self._steps.append((partial(function, **options) if options else function, args))

    def repeat(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the results for other arrays of the same shapes; for one thread at a time."""
        for target, x in zip(self._inputs, arrays, strict=True):
            np.copyto(target, x)
        with np.errstate():  # what the steps change is undone
            for function, args in self._steps:
                function(*args)
        return self._copy_outputs()

    def _copy_outputs(self) -> list[np.ndarray]:
        return [np.array(x, order="K") for x in self._outputs]

    def _take(self, size: int) -> Block:
        """Return a free block that is at most twice as large, or a new one."""
        for i in reversed(range(len(self._free))):  # the latest is still in the cache
            if size <= self._free[i].size <= 2 * size:
                return self._free.pop(i)
        self._size += size
        if self._size > LARGEST:
            raise NotRecordable(f"more than {LARGEST} bytes")
        return Block(size)
