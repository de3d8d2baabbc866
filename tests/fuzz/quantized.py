"""Targets that are quantised model files: GGUF, and safetensors with scales beside the weights."""

from __future__ import annotations

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.io.quantized.ggml import GGML_TYPES
from ldmref.io.quantized.layers import is_quantized
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import TensorSource, write_to

from .guard import Target, file
from .mutate import mutate_safetensors

try:
    import gguf  # noqa: F401  # before the guard is armed: it imports much
except ImportError:
    pass

MOST = 1_000_000  # numbers of a tensor that is read


def run_model_file(path: Path) -> None:
    """Check that every tensor is read, in the shape and type that the file says before."""
    found = open_model_file(path)
    for name in found:
        shape = found.shapes[name]
        if math.prod(shape) > MOST:
            continue
        x = np.asarray(found[name])
        assert x.shape == shape and x.dtype == found[name].dtype
        if found.kinds[name].islower() or found.kinds[name][0] in "QM":
            assert x.dtype == np.float32
    found.sha256()


# -- GGUF -----------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _gguf(numbers: list[int], fields: bytes = b"", field_count: int = 0) -> bytes:
    """Return a file with one tensor of two rows of one block for each type."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(numbers), field_count) + fields
    data = b""
    for number in numbers:
        kind = GGML_TYPES[number]
        data += b"\0" * (-len(data) % 32)
        head += _text(f"t{number}") + struct.pack("<IQQIQ", 2, kind.values, 2, number, len(data))
        data += bytes((7 * i) % 251 for i in range(2 * kind.nbytes))
    return head + b"\0" * (-len(head) % 32) + data


def _gguf_seeds() -> list[bytes]:
    shape = struct.pack("<IIQ2i", 9, 5, 2, 4, 16)
    fields = _text("comfy.gguf.orig_shape.t2") + shape
    fields += _text("general.architecture") + struct.pack("<I", 8) + _text("flux")
    fields += _text("general.alignment") + struct.pack("<II", 4, 32)
    fields += _text("tokens") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("b")
    return [_gguf([number]) for number in GGML_TYPES] + [_gguf([]), _gguf([2, 12, 0], fields, 4)]


# -- safetensors ----------------------------------------------------------------------------------


def _stored(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """Return a file of arrays, bytes, or (type, array)."""
    kinds = {"uint8": "U8", "int8": "I8", "float32": "F32"}
    sources = {}
    for name, x in tensors.items():
        array = np.frombuffer(x, np.uint8) if isinstance(x, bytes) else x
        kind, array = array if isinstance(array, tuple) else (kinds[array.dtype.name], array)
        sources[name] = TensorSource(kind, array.shape, lambda array=array: array)
    buffer = io.BytesIO()
    write_to(buffer, sources, metadata)  # type: ignore[arg-type]
    return buffer.getvalue()


def _quantized_seeds() -> list[bytes]:
    one = np.float32([0.5])
    codes = np.arange(64, dtype=np.uint8).reshape(2, 32)
    tiles = np.arange(512, dtype=np.uint8).reshape(128, 4)
    state = {"shape": [2, 64], "blocksize": 64, "nested_blocksize": 256, "nested_offset": 0.1}
    four = {
        "a.weight": codes.reshape(-1, 1),
        "a.weight.absmax": np.uint8([3, 4]),
        "a.weight.quant_map": np.linspace(-1, 1, 16).astype(np.float32),
        "a.weight.nested_absmax": one,
        "a.weight.nested_quant_map": np.linspace(-1, 1, 256).astype(np.float32),
        "a.weight.quant_state.bitsandbytes__nf4": json.dumps(state).encode(),
    }
    eight = {"a.weight": ("F8_E4M3", codes), "a.weight_scale": one}
    nv = {"a.weight": codes, "a.weight_scale_2": one}

    def comfy(kind: str) -> dict[str, bytes]:
        return {"a.comfy_quant": json.dumps({"format": kind}).encode()}

    names = {"_quantization_metadata": json.dumps({"layers": {"a": {"format": "float8_e4m3fn"}}})}
    return [
        _stored(four),
        _stored(eight),
        _stored(eight, names),
        _stored({"a.weight": ("F8_E5M2", codes), "a.scale_weight": one, "scaled_fp8": one}),
        _stored(nv | {"a.weight_scale": ("F8_E4M3", codes[:, :4]), "a.input_scale": one}),
        _stored(nv | {"a.weight_scale": tiles} | comfy("nvfp4")),
        _stored({"a.weight": ("F8_E4M3", codes), "a.weight_scale": tiles} | comfy("mxfp8")),
        _stored({"a.weight": codes.view(np.int8), "a.weight_scale": one}),
        _stored({"a.qweight": codes, "a.wscales": one}),
    ]


def run_quantized(path: Path) -> None:
    """As `run_model_file`; a file without a mark has the tensors that its header lists."""
    run_model_file(path)
    plain = TensorFile(path)
    if not is_quantized(plain):
        assert open_model_file(path).shapes == plain.shapes


TARGETS = {
    "gguf": Target(
        run_model_file,
        _gguf_seeds,
        file("a.gguf"),
        words=(b"GGUF", b"comfy.gguf.orig_shape.", b"\x00\x00\x00\x80", b"\xff" * 8),
    ),
    "quantized": Target(
        run_quantized,
        _quantized_seeds,
        file("quantized.safetensors"),
        mutate_safetensors,
        words=(b"float8_e4m3fn", b"nvfp4", b"mxfp8", b'"shape"', b"blocksize", b"convrot"),
    ),
}
