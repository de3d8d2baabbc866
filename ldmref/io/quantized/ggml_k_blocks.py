"""ggml's K-quants: blocks of 256 weights whose groups have scales, which are quantised too.

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

Source: ggml-org/ggml, ggml-common.h (block_q4_K, ...) and ggml-quants.c (dequantize_row_q4_K, ...).
"""

from __future__ import annotations

import numpy as np

from ldmref.io.quantized.bits import read_halves, signed, split, spread, unpack

WEIGHTS = 256  # of a block


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
    return spread(packed.reshape(-1, 2, 32), bits).reshape(-1, WEIGHTS)


def _join(groups: np.ndarray) -> np.ndarray:
    return groups.reshape(-1, WEIGHTS)
