"""ggml's blocks of 32 weights with one scale, and some with a minimum.

In each, `d` and `m` are float16, and the low halves of the bytes are the first 16 weights. Source:
ggml-org/ggml, ggml-common.h (block_q4_0, ...) and ggml-quants.c (dequantize_row_q4_0, ...).
"""

from __future__ import annotations

import numpy as np

from ldmref.io.quantized.bits import read_halves, signed, split, unpack

WEIGHTS = 32  # of a block


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
