"""Quantised tensors of safetensors files: which they are, what holds their scales, their reading.

A file says so in one of four ways, and `list_layers` understands all of them:

| written by             | beside `X.weight`                                                  |
|------------------------|--------------------------------------------------------------------|
| Comfy, older           | `X.scale_weight`, and a tensor `scaled_fp8`                        |
| Comfy, QUANTIZATION.md | `X.weight_scale`, `.weight_scale_2`; formats in the metadata       |
|                        | `_quantization_metadata`, or as JSON in `X.comfy_quant`            |
| BFL, ModelOpt          | `X.weight_scale`, for NVFP4 also `.weight_scale_2`; nothing else   |
| bitsandbytes           | `X.weight.quant_state.bitsandbytes__nf4` (`float4.py`)            |

The formulas are in `float8.py` and `float4.py`.

Sources: Comfy-Org/ComfyUI, QUANTIZATION.md, comfy/utils.py (convert_old_quants), comfy/ops.py;
huggingface/diffusers, quantizers/bfl.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.quantized.bits import NibbleOrder
from ldmref.io.quantized.float4 import NV_BLOCK, dequantize_absmax, dequantize_nf4, dequantize_nvfp4
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
from ldmref.io.tensors.safetensors import DTYPES, TensorFile
from ldmref.io.tensors.wrappers import WRAPPERS
from ldmref.support.files import parse_json, shown

PREFIXES = ("model.diffusion_model.", *WRAPPERS)  # which the metadata may leave out
METADATA = "_quantization_metadata"
QUANT_STATE = ".quant_state.bitsandbytes__"
# Scales of activations, which only products in the quantised type need, and markers.
UNUSED = (".input_scale", ".scale_input", ".comfy_attention.config", ".comfy_quant", "scaled_fp8")
MARKS = """
    .scale_weight .weight_scale .comfy_quant .quant_state.bitsandbytes__nf4
    .quant_state.bitsandbytes__fp4
""".split()
OTHER_TYPE = "take the model in BF16, FP8, NF4, NVFP4 or GGUF"
REFUSED = {  # how a name ends, or Comfy's name of a format -> what it is
    ".wscales": "SVDQuant's, whose order in memory is that of one kernel, and which smooths "
    "activations",
    "svdquant_w4a4": "SVDQuant's, which smooths activations",
    ".qzeros": "GPTQ's or AWQ's, made for kernels of language models",
    "awq_w4a16": "AWQ's, made for kernels of language models",
    ".SCB": "LLM.int8's, which quantises activations as well",
    "convrot": "ConvRot's: weights are rotated, and so must be the activations",
}

CODE = "E-QUANTIZED"
FLOAT8 = {"float8_e4m3fn": decode_e4m3fn, "float8_e5m2": decode_e5m2}
FORMATS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8_tensorwise"}
NEUTRAL = {"per_row", "convrot", "convrot_groupsize"}  # settings that say nothing of the format
MARKER = "scaled_fp8"
MOST_AXES = 8
MAX_OFFSET = 1e30


def is_quantized(file: TensorFile) -> bool:
    """Return whether tensors of a file have scales beside them, or are refused for their format."""
    ends = (*MARKS, *(end for end in REFUSED if end.startswith(".")))
    return METADATA in file.metadata or any(name.endswith(ends) for name in file)


def list_layers(file: TensorFile) -> dict[str, StoredLayer]:
    """Return the quantised tensors of a file by name.

    Args:
        file: The file.

    Returns:
        How each is stored, without having read it.

    Raises:
        InputError: A format is known, but not supported.
        CorruptModelError: A scale is missing or has another size.
    """
    for end, what in REFUSED.items():
        name = next((name for name in file if end[0] == "." and name.endswith(end)), "")
        if name:
            raise _refusal(file, name, what)
    layers = {}
    for layer, settings in _list_comfy_formats(file):
        layers[f"{layer}.weight"] = _open_comfy(file, layer, settings)
    for name in file:
        if QUANT_STATE in name:
            weight = name.partition(QUANT_STATE)[0]
            layers[weight] = open_bitsandbytes(file, weight, name)
        elif name.endswith((".scale_weight", ".weight_scale")):
            layer = name.rpartition(".")[0]
            if f"{layer}.weight" not in layers:
                layers[f"{layer}.weight"] = _open_unmarked(file, layer, name)
    _require_marked_type(file, layers)
    _require_scales(file, layers)
    return layers


def list_unscaled(file: TensorFile, layers: Mapping[str, StoredLayer]) -> list[str]:
    """Return the matrices and kernels of float8 without a scale; none if no layer has one.

    Files may mix both, such as a plain text encoder beside a transformer with scales.
    """
    scaled = {layer.kind for layer in layers.values()} & FLOAT8.keys()
    parts = {part for layer in layers.values() for part in layer.parts}
    return [
        name
        for name, kind in file.kinds.items()
        if scaled and FORMATS.get(kind) in FLOAT8 and len(file.shapes[name]) > 1
        if name not in parts and not name.endswith(UNUSED)
    ]


def _require_scales(file: TensorFile, layers: Mapping[str, StoredLayer]) -> None:
    """Refuse a float8 tensor without a scale that the same layer of other blocks has.

    Raises:
        CorruptModelError: It would be read many times too large.
    """
    known = Counter(re.sub(r"(^|\.)\d+\.", r"\1*.", name) for name in layers)
    for name in list_unscaled(file, layers):
        alike = known[re.sub(r"(^|\.)\d+\.", r"\1*.", name)]
        if alike:
            raise make_damage_error(
                file,
                f"{name[:80]!r} is {file.kinds[name]} and its scale is missing, which this layer "
                f"has in {alike} other block{'s' * (alike > 1)}",
            )


def _require_marked_type(file: TensorFile, layers: Mapping[str, StoredLayer]) -> None:
    """Refuse weights of another type of float8 than the marker of Comfy's older files has.

    Raises:
        CorruptModelError: The file contradicts itself.
    """
    marks = {
        name.removesuffix(MARKER): file.kinds[name]
        for name in file
        if name.endswith(MARKER) and file.kinds[name] in FORMATS
    }
    for name in layers if marks else ():
        stored = file.kinds[name]
        path = name.split(".")
        starts = (".".join([*path[:n], ""]) for n in range(len(path)))
        said = next((marks[start] for start in starts if start in marks), stored)
        scale = f"{name.removesuffix('.weight')}.scale_weight"
        if said != stored and stored in FORMATS and scale in file:
            problem = f"{name[:80]!r} is {stored}, and its marker {MARKER!r} says {said}"
            raise make_damage_error(file, problem)


def list_unused(names: Iterable[str]) -> set[str]:
    """Return the names of scales of activations and of markers, which are not weights."""
    return {name for name in names if name.endswith(UNUSED)}


# -- formats --------------------------------------------------------------------------------------


def _list_comfy_formats(file: TensorFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the layers that Comfy's metadata name, and their settings."""
    found: dict[str, Any] = {}
    if METADATA in file.metadata:
        text = file.metadata[METADATA]
        data = parse_json(text, f"{METADATA} of {shown(file.path)}", CODE)
        layers = data.get("layers") if isinstance(data, dict) else None
        if not isinstance(layers, dict):
            raise make_damage_error(file, f"{METADATA} lists no layers")
        found = {_with_prefix(file, name): settings for name, settings in layers.items()}
    for name in file:
        if name.endswith(".comfy_quant"):
            text = file[name].tobytes()
            label = f"{name[:80]!r} of {shown(file.path)}"
            found[name.removesuffix(".comfy_quant")] = parse_json(text, label, CODE)
    for layer, settings in found.items():
        values = {"format": settings} if isinstance(settings, str) else settings
        if isinstance(values, dict) and "format" not in values:
            values = {**values, "format": _find_format(file, layer, values)}
        if not isinstance(values, dict) or not isinstance(values["format"], str):
            raise make_damage_error(file, f"the format of {layer[:80]!r} is not named")
        yield layer, values


def _find_format(file: TensorFile, layer: str, settings: Mapping[str, Any]) -> str | None:
    """Return the format that the type of a weight says; None if it says none.

    Files of ComfyUI-INT8-Fast name no format.

    Raises:
        InputError: Other settings are there, which may mean anything.
    """
    unknown = sorted({*settings} - NEUTRAL)
    if unknown:
        what = f"of a format that is not named, with the settings {', '.join(unknown)[:80]}"
        raise _refusal(file, f"{layer}.weight", what)
    scaled = f"{layer}.weight_scale" in file or "convrot" in settings
    return FORMATS.get(file.kinds.get(f"{layer}.weight", "")) if scaled else None


def _with_prefix(file: TensorFile, layer: str) -> str:
    starts = ("", *PREFIXES)
    return next((start + layer for start in starts if f"{start}{layer}.weight" in file), layer)


def _open_comfy(file: TensorFile, layer: str, settings: Mapping[str, Any]) -> StoredLayer:
    kind = settings["format"]
    weight, scale = f"{layer}.weight", f"{layer}.weight_scale"
    parameters = settings.get("params")
    inner = parameters if isinstance(parameters, dict) else {}
    rotated = settings.get("convrot") or inner.get("convrot")
    for word, what in REFUSED.items():
        if word in kind or (word == "convrot" and rotated):
            raise _refusal(file, weight, what)
    if kind in FLOAT8 or kind == "int8_tensorwise":
        return open_scaled(file, weight, scale, kind)
    if kind == "mxfp8":
        return open_mxfp8(file, weight, scale)
    if kind == "nvfp4":
        return open_nvfp4(file, layer, "high", tiled=True)
    raise _refusal(file, weight, f"of the format {kind[:40]!r}")


def _open_unmarked(file: TensorFile, layer: str, scale: str) -> StoredLayer:
    weight = f"{layer}.weight"
    if f"{layer}.weight_scale_2" in file:
        return open_nvfp4(file, layer, "low", tiled=False)
    stored = kind_of(file, weight)
    if stored not in FORMATS:
        raise _refusal(file, weight, f"{stored} with a scale, in no known format")
    return open_scaled(file, weight, scale, FORMATS[stored])


def _refusal(file: TensorFile, name: str, what: str) -> InputError:
    message = f"{shown(file.path)} holds {name[:80]!r} as {what}, which is not supported"
    return InputError(message, code=CODE, hint=OTHER_TYPE)


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
    stored = file.kinds[weight]
    if stored != "U8" and FORMATS.get(stored) != kind:  # bytes alone say nothing
        problem = f"{weight[:80]!r} is {stored}, and the file says {kind}"
        raise make_damage_error(file, problem)
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
    settings: dict[str, Any] = data if isinstance(data, dict) else {}
    shape = settings.get("shape")
    sizes = shape if isinstance(shape, list) and len(shape) <= MOST_AXES else [0]
    block, nested = settings.get("blocksize", 0), settings.get("nested_blocksize", 256)
    offset = settings.get("nested_offset", 0.0)
    if all(type(n) is int and 0 < n < 2**31 for n in (block, nested, *sizes)) and (
        type(offset) in (int, float) and abs(offset) < MAX_OFFSET
    ):
        return FourBitState(tuple(sizes), block, nested, float(offset))
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
