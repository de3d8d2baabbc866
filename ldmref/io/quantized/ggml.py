"""The types of ggml: their numbers, their blocks, and how they become arrays.

The older blocks have 32 weights and one scale, and some have a minimum. In each, `d` and `m` are
float16, and the low halves of the bytes are the first 16 weights.

K-quants are blocks of 256 weights whose groups have scales, which are quantised too:

| type | a weight         | weights of a group | bits of q, of a scale |
|------|------------------|--------------------|-----------------------|
| Q2_K | d s q - m t      | 16                 | 2, 4                  |
| Q3_K | d (s - 32) (q - 4) | 16               | 3, 6                  |
| Q4_K | d s q - m t      | 32                 | 4, 6                  |
| Q5_K | d s q - m t      | 32                 | 5, 6                  |
| Q6_K | d s (q - 32)     | 16                 | 6, 8                  |

d and m are float16 and belong to the block, the integers s and t to a group. A program that uses
these types rounds d s to float32 first. "Q4_K_M" and "Q4_K_S" name files: recipes that say which
tensors have which of these types.

Sources: ggml-org/ggml, include/ggml.h (ggml_type), ggml-common.h (block_q4_0, block_q4_K, ...) and
ggml-quants.c (dequantize_row_q4_0, dequantize_row_q4_K, ...); the package `gguf`, constants.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import BackendUnavailable
from ldmref.io.quantized import encode, encode_k
from ldmref.io.quantized.bits import read_halves, signed, split, spread, unpack
from ldmref.io.quantized.float4 import dequantize_ggml_nvfp4, dequantize_mxfp4
from ldmref.support.bfloat16 import decode_bfloat16

VALUES_AT_ONCE = 1 << 20  # so that a large tensor needs little more memory than its result
VALUES_IN_SEARCH = 1 << 15  # so that the arrays of a search stay in the processor's cache

SUPERBLOCK = 256  # of a block


def dequantize_q2_k(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d s q - m t of blocks of Q2_K, (n, 84) bytes -> (n, 256).

    | bytes | field                                                                   |
    |-------|-------------------------------------------------------------------------|
    | 16    | s in the low half and t in the high half, of 16 groups of 16 weights    |
    | 64    | q, 2 bits: 32 bytes hold weights 0-31 in their lowest bits, then 32-63, |
    |       | 64-95 and 96-127; the other 32 bytes the other half                     |
    | 2     | d                                                                       |
    | 2     | m                                                                       |
    """
    scales, q, d, m = split(blocks, 16, 64, 2, 2)
    slope = read_halves(d) * signed(scales & 15, 0)
    offset = read_halves(m) * signed(scales >> 4, 0)
    numbers = _two_halves(q, 2).reshape(-1, 16, 16)
    return _join(slope[:, :, None] * signed(numbers, 0) - offset[:, :, None])


def dequantize_q3_k(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d (s - 32) (q - 4) of blocks of Q3_K, (n, 110) bytes -> (n, 256).

    | bytes | field                                                                     |
    |-------|---------------------------------------------------------------------------|
    | 32    | the third bits of q: bit 0 of these bytes for weights 0-31, bit 1 for     |
    |       | 32-63, ...                                                                |
    | 64    | the other two bits of q, in the order of Q2_K                             |
    | 8     | the low four bits of s of groups 0-7, and in the high halves of 8-15      |
    | 4     | the two high bits of s, of groups 0-3, 4-7, 8-11 and 12-15 from low to high |
    | 2     | d                                                                         |
    """
    third, q, low, high, d = split(blocks, 32, 64, 8, 4, 2)
    s = unpack(low, "halves") | spread(high, 2) << 4
    scale = read_halves(d) * signed(s, 32)
    numbers = _two_halves(q, 2) | spread(third, 1) << 2
    return _join(scale[:, :, None] * signed(numbers.reshape(-1, 16, 16), 4))


def dequantize_q4_k(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d s q - m t of blocks of Q4_K, (n, 144) bytes -> (n, 256).

    | bytes | field                                                                     |
    |-------|---------------------------------------------------------------------------|
    | 2     | d                                                                         |
    | 2     | m                                                                         |
    | 12    | s and t of 8 groups, 6 bits each; see `unpack_scales`                     |
    | 128   | q, 4 bits: 32 bytes hold group 0 in their low and group 1 in their high halves |
    """
    d, m, scales, q = split(blocks, 2, 2, 12, 128)
    numbers = unpack(q.reshape(-1, 4, 32), "halves")
    return _affine(d, m, scales, numbers)


def dequantize_q5_k(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d s q - m t of blocks of Q5_K, (n, 176) bytes -> (n, 256).

    | bytes | field                                                            |
    |-------|------------------------------------------------------------------|
    | 2     | d                                                                |
    | 2     | m                                                                |
    | 12    | s and t, as in Q4_K                                              |
    | 32    | the fifth bits of q: bit k of these bytes for group k            |
    | 128   | the other four bits of q, as in Q4_K                             |
    """
    d, m, scales, fifth, low = split(blocks, 2, 2, 12, 32, 128)
    numbers = unpack(low.reshape(-1, 4, 32), "halves").reshape(-1, 256) | spread(fifth, 1) << 4
    return _affine(d, m, scales, numbers)


def dequantize_q6_k(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d s (q - 32) of blocks of Q6_K, (n, 210) bytes -> (n, 256).

    | bytes | field                                                                        |
    |-------|------------------------------------------------------------------------------|
    | 128   | the low four bits of q: 64 bytes hold weights 0-63 in their low halves and   |
    |       | 64-127 in their high halves; the other 64 bytes the other half               |
    | 64    | the two high bits of q, in the order of Q2_K                                 |
    | 16    | s, signed, 8 bits, of 16 groups of 16 weights                                |
    | 2     | d                                                                            |
    """
    low, high, s, d = split(blocks, 128, 64, 16, 2)
    scale = read_halves(d) * s.view(np.int8).astype(np.float32)
    numbers = unpack(low.reshape(-1, 2, 64), "halves").reshape(-1, 256)
    numbers = numbers | _two_halves(high, 2) << 4
    return _join(scale[:, :, None] * signed(numbers.reshape(-1, 16, 16), 32))


def unpack_scales(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the six bits of each s and t of Q4_K and Q5_K; (n, 12) bytes -> (n, 8) each.

    | bytes | bits 7-6              | bits 5-4, 3-0               |
    |-------|-----------------------|-----------------------------|
    | 0-3   | high bits of s of 4-7 | s of groups 0-3             |
    | 4-7   | high bits of t of 4-7 | t of groups 0-3             |
    | 8-11  | low four bits of t of 4-7 in bits 7-4, and of s in bits 3-0 ||
    """
    first_s, first_t, rest = split(scales, 4, 4, 4)
    s = np.concatenate([first_s & 63, rest & 15 | first_s >> 6 << 4], axis=1)
    t = np.concatenate([first_t & 63, rest >> 4 | first_t >> 6 << 4], axis=1)
    return s, t


def _affine(d: np.ndarray, m: np.ndarray, scales: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    s, t = unpack_scales(scales)
    slope = read_halves(d) * signed(s, 0)
    offset = read_halves(m) * signed(t, 0)
    return _join(slope[:, :, None] * signed(numbers.reshape(-1, 8, 32), 0) - offset[:, :, None])


def _two_halves(packed: np.ndarray, bits: int) -> np.ndarray:
    """Return the numbers of 64 bytes, whose first and last 32 hold half of the weights each."""
    return spread(packed.reshape(-1, 2, 32), bits).reshape(-1, SUPERBLOCK)


def _join(groups: np.ndarray) -> np.ndarray:
    return groups.reshape(-1, SUPERBLOCK)


def dequantize_q8_0(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d * q of blocks of Q8_0, (n, 34) bytes -> (n, 32).

    | bytes | field             |
    |-------|-------------------|
    | 2     | d                 |
    | 32    | q, signed, 8 bits |
    """
    d, q = split(blocks, 2, 32)
    return read_halves(d) * q.view(np.int8).astype(np.float32)


def dequantize_q4_0(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d * (q - 8) of blocks of Q4_0, (n, 18) bytes -> (n, 32).

    | bytes | field     |
    |-------|-----------|
    | 2     | d         |
    | 16    | q, 4 bits |
    """
    d, q = split(blocks, 2, 16)
    return read_halves(d) * signed(unpack(q, "halves"), 8)


def dequantize_q4_1(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d * q + m of blocks of Q4_1, (n, 20) bytes -> (n, 32).

    | bytes | field     |
    |-------|-----------|
    | 2     | d         |
    | 2     | m         |
    | 16    | q, 4 bits |
    """
    d, m, q = split(blocks, 2, 2, 16)
    return read_halves(d) * signed(unpack(q, "halves"), 0) + read_halves(m)


def dequantize_q5_0(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d * (q - 16) of blocks of Q5_0, (n, 22) bytes -> (n, 32).

    | bytes | field                                             |
    |-------|---------------------------------------------------|
    | 2     | d                                                 |
    | 4     | the fifth bits of q: bit i of 32 is that of weight i |
    | 16    | the other four bits of q                          |
    """
    d, fifth, low = split(blocks, 2, 4, 16)
    return read_halves(d) * signed(_five_bits(fifth, low), 16)


def dequantize_q5_1(blocks: np.ndarray) -> np.ndarray:
    """Return the weights d * q + m of blocks of Q5_1, (n, 24) bytes -> (n, 32).

    | bytes | field                    |
    |-------|--------------------------|
    | 2     | d                        |
    | 2     | m                        |
    | 4     | the fifth bits of q      |
    | 16    | the other four bits of q |
    """
    d, m, fifth, low = split(blocks, 2, 2, 4, 16)
    return read_halves(d) * signed(_five_bits(fifth, low), 0) + read_halves(m)


def _five_bits(fifth: np.ndarray, low: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(fifth, axis=1, bitorder="little")
    return unpack(low, "halves") | bits << 4


def dequantize_bf16(blocks: np.ndarray) -> np.ndarray:
    """Return the numbers of bfloat16, (n, 2) bytes -> (n, 1)."""
    return decode_bfloat16(blocks.view("<u2"))


class GGMLType(NamedTuple):
    """A type of ggml.

    Attributes:
        name: Its name.
        values: Numbers of a block.
        nbytes: Bytes of a block.
        dtype: The type of the numbers, if a block is one number as NumPy knows it.
        dequantize: From blocks (n, nbytes) to float32 (n, values). None: the package `gguf` does.
        quantize: From float32 (n, values) to blocks (n, nbytes). None: the type is only read.
    """

    name: str
    values: int
    nbytes: int
    dtype: str = ""
    dequantize: Callable[[np.ndarray], np.ndarray] | None = None
    quantize: Callable[[np.ndarray], np.ndarray] | None = None


GGML_TYPES = {
    0: GGMLType("F32", 1, 4, "<f4"),
    1: GGMLType("F16", 1, 2, "<f2"),
    2: GGMLType("Q4_0", 32, 18, dequantize=dequantize_q4_0, quantize=encode.quantize_q4_0),
    3: GGMLType("Q4_1", 32, 20, dequantize=dequantize_q4_1, quantize=encode.quantize_q4_1),
    6: GGMLType("Q5_0", 32, 22, dequantize=dequantize_q5_0, quantize=encode.quantize_q5_0),
    7: GGMLType("Q5_1", 32, 24, dequantize=dequantize_q5_1, quantize=encode.quantize_q5_1),
    8: GGMLType("Q8_0", 32, 34, dequantize=dequantize_q8_0, quantize=encode.quantize_q8_0),
    10: GGMLType("Q2_K", 256, 84, dequantize=dequantize_q2_k, quantize=encode_k.quantize_q2_k),
    11: GGMLType("Q3_K", 256, 110, dequantize=dequantize_q3_k, quantize=encode_k.quantize_q3_k),
    12: GGMLType("Q4_K", 256, 144, dequantize=dequantize_q4_k, quantize=encode_k.quantize_q4_k),
    13: GGMLType("Q5_K", 256, 176, dequantize=dequantize_q5_k, quantize=encode_k.quantize_q5_k),
    14: GGMLType("Q6_K", 256, 210, dequantize=dequantize_q6_k, quantize=encode_k.quantize_q6_k),
    16: GGMLType("IQ2_XXS", 256, 66),
    17: GGMLType("IQ2_XS", 256, 74),
    18: GGMLType("IQ3_XXS", 256, 98),
    19: GGMLType("IQ1_S", 256, 50),
    20: GGMLType("IQ4_NL", 32, 18),
    21: GGMLType("IQ3_S", 256, 110),
    22: GGMLType("IQ2_S", 256, 82),
    23: GGMLType("IQ4_XS", 256, 136),
    24: GGMLType("I8", 1, 1, "i1"),
    25: GGMLType("I16", 1, 2, "<i2"),
    26: GGMLType("I32", 1, 4, "<i4"),
    27: GGMLType("I64", 1, 8, "<i8"),
    28: GGMLType("F64", 1, 8, "<f8"),
    29: GGMLType("IQ1_M", 256, 56),
    30: GGMLType("BF16", 1, 2, dequantize=dequantize_bf16, quantize=encode.encode_bf16),
    34: GGMLType("TQ1_0", 256, 54),
    35: GGMLType("TQ2_0", 256, 66),
    39: GGMLType("MXFP4", 32, 17, dequantize=dequantize_mxfp4, quantize=encode.quantize_mxfp4),
    40: GGMLType("NVFP4", 64, 36, dequantize=dequantize_ggml_nvfp4, quantize=encode.quantize_nvfp4),
}

# Types of ggml that are read by nobody here. Q8_1 and Q8_K are those of activations in products.
UNREAD = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 41: "Q1_0",
}  # fmt: skip


def read_ggml(raw: np.ndarray, kind: GGMLType, label: str) -> np.ndarray:
    """Return the numbers of a tensor: floats and integers as they are, all others as float32.

    Args:
        raw: The bytes of the tensor, one axis.
        kind: Its type.
        label: The name of the tensor, for errors.

    Returns:
        One axis.

    Raises:
        BackendUnavailable: The type needs the package `gguf`.

    >>> one = np.array([0x00, 0x3C, *range(32)], np.uint8)  # d = 1 in float16
    >>> read_ggml(one, GGML_TYPES[8], "a")[:4].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if kind.dtype:
        return raw.view(kind.dtype)
    dequantize = kind.dequantize or _import_dequantize(kind, label)
    blocks = raw.reshape(-1, kind.nbytes)
    values = np.empty((len(blocks), kind.values), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # scales may be infinite
        step = VALUES_AT_ONCE // kind.values
        for begin in range(0, len(blocks), step):
            values[begin : begin + step] = dequantize(blocks[begin : begin + step])
    return values.reshape(-1)


WRITABLE = {
    kind.name: number
    for number, kind in GGML_TYPES.items()
    if kind.quantize is not None or kind.dtype in ("<f4", "<f2")
}
"""The types that can be written, by name, and their numbers."""


def write_ggml(x: np.ndarray, kind: GGMLType) -> np.ndarray:
    """Return the bytes of numbers in a type, the inverse of `read_ggml`.

    Args:
        x: Finite numbers; as many as whole blocks have.
        kind: A type of `WRITABLE`.

    Returns:
        Bytes, one axis.

    >>> raw = write_ggml(np.arange(-127, 129, 8), GGML_TYPES[8])
    >>> read_ggml(raw, GGML_TYPES[8], "a")[:3].tolist()
    [-127.0, -119.0, -111.0]
    """
    if kind.quantize is None:
        return np.ascontiguousarray(x, kind.dtype).reshape(-1).view(np.uint8)
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, kind.values)
    raw = np.empty((len(blocks), kind.nbytes), np.uint8)
    step = VALUES_IN_SEARCH // kind.values
    for begin in range(0, len(blocks), step):
        raw[begin : begin + step] = kind.quantize(blocks[begin : begin + step])
    return raw.reshape(-1)


def _import_dequantize(kind: GGMLType, label: str) -> Callable[[np.ndarray], np.ndarray]:
    try:
        from gguf import quants
    except ImportError as error:
        message = f"{label} is stored as {kind.name}, which needs the package gguf"
        hint = "pip install ldmref[gguf]"
        raise BackendUnavailable(message, code="E-GGUF", hint=hint) from error
    module: Any = quants
    number = module.GGMLQuantizationType[kind.name]
    return lambda blocks: module.dequantize(blocks, number)
