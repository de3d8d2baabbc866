"""Safetensors files, memory-mapped: nothing is read before it is used.

The format is eight bytes of header length, a JSON header, and the tensors' bytes. It is parsed here
because the `safetensors` library does not support bfloat16 in NumPy, copies every tensor, and would
be one more dependency.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError, UnsafeFileError
from ldmref.io.quantized.float8 import decode_e4m3fn, decode_e5m2, decode_e8m0
from ldmref.io.tensors.model_file import ModelFile, is_possible_shape
from ldmref.support.bfloat16 import decode_bfloat16
from ldmref.support.file_formats import identify_format
from ldmref.support.files import (
    MAX_TABLE_VALUES,
    check_input_path,
    make_read_error,
    open_file,
    parse_json,
    shown,
)
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.support.memmap import hash_mapped, require_complete

DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype("u1"), "F8_E5M2": np.dtype("u1"), "F8_E8M0": np.dtype("u1"),
}  # fmt: skip
EXPANDED = {  # types that NumPy lacks -> what makes float32 of their codes
    "BF16": decode_bfloat16,
    "F8_E4M3": decode_e4m3fn,
    "F8_E5M2": decode_e5m2,
    "F8_E8M0": decode_e8m0,
}
MAX_HEADER = 100_000_000
MAX_AXES = 32
CODES = {"a Git LFS pointer": "E-LFS", "a GGUF file": "E-GGUF"}


class HeaderEntry(NamedTuple):
    """The header's entry of a tensor; its bytes count from the end of the header."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile(ModelFile):
    """The tensors of one file by name.

    A read-only mapping from names to arrays, each read when it is used. Floats keep their type,
    except that bfloat16 and those of eight bits become float32. The attributes are known without
    reading the tensors.

    Args:
        path: A safetensors file.

    Attributes:
        path: The file.
        kinds: Data types as safetensors names them.
        shapes: Shapes.
        offsets: The first byte of each tensor in the file.
        metadata: The metadata of the header.
        identity: Device, inode, size and time of change, which differ between contents.

    Raises:
        UnsafeFileError: The file is a pickle or a zip.
        InputError: It cannot be read.
        CorruptModelError: It is not a safetensors file, or is damaged.

    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> from ldmref.io import TensorFile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> save_file({"weight": np.ones((2, 3), np.float16)}, path)
    >>> tensors = TensorFile(path)
    >>> tensors.shapes["weight"], tensors.kinds["weight"], tensors["weight"].dtype.name
    ((2, 3), 'F16', 'float16')
    """

    def __init__(self, path: str | Path):
        self.path = path = check_input_path(path)
        with open_file(path) as file:
            start = file.read(64)
            status = os.fstat(file.fileno())
            self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            _refuse_other_formats(path, start)
            if len(start) < 10:
                raise _damaged(path, "no header")
            try:
                self._data = np.memmap(file, np.uint8, mode="r")
            except ValueError as error:  # its size by stat is 0, as in /proc
                raise _damaged(path, "it has no size, like the files of /proc") from error
            except OSError as error:
                raise make_read_error(path, error) from error
        self._read_header()

    def _read_header(self) -> None:
        path = self.path
        header, begin = _header(path, self._data)
        self.metadata = _metadata(path, header.pop("__metadata__", None))
        entries = {name: _entry(path, name, entry) for name, entry in header.items()}
        _require_cover(path, entries, len(self._data) - begin)
        self.kinds = {name: entry.kind for name, entry in entries.items()}
        self.shapes = {name: entry.shape for name, entry in entries.items()}
        self.offsets = {name: begin + entry.begin for name, entry in entries.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        expand = EXPANDED.get(self.kinds[name])
        codes = self.codes(name)
        return codes if expand is None else expand(codes)

    def codes(self, name: str) -> np.ndarray:
        """Return a tensor as it is stored: bfloat16 and floats of eight bits as integers.

        Args:
            name: The name of the tensor.

        Returns:
            The shape of the tensor.
        """
        kind = self.kinds[name]
        shape = self.shapes[name]
        begin = self.offsets[name]
        require_complete(self._data)
        dtype = DTYPES[kind]
        raw = self._data[begin : begin + math.prod(shape) * dtype.itemsize]
        if begin % dtype.itemsize:  # not aligned
            raw = raw.copy()
        return raw.view(dtype).reshape(shape)

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        return hash_mapped(self._data)


class TensorBytes(TensorFile):
    """The tensors of a file's content, as those of `TensorFile`.

    Args:
        content: The bytes of a safetensors file.
        name: The file, for messages.

    Raises:
        CorruptModelError: It is not a safetensors file, or is damaged.
    """

    def __init__(self, content: bytes, name: str):
        self.path = Path(name)
        self._data = np.frombuffer(content, np.uint8)
        if len(content) < 10:
            raise _damaged(self.path, "no header")
        self._read_header()


class TensorView(LazyMapping[np.ndarray]):
    """The tensors of several files, renamed; nothing is read before it is used.

    Attributes:
        shapes: The shape of each tensor.
        files: The files that the tensors come from.
    """

    def __init__(
        self, files: Sequence[ModelFile], rename: Callable[[str], str] = str, prefix: str = ""
    ):
        """Rename the tensors; if any new name begins with `prefix`, keep only those, without it."""
        stored = {rename(name): (file, name) for file in files for name in file}
        if any(name.startswith(prefix) for name in stored):
            stored = {n.removeprefix(prefix): s for n, s in stored.items() if n.startswith(prefix)}
        shapes = {id(file): file.shapes for file in files}
        self.files = tuple(files)
        self._stored = stored
        self.shapes = {name: shapes[id(file)][old] for name, (file, old) in stored.items()}

    def sha256(self) -> str:
        """Return the SHA-256 of the files."""
        return hash_files(self.files)

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._stored[name]
        return file[stored]

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._stored


def hash_files(files: Sequence[ModelFile]) -> str:
    """Return the SHA-256 of one file; for several files, of their joined hexadecimal digests."""
    digests = [file.sha256() for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _refuse_other_formats(path: Path, start: bytes) -> None:
    if start[8:9] == b"{":  # a header follows its length, whose bytes may look like anything
        return
    name = shown(path)
    if start[:1] == b"\x80" or (start[:2] == b"PK" and _is_torch_zip(path)):
        raise UnsafeFileError(
            f"{name} is a pickle, not safetensors; loading it could run code",
            code="E-PICKLE",
            hint=f"make it safe first: ldmref convert {name} {path.stem[:80]}-safe.safetensors",
        )
    known = identify_format(start)
    if known is not None:
        what, hint = known
        raise CorruptModelError(
            f"{name} is {what}, not a {_expected(path)} file",
            code=CODES.get(what, "E-SAFETENSORS"),
            hint=hint or f"take the model's {_expected(path)} file",
        )


def _expected(path: Path) -> str:
    """Return the format that the ending of a name promises."""
    return "GGUF" if path.suffix.lower() == ".gguf" else "safetensors"


def _is_torch_zip(path: Path) -> bool:
    """Return whether a zip archive holds a pickle or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return True


def _damaged(path: Path, why: str, hint: str = "") -> CorruptModelError:
    message = f"{shown(path)} is damaged or not a safetensors file: {why}"
    return CorruptModelError(message, code="E-SAFETENSORS", hint=hint)


def _header(path: Path, data: np.ndarray) -> tuple[dict[str, Any], int]:
    """Return the JSON header and the offset of the tensors."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 2 <= length <= min(len(data) - 8, MAX_HEADER):
        limit = f"at most {min(len(data) - 8, MAX_HEADER):,}"
        raise _damaged(path, f"its header would have {length:,} bytes, {limit} can be")
    text = data[8 : 8 + length].tobytes()
    if text.endswith(b"\0"):
        hint = "pad it with spaces: load and save the file with the safetensors library it is from"
        raise _damaged(path, "its header is padded with NUL instead of spaces", hint)
    try:
        header = parse_json(text.decode("utf-8"), "the header", strict=True, most=MAX_TABLE_VALUES)
        if not isinstance(header, dict):
            raise ValueError("the header is not an object")
    except (ValueError, CorruptModelError) as error:
        raise _damaged(path, str(error)[:200]) from error
    return header, 8 + length


def _metadata(path: Path, metadata: object) -> dict[str, Any]:
    values = {} if metadata is None else metadata
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise _damaged(path, "__metadata__ is not a table of texts")
    return values


def _entry(path: Path, name: str, entry: object) -> HeaderEntry:
    """Check and return the header's entry of a tensor."""
    fields = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise _damaged(path, f"the header's entry for {name[:80]!r} is wrong")
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape + offsets):
        raise _damaged(path, f"the header's entry for {name[:80]!r} is wrong")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise CorruptModelError(
            f"{shown(path)} holds {name[:80]!r} as {str(kind)[:20]}, which is not supported",
            code="E-SAFETENSORS",
            hint=f"supported types: {', '.join(DTYPES)}",
        )
    entry = HeaderEntry(kind, tuple(shape), *offsets)
    if len(shape) > MAX_AXES or not is_possible_shape(entry.shape):
        raise _damaged(path, f"the shape of {name[:80]!r} is too large")
    if entry.end - entry.begin != math.prod(entry.shape) * DTYPES[kind].itemsize:
        raise _damaged(path, f"the size of {name[:80]!r} does not match its shape")
    return entry


def _require_cover(path: Path, entries: Mapping[str, HeaderEntry], size: int) -> None:
    """Refuse tensors that overlap, leave holes, or do not end at the file's `size` bytes."""
    last = ""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            problem = "overlap" if entry.begin < end else "leave a hole"
            pair = f"{last[:80]!r} and {name[:80]!r}" if last else f"{name[:80]!r} and the header"
            raise _damaged(path, f"{pair} {problem}")
        last = name
        end = entry.end
    if end > size:
        raise _damaged(path, f"{end - size:,} bytes are missing at its end; is it truncated?")
    if end < size:
        raise _damaged(path, f"{size - end:,} bytes after the last tensor belong to none")
