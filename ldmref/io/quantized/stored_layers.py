"""Quantised tensors of safetensors files: the tensors that hold one, their sizes, and its reading.

The formulas are in `float8.py`, `float4.py` and `normal_float.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.io.quantized.bits import NibbleOrder
from ldmref.io.quantized.float4 import NV_BLOCK, dequantize_nvfp4
from ldmref.io.quantized.float8 import (
    MX_BLOCK,
    count_in_tiles,
    decode_e4m3fn,
    decode_e5m2,
    decode_e8m0,
    read_tiles,
    scale_blocks,
    scale_rows,
)
from ldmref.io.quantized.normal_float import dequantize_absmax, dequantize_nf4
from ldmref.io.tensors.safetensors import DTYPES, TensorFile
from ldmref.support.files import parse_json, shown

CODE = "E-QUANTIZED"
FLOAT8 = {"float8_e4m3fn": decode_e4m3fn, "float8_e5m2": decode_e5m2}
MOST_AXES = 8
MAX_OFFSET = 1e30


class StoredLayer(NamedTuple):
    """A quantised tensor: its format, shape, the tensors that hold it, and how to read it."""

    kind: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    read: Callable[[], np.ndarray]


class FourBitState(NamedTuple):
    """Settings of a tensor of bitsandbytes: its shape, and the sizes of blocks."""

    shape: tuple[int, ...]
    block: int
    nested: int
    offset: float


def open_scaled(file: TensorFile, weight: str, scale: str, kind: str) -> StoredLayer:
    """Open a tensor of float8 or int8 with one scale, or one for each row.

    Raises:
        CorruptModelError: A tensor is missing, or of another type or size.
    """
    shape = _shape(file, weight)
    size = _size(file, scale)
    if file.kinds[weight] not in ("F8_E4M3", "F8_E5M2", "U8", "I8"):
        raise make_damage_error(file, f"{weight[:80]!r} is {file.kinds[weight]}, not {kind}")
    if size != 1 and (not shape or size != shape[0]):
        raise make_damage_error(file, f"{scale[:80]!r} has {size:,} scales for {shape}")

    def read() -> np.ndarray:
        codes = file.codes(weight)
        decode = FLOAT8.get(kind)
        values = codes.view(np.int8).astype(np.float32) if decode is None else decode(codes)
        return scale_rows(values, file[scale])

    return StoredLayer(kind, shape, (weight, scale), read)


def open_mxfp8(file: TensorFile, weight: str, scale: str) -> StoredLayer:
    """Open a tensor of e4m3fn with a scale in e8m0 for 32 weights of a row, in tiles.

    Raises:
        CorruptModelError: A tensor is missing, or of another type or size.
    """
    rows, columns = _matrix(file, weight)
    runs = columns // MX_BLOCK
    if columns % MX_BLOCK or _size(file, scale) != count_in_tiles(rows, runs):
        raise make_damage_error(file, f"{scale[:80]!r} does not fit {(rows, columns)} in MXFP8")
    if file.kinds[weight] not in ("F8_E4M3", "U8") or file.kinds[scale] not in ("F8_E8M0", "U8"):
        raise make_damage_error(file, f"{weight[:80]!r} is not MXFP8")

    def read() -> np.ndarray:
        powers = decode_e8m0(read_tiles(file.codes(scale), rows, runs))
        return scale_blocks(decode_e4m3fn(file.codes(weight)), powers)

    return StoredLayer("mxfp8", (rows, columns), (weight, scale), read)


def open_nvfp4(file: TensorFile, layer: str, order: NibbleOrder, tiled: bool) -> StoredLayer:
    """Open a tensor of NVFP4; `tiled`: whether its scales are in tiles.

    Raises:
        CorruptModelError: A tensor is missing, or of another type or size.
    """
    weight, scale, second = (f"{layer}.weight{end}" for end in ("", "_scale", "_scale_2"))
    rows, half = _matrix(file, weight)
    columns = 2 * half
    runs = columns // NV_BLOCK
    wanted = count_in_tiles(rows, runs) if tiled else rows * runs
    if columns % NV_BLOCK or _size(file, scale) != wanted or _size(file, second) != 1:
        raise make_damage_error(file, f"{scale[:80]!r} does not fit {(rows, columns)} in NVFP4")
    if file.kinds[weight] != "U8" or file.kinds[scale] not in ("F8_E4M3", "U8"):
        raise make_damage_error(file, f"{weight[:80]!r} is not NVFP4")

    def read() -> np.ndarray:
        codes = file.codes(scale)
        in_rows = read_tiles(codes, rows, runs) if tiled else codes.reshape(rows, runs)
        return dequantize_nvfp4(file[weight], in_rows, file[second], order)

    return StoredLayer("nvfp4", (rows, columns), (weight, scale, second), read)


def open_bitsandbytes(file: TensorFile, weight: str, state: str) -> StoredLayer:
    """Open a tensor of NF4 or FP4, which the tensor `state` describes.

    Raises:
        CorruptModelError: A tensor is missing, or of another type or size.
    """
    shape, block, nested, offset = _read_state(file, state)
    count = math.prod(shape)
    names = {end: f"{weight}.{end}" for end in ("absmax", "quant_map")}
    sizes = {"absmax": -(-count // block), "quant_map": 16}
    double = f"{weight}.nested_absmax" in file
    if double:
        names |= {end: f"{weight}.{end}" for end in ("nested_absmax", "nested_quant_map")}
        sizes |= {"nested_absmax": -(-sizes["absmax"] // nested), "nested_quant_map": 256}
    for end, name in names.items():
        if _size(file, name) != sizes[end]:
            raise make_damage_error(
                file, f"{name[:80]!r} has {_size(file, name):,} numbers, not {sizes[end]:,}"
            )
    packed_bytes = _size(file, weight) * DTYPES[file.kinds[weight]].itemsize
    if packed_bytes != -(-count // 2) or double != (file.kinds[names["absmax"]] == "U8"):
        raise make_damage_error(file, f"{weight[:80]!r} does not fit {shape} in four bits")

    def read() -> np.ndarray:
        scale = file[names["absmax"]]
        if double:
            tables = file[names["nested_absmax"]], file[names["nested_quant_map"]]
            scale = dequantize_absmax(scale, *tables, offset, nested)
        packed = np.ascontiguousarray(file.codes(weight)).reshape(-1).view(np.uint8)
        return dequantize_nf4(packed, scale, file[names["quant_map"]], shape, block)

    kind = state.rpartition("__")[2]
    return StoredLayer(kind, shape, (weight, state, *names.values()), read)


def _read_state(file: TensorFile, name: str) -> FourBitState:
    """Read the settings of bitsandbytes, JSON in the bytes of a tensor."""
    data = parse_json(file[name].tobytes(), f"{name[:80]!r} of {shown(file.path)}", CODE)
    settings = data if isinstance(data, dict) else {}
    shape = settings.get("shape")
    sizes = shape if isinstance(shape, list) and len(shape) <= MOST_AXES else [0]
    block, nested = settings.get("blocksize"), settings.get("nested_blocksize", 256)
    offset = settings.get("nested_offset", 0.0)
    if all(type(n) is int and 0 < n < 2**31 for n in (block, nested, *sizes)) and (
        type(offset) in (int, float) and abs(offset) < MAX_OFFSET
    ):
        return FourBitState(tuple(sizes), int(block or 0), nested, float(offset))
    raise make_damage_error(file, f"{name[:80]!r} does not say shape and size of blocks")


# -- checks ---------------------------------------------------------------------------------------


def kind_of(file: TensorFile, name: str) -> str:
    """Return how a tensor is stored.

    Raises:
        CorruptModelError: There is none of that name.
    """
    if name not in file:
        raise make_damage_error(file, f"{name[:80]!r} is missing")
    return file.kinds[name]


def _shape(file: TensorFile, name: str) -> tuple[int, ...]:
    kind_of(file, name)
    return file.shapes[name]


def _matrix(file: TensorFile, name: str) -> tuple[int, int]:
    shape = _shape(file, name)
    if len(shape) != 2 or not all(shape):
        raise make_damage_error(file, f"{name[:80]!r} is {shape}, not a matrix")
    return shape[0], shape[1]


def _size(file: TensorFile, name: str) -> int:
    return math.prod(_shape(file, name))


def make_damage_error(file: TensorFile, problem: str) -> CorruptModelError:
    """Make the error for a file whose quantised tensors do not fit together."""
    return CorruptModelError(f"{shown(file.path)} is damaged: {problem}", code=CODE)
