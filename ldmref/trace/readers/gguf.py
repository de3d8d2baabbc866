"""Tensors of GGUF files, memory-mapped: dumps of programs on ggml.

The header is parsed here, because the reader of the package `gguf` trusts the sizes in a file, and
needs four packages. F32, F16, BF16, integers, Q8_0 and Q4_0 are read without it; it expands all
other quantised types if it is installed.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import BackendUnavailable, CorruptModelError
from ldmref.support.files import make_read_error, open_file, shown
from ldmref.support.memmap import require_complete

CODE = "E-TRACE-FILE"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, unless general.alignment says otherwise
MAX_AXES = 4
MAX_NAME = 2**16  # bytes of a name
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
Q_VALUES = 32  # values of a block of Q8_0 and Q4_0


class GGUFType(NamedTuple):
    """A type of ggml: its name, and the values and bytes of a block."""

    name: str
    values: int
    nbytes: int


PLAIN = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    24: np.dtype("i1"),
    25: np.dtype("<i2"),
    26: np.dtype("<i4"),
    27: np.dtype("<i8"),
    28: np.dtype("<f8"),
}
TYPES = {
    0: GGUFType("F32", 1, 4),
    1: GGUFType("F16", 1, 2),
    2: GGUFType("Q4_0", Q_VALUES, 18),
    8: GGUFType("Q8_0", Q_VALUES, 34),
    24: GGUFType("I8", 1, 1),
    25: GGUFType("I16", 1, 2),
    26: GGUFType("I32", 1, 4),
    27: GGUFType("I64", 1, 8),
    28: GGUFType("F64", 1, 8),
    30: GGUFType("BF16", 1, 2),
}


class GGUFTensor(NamedTuple):
    """The header's entry of a tensor: number of its type, shape, and place in the file."""

    type_number: int
    type: GGUFType
    shape: tuple[int, ...]
    begin: int
    nbytes: int


class GGUFFile(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file by name. ggml writes the last axis first: shapes are reversed.

    Attributes:
        kinds: The type of each tensor ("F32", "BF16", "Q8_0"); quantised ones and bfloat16 are read
            as float32.

    Raises:
        InputError: It cannot be read.
        CorruptModelError: It is damaged or not supported.
        BackendUnavailable: Reading a tensor needs the package `gguf`.
    """

    def __init__(self, path: Path):
        self._path = path
        with open_file(path, CODE) as file:
            try:
                self._data = np.memmap(file, np.uint8, mode="r")
            except ValueError as error:
                raise CorruptModelError(f"{shown(path)} is empty", code=CODE) from error
            except OSError as error:
                raise make_read_error(path, error, CODE) from error
        self._tensors = _Header(path, self._data).read()
        self.kinds = {name: tensor.type.name for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        require_complete(self._data)
        raw = np.array(self._data[tensor.begin : tensor.begin + tensor.nbytes])
        return _expand(raw, tensor, f"{shown(self._path)}: {name[:80]}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class _Header:
    """The header of a file, read from the beginning; every size is checked before it is used."""

    def __init__(self, path: Path, data: np.ndarray):
        self._path = path
        self._data = data
        self._position = 0

    def read(self) -> dict[str, GGUFTensor]:
        """Return the entries of all tensors."""
        magic, version = self._unpack("<4sI")
        if magic != b"GGUF":
            raise self._damaged("it does not begin with GGUF")
        if version not in VERSIONS:
            raise self._damaged(f"version {version:,} is not 2 or 3 (little-endian)")
        tensor_count, field_count = self._unpack("<QQ")
        alignment = ALIGNMENT
        for _ in range(field_count):
            key = self._string()
            (kind,) = self._unpack("<I")
            value = self._value(kind)
            if key == "general.alignment":
                alignment = value
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment {alignment!r} is not a power of two")
        entries = [self._entry() for _ in range(tensor_count)]
        begin = -(-self._position // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for name, tensor in entries:
            if name in tensors:
                raise self._damaged(f"it contains {name[:80]!r} twice")
            tensors[name] = tensor._replace(begin=begin + tensor.begin)
            if tensor.begin % alignment:
                raise self._damaged(f"{name[:80]!r} is not aligned to {alignment} bytes")
        self._require_room(tensors)
        return tensors

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

    def _entry(self) -> tuple[str, GGUFTensor]:
        name = self._string()
        (axes,) = self._unpack("<I")
        if axes > MAX_AXES:
            raise self._damaged(f"{name[:80]!r} has {axes:,} axes; at most {MAX_AXES} are allowed")
        sizes = self._unpack(f"<{axes}Q")
        number, offset = self._unpack("<IQ")
        kind = TYPES.get(number) or self._other_type(number, name)
        values = math.prod(sizes)
        if values >= 2**63 or offset >= 2**63:
            raise self._damaged(f"the size of {name[:80]!r} is too large")
        row = sizes[0] if sizes else 1
        if row % kind.values:
            raise self._damaged(f"rows of {name[:80]!r} are not whole blocks of {kind.name}")
        nbytes = values // kind.values * kind.nbytes
        return name, GGUFTensor(number, kind, tuple(reversed(sizes)), offset, nbytes)

    def _other_type(self, number: int, name: str) -> GGUFType:
        quants = _import_gguf(f"{shown(self._path)}: {name[:80]!r} has the ggml type {number}")
        try:
            kind = quants.GGMLQuantizationType(number)
            values, nbytes = quants.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise self._damaged(f"{name[:80]!r} has the unknown type {number}") from error
        return GGUFType(kind.name, values, nbytes)

    def _value(self, kind: int, nested: bool = False) -> Any:
        """Return a value of the metadata; arrays are skipped."""
        if kind in SCALARS:
            return self._unpack(f"<{SCALARS[kind]}")[0]
        if kind == STRING:
            self._take(self._unpack("<Q")[0])
            return None
        if kind != ARRAY or nested:
            raise self._damaged(f"its metadata has a value of type {kind}")
        item, count = self._unpack("<IQ")
        if item in SCALARS:
            self._take(count * struct.calcsize(f"<{SCALARS[item]}"))
            return None
        for _ in range(count):
            self._value(item, nested=True)
        return None

    def _string(self) -> str:
        (size,) = self._unpack("<Q")
        if size > MAX_NAME:
            raise self._damaged(f"a name has {size:,} bytes")
        try:
            return bytes(self._take(size)).decode()
        except UnicodeDecodeError as error:
            raise self._damaged("a name is not UTF-8") from error

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, bytes(self._take(struct.calcsize(layout))))

    def _take(self, size: int) -> np.ndarray:
        end = self._position + size
        if end > len(self._data):
            raise self._damaged("its header ends in the middle; is it truncated?")
        part = self._data[self._position : end]
        self._position = end
        return part

    def _damaged(self, problem: str) -> CorruptModelError:
        return CorruptModelError(f"{shown(self._path)} is damaged: {problem}", code=CODE)


def _expand(raw: np.ndarray, tensor: GGUFTensor, label: str) -> np.ndarray:
    """Return the values of a tensor."""
    dtype = PLAIN.get(tensor.type_number)
    if dtype is not None:
        return raw.view(dtype).reshape(tensor.shape)
    if tensor.type.name == "BF16":
        bits = raw.view("<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(tensor.shape)
    if tensor.type.name in ("Q8_0", "Q4_0"):
        blocks = raw.reshape(-1, tensor.type.nbytes)
        scale = blocks[:, :2].view("<f2").astype(np.float32)
        quants = blocks[:, 2:]
        if tensor.type.name == "Q8_0":
            values = quants.view(np.int8).astype(np.float32)
        else:  # the low halves of the bytes are the first 16 values
            halves = np.concatenate([quants & 15, quants >> 4], axis=1)
            values = halves.astype(np.float32) - 8.0
        return (scale * values).reshape(tensor.shape)
    module = _import_gguf(f"{label} is stored as {tensor.type.name}")
    rows = raw.reshape(*tensor.shape[:-1], -1)
    values = module.dequantize(rows, module.GGMLQuantizationType(tensor.type_number))
    return values.reshape(tensor.shape)


def _import_gguf(reason: str) -> Any:
    try:
        from gguf import quants
    except ImportError as error:
        message = f"{reason}, which needs the package gguf"
        hint = "pip install ldmref[gguf]"
        raise BackendUnavailable(message, code="E-GGUF", hint=hint) from error
    return quants
