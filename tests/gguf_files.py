"""GGUF files, written as the specification says or by the package `gguf`."""

from __future__ import annotations

import struct

import numpy as np


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_bytes(tensors, alignment=32, fields=b"", field_count=0, version=3):
    """Return a GGUF file as its specification says; tensors: name -> (type, shape, bytes)."""
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), field_count) + fields
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        data += b"\0" * (-len(data) % alignment)
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += text(name) + sizes + struct.pack("<IQ", kind, len(data))
        data += raw
    return head + b"\0" * (-len(head) % alignment) + data


def patched(data, layout, offset, *values):
    data = bytearray(data)
    struct.pack_into(layout, data, offset, *values)
    return bytes(data)


def quantize(gguf, kind, x):
    """Return an array in a type of ggml as bytes, and the numbers that they stand for."""
    number = gguf.GGMLQuantizationType[kind]
    raw = gguf.quantize(np.ascontiguousarray(x, np.float32), number)
    return raw, gguf.dequantize(raw, number).reshape(x.shape)


def write_model(path, tensors, kind, architecture="flux", fields=None):
    """Write tensors as ComfyUI-GGUF does: rows that are no whole blocks are joined.

    Returns:
        The numbers that a reader should find, by name.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for field, number in (fields or {}).items():
        writer.add_float32(field, number)
    want = {}
    for name, x in tensors.items():
        block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
        if x.ndim < 2 or x.size % block:
            want[name] = x.astype(np.float32)
            writer.add_tensor(name, want[name])
            continue
        rows = x
        if x.shape[-1] % block:
            rows = x.reshape(-1, block)
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(x.shape))
        raw, numbers = quantize(gguf, kind, rows)
        want[name] = numbers.reshape(x.shape)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return want
