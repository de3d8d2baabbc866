"""Write GGUF files, tensor by tensor, so that a file may be larger than memory.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3. `gguf.py` reads it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from ldmref.io.atomic import atomic_write, check_writable
from ldmref.io.quantized.ggml import GGML_TYPES, WRITABLE, write_ggml
from ldmref.io.tensors.gguf import ALIGNMENT, ARRAY, STRING

VERSION = 3
UINT32 = 4
INT32 = 5

MetadataValue: TypeAlias = str | int | Sequence[int]


class GGUFSource(NamedTuple):
    """A tensor to write: its type, its shape in the file, and a function that returns its numbers.

    The last axis must be whole blocks of the type.
    """

    kind: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """The number of bytes in the file."""
        kind = GGML_TYPES[WRITABLE[self.kind]]
        return math.prod(self.shape) // kind.values * kind.nbytes


def write_gguf(
    path: Path,
    tensors: Mapping[str, GGUFSource],
    metadata: Mapping[str, MetadataValue],
    *,
    overwrite: bool = False,
) -> None:
    """Write a GGUF file; it appears complete or not at all.

    Args:
        path: The file.
        tensors: The tensors by name.
        metadata: Texts, unsigned integers of 32 bits, and lists of signed ones.
        overwrite: Whether a file that exists is replaced.

    Raises:
        OutputError: The file exists (unless `overwrite`), or cannot be written.
    """
    check_writable(path, overwrite)
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(make_header(tensors, metadata))
        for tensor in tensors.values():
            kind = GGML_TYPES[WRITABLE[tensor.kind]]
            raw = write_ggml(tensor.read().reshape(-1), kind)
            assert raw.size == tensor.nbytes
            file.write(raw.data)
            file.write(bytes(-tensor.nbytes % ALIGNMENT))


def make_header(tensors: Mapping[str, GGUFSource], metadata: Mapping[str, MetadataValue]) -> bytes:
    """Return what a file has before the tensors' bytes, padded to their alignment."""
    parts = [struct.pack("<4sIQQ", b"GGUF", VERSION, len(tensors), len(metadata))]
    parts += [_text(name) + _value(value) for name, value in metadata.items()]
    begin = 0
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]  # ggml writes the last axis first
        parts.append(_text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        parts.append(struct.pack("<IQ", WRITABLE[tensor.kind], begin))
        begin += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    header = b"".join(parts)
    return header + bytes(-len(header) % ALIGNMENT)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: MetadataValue) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, INT32, len(value), *value)
