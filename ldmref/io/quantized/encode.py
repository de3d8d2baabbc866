"""Weights of blocks of 16 or 32 as bytes: the way from float32 to ggml's older types and four bits.

Each function takes float32 (n, weights of a block) and returns bytes (n, bytes of a block), whose
fields `ggml.py` and `float4.py` describe. The number q of a weight is the nearest one on the grid
of its block, and its error is at most half a step, apart from the rounding of the scale to
float16:

| type  | step d                | zero  | largest error of a weight                      |
|-------|-----------------------|-------|------------------------------------------------|
| Q8_0  | max abs x / 127       | 0     | d / 2                                          |
| Q4_0  | x of largest abs / -8 | 8     | d / 2; d at the end of the grid that has fewer |
| Q5_0  | x of largest abs / -16 | 16   | as in Q4_0                                     |
| Q4_1  | (max - min) / 15      | min   | d / 2                                          |
| Q5_1  | (max - min) / 31      | min   | d / 2                                          |
| MXFP4 | a power of two        | 0     | d times half the distance of two codes; 2 d     |
| NVFP4 | max abs x / 6 as e4m3 | 0     | s times half the distance of two codes         |

Source: ggml-org/ggml, ggml-quants.c (quantize_row_q8_0_ref, quantize_row_q4_0_ref, ...), the
reference that makes files deterministic; the same numbers come out, bit for bit.
"""

from __future__ import annotations

import numpy as np

from ldmref.io.quantized.bits import pack, write_halves
from ldmref.io.quantized.float4 import E2M1
from ldmref.io.quantized.float8 import E4M3FN
from ldmref.support.bfloat16 import bfloat16_bits, round_to_bfloat16

MX_LARGEST = 2  # exponent of the largest code of e2m1, 6 = 1.5 x 2^2
E8M0_BIAS = 127
NV_GROUP = 16
ONE = np.float32(1)
BETWEEN = (E4M3FN[:126].astype(np.float64) + E4M3FN[1:127]) / 2  # two codes of e4m3fn
SMALLEST_NORMAL = 2.0**-6


def quantize_q8_0(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q8_0: d = max abs x / 127 and q = round(x / d); (n, 32) -> (n, 34)."""
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    q = round_away(x * ratio(ONE, d)).astype(np.int8)
    return np.concatenate([write_halves(d), q.view(np.uint8)], axis=1)


def quantize_q4_0(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q4_0: d = (x of largest abs) / -8; (n, 32) -> (n, 18)."""
    d, q = _symmetric(x, 8)
    return np.concatenate([write_halves(d), pack(q, 4)], axis=1)


def quantize_q5_0(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q5_0: d = (x of largest abs) / -16; (n, 32) -> (n, 22)."""
    d, q = _symmetric(x, 16)
    return np.concatenate([write_halves(d), _fifth_bits(q), pack(q & 15, 4)], axis=1)


def quantize_q4_1(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q4_1: d = (max - min) / 15, m = min; (n, 32) -> (n, 20)."""
    d, m, q = _with_minimum(x, 15)
    return np.concatenate([write_halves(d), write_halves(m), pack(q, 4)], axis=1)


def quantize_q5_1(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q5_1: d = (max - min) / 31, m = min; (n, 32) -> (n, 24)."""
    d, m, q = _with_minimum(x, 31)
    fields = [write_halves(d), write_halves(m), _fifth_bits(q), pack(q & 15, 4)]
    return np.concatenate(fields, axis=1)


def quantize_mxfp4(x: np.ndarray) -> np.ndarray:
    """Return blocks of MXFP4: e = floor(log2(max abs x)) - 2; (n, 32) -> (n, 17).

    Weights of more than 6 x 2^e become 6 x 2^e.
    """
    largest = np.abs(x).max(axis=1, keepdims=True)
    exponent = np.frexp(largest)[1] - 1 - MX_LARGEST
    code = np.where(largest > 0, np.maximum(exponent + E8M0_BIAS, 0), 0).astype(np.uint8)
    step = np.ldexp(np.float32(1), code.astype(np.int32) - E8M0_BIAS)
    return np.concatenate([code, pack(_nearest_e2m1(x, step), 4)], axis=1)


def quantize_nvfp4(x: np.ndarray) -> np.ndarray:
    """Return ggml's blocks of NVFP4: s = max abs x / 6 of 16, as e4m3; (n, 64) -> (n, 36)."""
    groups = x.reshape(len(x), -1, NV_GROUP)
    wanted = np.abs(groups).max(axis=2) / np.float32(6)
    # ggml takes the larger of two scales that are equally near, and no normal one below 2^-6
    code = np.searchsorted(BETWEEN, np.minimum(wanted, E4M3FN[126]), side="right")
    code = np.where(wanted < SMALLEST_NORMAL, np.minimum(code, 7), code).astype(np.uint8)
    q = _nearest_e2m1(groups, E4M3FN[code][:, :, None])
    return np.concatenate([code, pack(q, 4).reshape(len(x), -1)], axis=1)


def encode_bf16(x: np.ndarray) -> np.ndarray:
    """Return numbers as bfloat16, rounded to nearest; (n, 1) -> (n, 2)."""
    return bfloat16_bits(round_to_bfloat16(x)).astype("<u2").view(np.uint8)


def nearest_e4m3(x: np.ndarray) -> np.ndarray:
    """Return the code of the nearest number of e4m3fn, the even one of two.

    Args:
        x: Numbers from 0 to 448.

    Returns:
        Codes from 0 to 126 as bytes, in the same shape.

    >>> nearest_e4m3(np.float32([0, 1, 1.0625, 448])).tolist()
    [0, 56, 56, 126]
    """
    below = np.searchsorted(BETWEEN, x)
    ties = np.isin(x, BETWEEN)
    return (below + (ties & (below % 2 == 1))).astype(np.uint8)


def _nearest_e2m1(x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the code of the nearest of step E2M1, the first of two that are equally near."""
    distance = np.abs(step[..., None] * E2M1 - x[..., None])
    return distance.argmin(axis=-1).astype(np.uint8)


def _symmetric(x: np.ndarray, zero: int) -> tuple[np.ndarray, np.ndarray]:
    """Return d and q of x = d (q - zero): the weight of largest magnitude has q = 0."""
    first = np.abs(x).argmax(axis=1)
    d = np.take_along_axis(x, first[:, None], axis=1) / np.float32(-zero)
    shifted = x * ratio(ONE, d) + np.float32(zero + 0.5)
    return d, np.minimum(np.trunc(shifted), 2 * zero - 1).astype(np.uint8)


def _with_minimum(x: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return d, m and q of x = d q + m: the smallest weight has q = 0, the largest `largest`."""
    m = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - m) / np.float32(largest)
    q = np.trunc((x - m) * ratio(ONE, d) + np.float32(0.5))
    return d, m, np.minimum(q, largest).astype(np.uint8)


def _fifth_bits(q: np.ndarray) -> np.ndarray:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def ratio(a: np.ndarray | np.float32, b: np.ndarray) -> np.ndarray:
    """Return a / b in the shape of b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(b), where=b != 0)


def round_away(x: np.ndarray) -> np.ndarray:
    """Return the nearest integers; of two, the one further from zero, as C's `roundf`."""
    return np.trunc(x + np.copysign(np.float32(0.5), x))
