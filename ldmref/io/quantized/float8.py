"""Floating-point numbers of eight bits, which a table of 256 numbers defines.

| format | sign, exponent, mantissa | bias | largest | infinity   | NaN                    |
|--------|--------------------------|------|---------|------------|------------------------|
| e4m3fn | 1, 4, 3                  | 7    | 448     | none       | 0x7f, 0xff             |
| e5m2   | 1, 5, 2                  | 15   | 57344   | 0x7c, 0xfc | 0x7d-0x7f, 0xfd-0xff   |
| e8m0   | 0, 8, 0                  | 127  | 2^127   | none       | 0xff                   |

A weight is such a number alone (a plain cast), or times a scale of its tensor or of its row. Scales
of *activations* (`input_scale`), which files may also hold, are for products in float8: here the
weights alone are read, and the network computes in its own type.

Sources: Micikevicius et al. 2022, arXiv:2209.05433, table 1; OCP Microscaling Formats (MX)
Specification v1.0, section 5; Comfy-Org/ComfyUI, QUANTIZATION.md.
"""

from __future__ import annotations

import numpy as np

MANTISSA = 3  # bits of e4m3fn
BIAS = 7
MX_BLOCK = 32  # weights with a common scale in MXFP8 and MXFP4


def make_e4m3fn_table() -> np.ndarray:
    r"""Return the 256 numbers of e4m3fn.

    .. math:: (-1)^s\, 2^{e-7} (1 + m/8), \quad (-1)^s\, 2^{-6}\, m/8 \text{ for } e = 0

    The last code of each sign is NaN, where IEEE formats would have infinity in a row of eight.
    """
    code = np.arange(256)
    exponent = code >> MANTISSA & 15
    mantissa = code & 7
    normal = np.ldexp(8.0 + mantissa, exponent - BIAS - MANTISSA)
    subnormal = np.ldexp(1.0 * mantissa, 1 - BIAS - MANTISSA)
    table = np.where(exponent > 0, normal, subnormal)
    table[code & 127 == 127] = np.nan
    return np.where(code < 128, table, -table).astype(np.float32)


E4M3FN = make_e4m3fn_table()
E5M2 = (np.arange(256, dtype="<u2") << 8).view("<f2").astype(np.float32)  # the upper half of f16
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan))


def decode_e4m3fn(codes: np.ndarray) -> np.ndarray:
    """Return the numbers of e4m3fn codes, in the same shape.

    >>> decode_e4m3fn(np.array([0x38, 0x01, 0x7E], np.uint8)).tolist()
    [1.0, 0.001953125, 448.0]
    """
    return E4M3FN[codes]


def decode_e5m2(codes: np.ndarray) -> np.ndarray:
    """Return the numbers of e5m2 codes, in the same shape: each is the upper byte of a float16.

    >>> decode_e5m2(np.array([0x3C, 0x7B, 0xFC], np.uint8)).tolist()
    [1.0, 57344.0, -inf]
    """
    return E5M2[codes]


def decode_e8m0(codes: np.ndarray) -> np.ndarray:
    """Return the powers of two 2^(code - 127) of e8m0, in the same shape.

    >>> decode_e8m0(np.array([127, 130], np.uint8)).tolist()
    [1.0, 8.0]
    """
    return E8M0[codes]


def scale_rows(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Multiply a tensor with its one scale, or each row with its own.

    Args:
        values: float32, (rows, ...).
        scale: float32 of size 1, or (rows,), also with further axes of length 1.

    Returns:
        Shape of `values`.
    """
    if scale.size == 1:
        return values * scale.reshape(()).astype(np.float32)
    return values * scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))


def scale_blocks(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Multiply runs of each row with their scales.

    Args:
        values: float32, (rows, columns).
        scale: float32, (rows, columns / size of a run).

    Returns:
        Shape of `values`.
    """
    return values * np.repeat(scale, values.shape[1] // scale.shape[1], axis=1)


def read_tiles(scale: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return scales in rows, which NVIDIA's tensor cores take in tiles of 128 x 4.

    Row r and column c of a tile are its byte 16 (r mod 32) + 4 floor(r / 32) + c; the tiles follow
    each other row by row, and those at the edges are padded. Comfy's files hold NVFP4 and MXFP8 in
    this order, the other programs' in rows. Source: cuBLAS, "1D Block Scaling Factors Layout".

    Args:
        scale: Bytes of any shape, as many as whole tiles have.
        rows: Rows of the weights.
        columns: Scales of a row.

    Returns:
        Bytes, (rows, columns).
    """
    down, across = -(-rows // 128), -(-columns // 4)
    tiles = scale.reshape(down, across, 32, 4, 4)
    in_rows = tiles.transpose(0, 3, 2, 1, 4).reshape(down * 128, across * 4)
    return in_rows[:rows, :columns]


def count_in_tiles(rows: int, columns: int) -> int:
    """Return how many bytes `read_tiles` takes."""
    return -(-rows // 128) * 128 * -(-columns // 4) * 4
