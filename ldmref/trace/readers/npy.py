"""Arrays of NumPy in folders (`.npy`) and archives (`.npz`); pickled ones are refused.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from ldmref.errors import CorruptModelError, InputError, UnsafeFileError
from ldmref.support.bfloat16 import decode_bfloat16
from ldmref.support.files import open_file, shown
from ldmref.support.lazy_mapping import LazyMapping

CODE = "E-TRACE-FILE"
MAX_FILES = 1_000_000
MAX_UNPACKED = 2**32  # bytes of one compressed array
BFLOAT16 = np.dtype("V2")  # the type that ml_dtypes, and so JAX, gives bfloat16 in a file
UNREADABLE = (
    ValueError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


class ArrayHeader(NamedTuple):
    """The header of an array, and the position of its values."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int

    @property
    def nbytes(self) -> int:
        """The size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def kind(self) -> str:
        """The type "BF16", or "" if NumPy has the type."""
        return "BF16" if self.dtype == BFLOAT16 else ""


class NpyFolder(LazyMapping[np.ndarray]):
    """The `.npy` files below a folder; their names are the paths, with `/` or `__` between parts.

    Attributes:
        paths: The file of each array.
        kinds: "BF16" for arrays of bfloat16, which are read as float32.

    Raises:
        InputError: A file cannot be read.
        CorruptModelError: A file is damaged.
        UnsafeFileError: A file holds Python objects.
    """

    def __init__(self, folder: Path):
        self.paths: dict[str, Path] = {}
        for path in sorted(_files_below(folder)):
            parts = path.relative_to(folder).with_suffix("").as_posix()
            self.paths[parts.replace("__", "/")] = path
        self._headers = {name: _open_header(path) for name, path in self.paths.items()}
        self.kinds = {name: header.kind for name, header in self._headers.items() if header.kind}

    def __getitem__(self, name: str) -> np.ndarray:
        path = self.paths[name]
        header = self._headers[name]
        with open_file(path, CODE) as file:
            file.seek(header.begin)
            return _to_array(file.read(header.nbytes), header, shown(path))

    @property
    def names(self) -> Collection[str]:
        """The names of all arrays."""
        return self.paths


class NpzFile(LazyMapping[np.ndarray]):
    """The arrays of a `.npz` file, unpacked when they are used.

    Attributes:
        kinds: "BF16" for arrays of bfloat16, which are read as float32.

    Raises:
        CorruptModelError: The archive is damaged, or unpacks to more than 4 GiB per array.
        UnsafeFileError: It is a checkpoint of PyTorch, or an array holds Python objects.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = open_file(path, CODE)
        try:
            self._archive = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise _damaged(path, str(error)) from error
        members = self._archive.infolist()
        self._require_honest(members)
        self._members = {
            member.filename.removesuffix(".npy"): member
            for member in members
            if member.filename.endswith(".npy")
        }
        if not self._members:
            message = f"{shown(path)} is a zip archive without arrays of NumPy"
            pickled = any(m.filename.endswith((".pkl", "/data.pkl")) for m in members)
            if pickled:
                message = f"{shown(path)} is a checkpoint of PyTorch, which could run code"
                hint = "save the tensors as safetensors"
                raise UnsafeFileError(message, code="E-PICKLE", hint=hint)
            raise CorruptModelError(message, code=CODE)
        self._headers: dict[str, ArrayHeader] = {}
        for name, member in self._members.items():
            with self._open(member) as file:
                self._headers[name] = _read_header(file, f"{shown(path)}: {name[:80]}")
            self._require_size(name, member)
        self.kinds = {name: header.kind for name, header in self._headers.items() if header.kind}

    def __getitem__(self, name: str) -> np.ndarray:
        header = self._headers[name]
        label = f"{shown(self._path)}: {name[:80]}"
        with self._open(self._members[name]) as file:
            try:
                file.read(header.begin)
                data = file.read(header.nbytes)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise CorruptModelError(f"{label} is damaged: {error}", code=CODE) from error
        return _to_array(data, header, label)

    @property
    def names(self) -> Collection[str]:
        """The names of all arrays."""
        return self._members

    def _open(self, member: zipfile.ZipInfo) -> IO[bytes]:
        try:
            return self._archive.open(member)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise _damaged(self._path, str(error)) from error

    def _require_honest(self, members: list[zipfile.ZipInfo]) -> None:
        """Refuse archives with too many members, or whose members overlap."""
        size = os.fstat(self._file.fileno()).st_size
        if len(members) > MAX_FILES:
            raise _damaged(self._path, f"it has more than {MAX_FILES:,} members")
        if sum(member.compress_size for member in members) > size:
            raise _damaged(self._path, "its members overlap")
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise _damaged(self._path, "two of its members have the same name")

    def _require_size(self, name: str, member: zipfile.ZipInfo) -> None:
        header = self._headers[name]
        expected = header.begin + header.nbytes
        if member.file_size != expected:
            problem = f"{name[:80]!r} has {member.file_size:,} bytes, its shape needs {expected:,}"
            raise _damaged(self._path, problem)
        if member.compress_type != zipfile.ZIP_STORED and expected > MAX_UNPACKED:
            problem = f"{name[:80]!r} unpacks to more than {MAX_UNPACKED:,} bytes"
            raise _damaged(self._path, problem)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the .npy files below a folder, without following links to folders."""
    count = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in files:
            if name.endswith(".npy"):
                count += 1
                yield Path(place, name)
        if count > MAX_FILES:
            message = f"{shown(folder)} holds more than {MAX_FILES:,} arrays"
            raise InputError(message, code=CODE)


def _open_header(path: Path) -> ArrayHeader:
    with open_file(path, CODE) as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, shown(path))
    if header.begin + header.nbytes != size:
        problem = f"it has {size:,} bytes, its shape needs {header.begin + header.nbytes:,}"
        raise _damaged(path, problem)
    return header


def _read_header(file: IO[bytes], label: str) -> ArrayHeader:
    """Read the header of an array; the limits on its length are NumPy's."""
    try:
        version = npy_format.read_magic(file)
        read = READERS.get(version)
        if read is None:
            raise ValueError(f"version {version} is not supported")
        shape, fortran, dtype = read(file)
    except UNREADABLE as error:
        problem = " ".join(str(error).split())[:200]
        raise CorruptModelError(f"{label} is not an array: {problem}", code=CODE) from error
    if dtype.hasobject:
        raise UnsafeFileError(
            f"{label} holds pickled Python objects, which could run code",
            code="E-PICKLE",
            hint="save an array of numbers",
        )
    if dtype.kind not in "biuf" and dtype != BFLOAT16:
        raise CorruptModelError(f"{label} holds {dtype}, not real numbers", code=CODE)
    if any(size < 0 for size in shape) or len(shape) > 32:
        raise CorruptModelError(f"{label} has the shape {shape}"[:200], code=CODE)
    return ArrayHeader(shape, fortran, dtype, file.tell())


def _to_array(data: bytes, header: ArrayHeader, label: str) -> np.ndarray:
    if len(data) != header.nbytes:
        raise CorruptModelError(f"{label} ends in the middle; is it truncated?", code=CODE)
    dtype = np.dtype("<u2") if header.kind else header.dtype
    array = np.frombuffer(data, dtype).reshape(header.shape, order="F" if header.fortran else "C")
    if header.kind:
        return decode_bfloat16(array)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _damaged(path: Path, problem: str) -> CorruptModelError:
    return CorruptModelError(f"{shown(path)} is damaged: {problem}"[:300], code=CODE)
