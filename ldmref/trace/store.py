"""The tensors of a call while it is recorded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from ldmref.io.tensors.safetensors import DTYPES
from ldmref.io.tensors.writer import KINDS, TensorSource, as_real
from ldmref.support.bfloat16 import bfloat16_bits

TensorContent = tuple[str, tuple[int, ...], bytes]  # type, shape and digest of a tensor


class HostCopies(Protocol):
    """What copies arrays to the host: a backend, or the tensors of PyTorch."""

    def to_numpy(self, x: Any) -> np.ndarray: ...


class TensorStore(Protocol):
    """The tensors of one call."""

    @property
    def sources(self) -> Mapping[str, TensorSource]:
        """Stored tensors by name."""
        ...

    @property
    def shared(self) -> Mapping[str, str]:
        """Names of tensors that are equal to another one -> the name of that one."""
        ...

    def add(self, ops: HostCopies, name: str, x: object) -> None:
        """Store an array of a backend, or a number, under a name."""
        ...

    def close(self) -> None:
        """Free the space that the tensors take until they are written."""
        ...


class SpooledStore:
    """Tensors in a temporary file in `folder`, so a call may be larger than memory.

    Tensors of equal bytes are stored once: the output of one layer is the input of the next. A
    later tensor of the same name replaces the earlier one.
    """

    def __init__(self, folder: Path):
        self._contents: dict[str, TensorContent] = {}
        self._stored: dict[TensorContent, TensorSource] = {}
        self._file = TemporaryFile(dir=folder, prefix=".trace-")
        self._end = 0

    @property
    def sources(self) -> dict[str, TensorSource]:
        """Stored tensors by the first name of their content."""
        return {name: self._stored[content] for content, name in self._first_names().items()}

    @property
    def shared(self) -> dict[str, str]:
        """Other names of the same contents -> the first name."""
        first = self._first_names()
        names = {name: first[content] for name, content in self._contents.items()}
        return {name: stored for name, stored in names.items() if name != stored}

    def _first_names(self) -> dict[TensorContent, str]:
        first: dict[TensorContent, str] = {}
        for name, content in self._contents.items():
            first.setdefault(content, name)
        return first

    def add(self, ops: HostCopies, name: str, x: object) -> None:
        """Store an array of a program, or a number, under a name."""
        kind, array = stored_form(ops, x)
        is_complex = is_complex_array(x)
        digest = hashlib.blake2b(array.data, digest_size=16).digest()
        content = f"complex {kind}" if is_complex else kind, array.shape, digest
        if content in self._stored:
            self._contents[name] = content
            return
        begin = self._end
        self._file.seek(begin)
        self._file.write(array.data)
        self._end += array.nbytes

        def read() -> np.ndarray:
            self._file.seek(begin)
            data = self._file.read(array_bytes)
            return np.frombuffer(data, DTYPES[kind]).reshape(shape)

        array_bytes = array.nbytes
        shape = array.shape
        self._stored[content] = TensorSource(kind, shape, read, is_complex)
        self._contents[name] = content

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()


class EmptyStore:
    """The store of a call that is not recorded."""

    sources: Mapping[str, TensorSource] = MappingProxyType({})
    shared: Mapping[str, str] = MappingProxyType({})

    def add(self, ops: HostCopies, name: str, x: object) -> None:
        """Store nothing."""

    def close(self) -> None:
        """Free nothing."""


def stored_form(ops: HostCopies, x: object) -> tuple[str, np.ndarray]:
    """Return the type of an array in safetensors, and its values in C order.

    bfloat16 becomes its bits, and complex numbers have a last axis of their two parts.
    """
    on_host = isinstance(x, np.ndarray | np.generic | float | int)
    array = np.asarray(x) if on_host else ops.to_numpy(x)
    bfloat16 = str(getattr(x, "dtype", "")).rpartition(".")[2] == "bfloat16"
    shape = array.shape
    array = np.ascontiguousarray(array).reshape(shape)  # numbers would become (1,)
    if bfloat16:
        return "BF16", bfloat16_bits(array)
    array = as_real(array)
    kind = KINDS[array.dtype.newbyteorder("<")]
    return kind, array.astype(DTYPES[kind], copy=False)


def is_complex_array(x: object) -> bool:
    """Return whether an array of any library holds complex numbers."""
    return isinstance(x, complex) or "complex" in str(getattr(x, "dtype", ""))


def count_bytes(source: TensorSource) -> int:
    """Return the size of a stored tensor in bytes."""
    return math.prod(source.shape) * DTYPES[source.kind].itemsize
