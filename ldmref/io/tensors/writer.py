"""Write safetensors, tensor by tensor, so a file may be larger than memory.

The `safetensors` library needs every tensor in memory at once and does not support bfloat16 in
NumPy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ldmref.io.atomic import atomic_write, check_writable
from ldmref.io.tensors.safetensors import DTYPES, EXPANDED

KINDS = {dtype: kind for kind, dtype in DTYPES.items() if kind not in EXPANDED}


class TensorSource(NamedTuple):
    """A tensor to write: its type in safetensors, its shape, and a function that reads it.

    Complex numbers have a last axis of their real and imaginary parts.
    """

    kind: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    is_complex: bool = False


def source(tensor: np.ndarray) -> TensorSource:
    """Return the source of an array in memory."""
    real = as_real(tensor)
    kind = KINDS[real.dtype.newbyteorder("<")]
    return TensorSource(kind, real.shape, lambda: real, real is not tensor)


def as_real(array: np.ndarray) -> np.ndarray:
    """Return complex numbers with a last axis of their two parts; other arrays as they are."""
    return np.stack([np.real(array), np.imag(array)], -1) if np.iscomplexobj(array) else array


def write_tensors(
    path: Path,
    tensors: Mapping[str, TensorSource],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a safetensors file; it appears complete or not at all.

    Raises:
        OutputError: The file exists (unless `overwrite`), or cannot be written.
    """
    check_writable(path, overwrite)
    with atomic_write(path, overwrite=overwrite) as file:
        write_to(file, tensors, metadata)


def write_to(
    file: BinaryIO,
    tensors: Mapping[str, TensorSource],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors in the format of safetensors.

    They are sorted by decreasing item size, then by name, which aligns each of them.
    """
    order = sort_tensors(tensors)
    file.write(make_header(tensors, metadata))
    for name in order:
        kind, shape, read, _ = tensors[name]
        array = np.asarray(read(), DTYPES[kind], order="C")
        assert array.shape == tuple(shape)
        file.write(array.data if array.size else b"")


def make_header(
    tensors: Mapping[str, TensorSource], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return what a file has before the tensors' bytes: the length of the header, and it."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sort_tensors(tensors):
        kind, shape, *_ = tensors[name]
        begin = end
        end = end + math.prod(shape) * DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def sort_tensors(tensors: Mapping[str, TensorSource]) -> list[str]:
    """Return the names of tensors in the order in which a file has them."""
    return sorted(tensors, key=lambda name: (-DTYPES[tensors[name].kind].itemsize, name))
