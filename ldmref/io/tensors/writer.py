"""Write safetensors, tensor by tensor, so that a file may be larger than memory.

The `safetensors` library needs every tensor in memory at once, and from NumPy has no bfloat16.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldmref.errors import OutputError
from ldmref.io.atomic import whole_file
from ldmref.io.tensors.safetensors import DTYPES

KINDS = {dtype: kind for kind, dtype in DTYPES.items() if kind != "BF16"}


class Source(NamedTuple):
    """A tensor to write: its type in safetensors, its shape, and how to get its numbers."""

    kind: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def source(tensor: np.ndarray) -> Source:
    """An array as it is."""
    return Source(KINDS[tensor.dtype.newbyteorder("<")], tensor.shape, lambda: tensor)


def write_tensors(
    path: Path,
    tensors: Mapping[str, Source],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a safetensors file; it appears whole or not at all.

    The tensors lie in the order of falling size of their numbers, then of their names, so that each
    is aligned.

    Raises:
        OutputError: the file exists (unless `overwrite`), or cannot be written.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{str(path)!r} exists", code="E-EXISTS", hint="add --overwrite")
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name].kind].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        kind, shape, _ = tensors[name]
        begin, end = end, end + math.prod(shape) * DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path, overwrite=overwrite) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            kind, shape, read = tensors[name]
            numbers = np.asarray(read(), DTYPES[kind], order="C")
            assert numbers.shape == tuple(shape)
            file.write(numbers.data if numbers.size else b"")
