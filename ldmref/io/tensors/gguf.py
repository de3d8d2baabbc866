"""GGUF files, memory-mapped: nothing is read before it is used.

A header of metadata and tensors' entries is followed by the tensors' bytes, in blocks of ggml's
types (`ldmref.io.quantized.ggml`). The header is parsed here, because the reader of the
package `gguf` trusts the sizes in a file, and needs four packages.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.quantized.ggml import GGML_TYPES, UNREAD, GGMLType, read_ggml
from ldmref.io.tensors.model_file import ModelFile, is_possible_shape
from ldmref.support.files import make_read_error, open_file, shown
from ldmref.support.memmap import hash_mapped, release_pages, require_complete

CODE = "E-GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, unless general.alignment says otherwise
MAX_AXES = 4
MAX_NAME = 2**16  # bytes of a name
MAX_TEXT = 2**12  # bytes of a value of the metadata that is kept
MAX_ITEMS = 16  # of an array of the metadata that is kept
MAX_HEADER = 2**27  # bytes; the vocabulary of a language model takes about 2^24
MAX_COUNTED = 2**20  # fields, texts of arrays and tensors that are read one by one
SMALLEST = {"fields": 13, "texts": 8, "tensors": 24}  # bytes that one takes at least
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # of a tensor whose rows were joined to whole blocks
STRING = 8
ARRAY = 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


class GGUFTensor(NamedTuple):
    """The header's entry of a tensor: its type, shape, and place in the file."""

    type: GGMLType
    shape: tuple[int, ...]
    begin: int
    nbytes: int


class GGUFFile(ModelFile):
    """The tensors of a GGUF file by name. ggml writes the last axis first: shapes are reversed.

    Quantised tensors and bfloat16 become float32, the others keep their type.

    Args:
        path: A GGUF file.
        code: The code of the errors.

    Attributes:
        path: The file.
        kinds: The type of each tensor ("F32", "BF16", "Q8_0").
        shapes: Shapes: those of `comfy.gguf.orig_shape`, if the file has them.
        metadata: The metadata of the header, without long texts and arrays.
        identity: Device, inode, size and time of change, which differ between contents.
        squeezed: True: ggml counts no leading axes of length 1, and writers leave out others.

    Raises:
        InputError: It cannot be read.
        CorruptModelError: It is damaged or not supported.
        BackendUnavailable: Reading a tensor needs the package `gguf`.
    """

    squeezed = True

    def __init__(self, path: Path, code: str = CODE):
        self.path = path
        with open_file(path, code) as file:
            status = os.fstat(file.fileno())
            self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            try:
                self._data = np.memmap(file, np.uint8, mode="r")
            except ValueError as error:
                raise CorruptModelError(f"{shown(path)} is empty", code=code) from error
            except OSError as error:
                raise make_read_error(path, error, code) from error
        header = _Header(path, self._data, code)
        self._tensors = header.read()
        self.metadata = header.metadata
        self.kinds = {name: tensor.type.name for name, tensor in self._tensors.items()}
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        require_complete(self._data)
        mapped = self._data[tensor.begin : tensor.begin + tensor.nbytes]
        raw = np.array(mapped)
        release_pages(mapped)
        label = f"{shown(self.path)}: {name[:80]}"
        return read_ggml(raw, tensor.type, label).reshape(tensor.shape)

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        return hash_mapped(self._data)


class _Header:
    """The header of a file, read from the beginning; every size is checked before it is used."""

    def __init__(self, path: Path, data: np.ndarray, code: str):
        self.metadata: dict[str, Any] = {}
        self._path = path
        self._code = code
        self._data = data.view(np.ndarray)  # whose slices take less time
        self._end = min(len(data), MAX_HEADER)
        self._position = 0
        self._counted = 0

    def read(self) -> dict[str, GGUFTensor]:
        """Return the entries of all tensors, and read the metadata."""
        magic, version = self._unpack("<4sI")
        if magic != b"GGUF":
            raise self._damaged("it does not begin with GGUF")
        if version not in VERSIONS:
            raise self._damaged(f"version {version:,} is not 2 or 3 (little-endian)")
        tensor_count, field_count = self._unpack("<QQ")
        seen: set[str] = set()
        for _ in range(self._count(field_count, "fields")):
            key = self._new_name(seen)
            (kind,) = self._unpack("<I")
            value = self._value(kind)
            if value is not None:
                self.metadata[key] = value
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment {alignment!r} is not a power of two")
        names: set[str] = set()
        count = self._count(tensor_count, "tensors")
        entries = [self._entry(self._new_name(names)) for _ in range(count)]
        begin = -(-self._position // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for name, tensor in entries:
            tensors[name] = tensor._replace(begin=begin + tensor.begin)
            if tensor.begin % alignment:
                raise self._damaged(f"{name[:80]!r} is not aligned to {alignment} bytes")
        self._require_room(tensors)
        return {name: self._in_original_shape(name, x) for name, x in tensors.items()}

    def _require_room(self, tensors: Mapping[str, GGUFTensor]) -> None:
        """Refuse tensors that overlap or end after the file."""
        end = 0
        last = ""
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
            if tensor.begin < end:
                raise self._damaged(f"{last[:80]!r} and {name[:80]!r} overlap")
            last = name
            end = tensor.begin + tensor.nbytes
        missing = end - len(self._data)
        if missing > 0:
            raise self._damaged(f"{missing:,} bytes are missing at its end; is it truncated?")

    def _in_original_shape(self, name: str, tensor: GGUFTensor) -> GGUFTensor:
        """Return an entry with the shape that the tensor had before its rows were joined."""
        shape = self.metadata.get(ORIGINAL_SHAPE + name)
        if shape is None:
            return tensor
        good = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not good or not is_possible_shape(shape) or math.prod(shape) != math.prod(tensor.shape):
            text = f"{ORIGINAL_SHAPE[:-1]} of {name[:80]!r} does not fit its {tensor.shape}"
            raise self._damaged(text)
        return tensor._replace(shape=shape)

    def _count(self, count: int, what: str) -> int:
        """Return a number of things that follow, if the rest of the header has room for them."""
        room = (self._end - self._position) // SMALLEST[what]
        self._counted += count
        if count > room or self._counted > MAX_COUNTED:
            limit = min(room, MAX_COUNTED)
            problem = f"{count:,} {what} cannot follow, at most {limit:,}; is it truncated?"
            raise self._damaged(problem)
        return count

    def _new_name(self, seen: set[str]) -> str:
        """Return a name that was not there before."""
        name = self._string()
        if name in seen:
            raise self._damaged(f"it contains {name[:80]!r} twice")
        seen.add(name)
        return name

    def _entry(self, name: str) -> tuple[str, GGUFTensor]:
        (axes,) = self._unpack("<I")
        if axes > MAX_AXES:
            raise self._damaged(f"{name[:80]!r} has {axes:,} axes; at most {MAX_AXES} are allowed")
        sizes = self._unpack(f"<{axes}Q")
        number, offset = self._unpack("<IQ")
        kind = GGML_TYPES.get(number)
        if number in UNREAD:
            raise InputError(
                f"{shown(self._path)} holds {name[:80]!r} as {UNREAD[number]}, which is not "
                "supported",
                code=self._code,
                hint="take the file in another type, such as Q8_0, Q4_K or BF16",
            )
        if kind is None:
            raise self._damaged(f"{name[:80]!r} has the unknown type {number}")
        if not is_possible_shape(sizes) or offset >= 2**63:
            raise self._damaged(f"the size of {name[:80]!r} is too large")
        row = sizes[0] if sizes else 1
        if row % kind.values:
            raise self._damaged(f"rows of {name[:80]!r} are not whole blocks of {kind.name}")
        nbytes = math.prod(sizes) // kind.values * kind.nbytes
        return name, GGUFTensor(kind, tuple(reversed(sizes)), offset, nbytes)

    def _value(self, kind: int) -> Any:
        """Return a value of the metadata; None for a long text or array, which is skipped."""
        if kind in SCALARS:
            return self._unpack(f"<{SCALARS[kind]}")[0]
        if kind == STRING:
            (size,) = self._unpack("<Q")
            if size <= MAX_TEXT:
                return self._take(size).decode(errors="replace")
            return self._skip(size)
        if kind != ARRAY:
            raise self._damaged(f"its metadata has a value of type {kind}")
        item, count = self._unpack("<IQ")
        if item in SCALARS:
            if count <= MAX_ITEMS:
                return self._unpack(f"<{count}{SCALARS[item]}")
            return self._skip(count * struct.calcsize(f"<{SCALARS[item]}"))
        if item != STRING:
            raise self._damaged(f"its metadata has a value of type {item} in an array")
        for _ in range(self._count(count, "texts")):
            (size,) = self._unpack("<Q")
            self._skip(size)
        return None

    def _string(self) -> str:
        (size,) = self._unpack("<Q")
        if size > MAX_NAME:
            raise self._damaged(f"a name has {size:,} bytes")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise self._damaged("a name is not UTF-8") from error

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _take(self, size: int) -> bytes:
        begin = self._position
        self._skip(size)
        return self._data[begin : self._position].tobytes()

    def _skip(self, size: int) -> None:
        end = self._position + size
        if end > self._end:
            long = f"is longer than {MAX_HEADER:,} bytes"
            short = "ends in the middle; is it truncated?"
            raise self._damaged(f"its header {long if end <= len(self._data) else short}")
        self._position = end

    def _damaged(self, problem: str) -> CorruptModelError:
        message = f"{shown(self._path)} is a damaged GGUF file: {problem}"
        hint = "take the file from its source again"
        return CorruptModelError(message, code=self._code, hint=hint)
