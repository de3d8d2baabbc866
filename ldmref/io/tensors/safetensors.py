"""Safetensors files, memory-mapped: nothing is read before it is used.

The format is eight bytes of header length, a JSON header, and the tensors' bytes. It is parsed here
because the `safetensors` library has no bfloat16 for NumPy and copies every tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError, UnsafeFileError
from ldmref.mapped import forget

DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
MAX_HEADER = 100_000_000


class TensorFile(Mapping[str, np.ndarray]):
    """The tensors of one file by name. Floats keep their type, but bfloat16 becomes float32.

    Known without reading the tensors: `kinds` (data types as safetensors names them), `shapes`,
    `offsets` (first byte in the file) and `metadata`.

    Raises:
        UnsafeFileError: the file is a pickle or a zip.
        InputError: it cannot be read.
        CorruptModelError: it is not a safetensors file, or damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                magic = file.read(9)
            _refuse_other_formats(path, magic)
            if len(magic) < 9:
                raise _damaged(path, "no header")
            self._data = np.memmap(path, np.uint8, mode="r")
        except OSError as error:
            raise InputError(
                f"cannot read {path.name}: {error.strerror or error}", code="E-MODEL"
            ) from error
        header, start = _header(path, self._data)
        self.metadata: dict[str, str] = header.pop("__metadata__", {}) or {}
        size = len(self._data) - start
        entries = {name: _entry(path, name, entry, size) for name, entry in header.items()}
        self.kinds = {name: kind for name, (kind, _, _) in entries.items()}
        self.shapes = {name: shape for name, (_, shape, _) in entries.items()}
        self.offsets = {name: start + begin for name, (_, _, begin) in entries.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, begin = self.kinds[name], self.shapes[name], self.offsets[name]
        dtype = DTYPES[kind]
        raw = self._data[begin : begin + math.prod(shape) * dtype.itemsize]
        if begin % dtype.itemsize:  # not aligned
            raw = raw.copy()
        tensor = raw.view(dtype).reshape(shape)
        if kind == "BF16":
            return (tensor.astype(np.uint32) << 16).view(np.float32)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def sha256(self) -> str:
        """Digest of the whole file, in hexadecimal."""
        digest = hashlib.sha256()
        for begin in range(0, len(self._data), 1 << 24):
            part = self._data[begin : begin + (1 << 24)]
            digest.update(part.tobytes())
            forget(part)
        return digest.hexdigest()


class TensorView(Mapping[str, np.ndarray]):
    """The tensors of files, renamed; nothing is read before it is used.

    `shapes`: name -> shape; `files`: those that the tensors come from.
    """

    def __init__(
        self, files: Sequence[TensorFile], rename: Callable[[str], str] = str, prefix: str = ""
    ):
        """Rename the tensors; if any new name begins with `prefix`, keep only those, without it."""
        stored = {rename(name): (file, name) for file in files for name in file}
        if any(name.startswith(prefix) for name in stored):
            stored = {n.removeprefix(prefix): s for n, s in stored.items() if n.startswith(prefix)}
        shapes = {id(file): file.shapes for file in files}
        self.files, self._stored = tuple(files), stored
        self.shapes = {name: shapes[id(file)][old] for name, (file, old) in stored.items()}

    def sha256(self) -> str:
        """Digest of the files."""
        return digest_of(self.files)

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._stored[name]
        return file[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def digest_of(files: Sequence[TensorFile]) -> str:
    """SHA-256 of one file; of several, the SHA-256 of their hexadecimal digests joined."""
    digests = [file.sha256() for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _refuse_other_formats(path: Path, start: bytes) -> None:
    if start[8:] == b"{":  # a header follows its length, whose bytes may look like anything
        return
    if start[:1] == b"\x80" or start[:2] == b"PK":
        raise UnsafeFileError(
            f"{path.name} is a pickle, not safetensors; loading it could run code",
            code="E-PICKLE",
            hint=f"make it safe first: ldmref convert {path.name} {path.stem}-safe.safetensors",
        )
    if start[:4] == b"GGUF":
        raise CorruptModelError(
            f"{path.name} is a GGUF file, whose quantised tensors are not supported",
            code="E-GGUF",
            hint="take the model's safetensors file",
        )
    if start[:8] == b"version ":
        raise CorruptModelError(
            f"{path.name} is a Git LFS pointer, not the file", code="E-LFS", hint="run git lfs pull"
        )


def _damaged(path: Path, why: str) -> CorruptModelError:
    return CorruptModelError(
        f"{path.name} is damaged or not a safetensors file: {why}", code="E-SAFETENSORS"
    )


def _header(path: Path, data: np.ndarray) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset of the tensors."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or not 2 <= length <= min(len(data) - 8, MAX_HEADER):
        raise _damaged(path, "no header")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "the header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not an object")
    return header, 8 + length


def _entry(path: Path, name: str, entry: Any, size: int) -> tuple[str, tuple[int, ...], int]:
    """(type, shape, offset) of a tensor; `size`: bytes of all tensors in the file."""
    try:
        kind, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the header's entry for {name!r} is wrong") from error
    if kind not in DTYPES:
        raise CorruptModelError(
            f"{path.name} holds {name!r} as {kind}, which is not supported",
            code="E-SAFETENSORS",
            hint=f"supported types: {', '.join(DTYPES)}",
        )
    if min(shape, default=0) < 0 or end - begin != math.prod(shape) * DTYPES[kind].itemsize:
        raise _damaged(path, f"the size of {name!r} does not match its shape")
    if not 0 <= begin <= end <= size:
        raise _damaged(path, f"{name!r} lies beyond the end of the file; is it truncated?")
    return kind, shape, begin
