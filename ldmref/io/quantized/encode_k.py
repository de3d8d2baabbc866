"""Weights of blocks of 256 as bytes: K-quants of ggml.

Each group of a block gets the scale, and in Q2_K, Q4_K and Q5_K the minimum, that fit its weights
best, by a search over grids. The scales of the groups are then rounded to a few bits, in units of
the block's d, and the numbers q are chosen once more for the rounded scales. So the error of a
weight is at most half a step d s of its group wherever the rounded grid still covers the weight.

Two searches are used. With a minimum (`fit_affine`):

    least over s, m, q of  sum w (s q - m - x)^2,  0 <= q <= n,  m >= 0

where for each of a few grids q = round((x - min) / step) is fixed and s and m solve the normal
equations. Without (`fit_scale`, `fit_three_bits`), with weights w = x^2:

    greatest over q of  (sum w x q)^2 / sum w q^2,  s = sum w x q / sum w q^2

Sums are taken in float32, one number after the other, as the reference does: the same bytes come
out, except for the q of groups whose scale is rounded to 0.

Source: ggml-org/ggml, ggml-quants.c (quantize_row_q4_K_ref, make_qkx2_quants, make_qx_quants,
make_q3_quants), the reference that makes files deterministic; without an importance matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldmref.io.quantized.bits import pack, write_halves
from ldmref.io.quantized.encode import ratio

ONE = np.float32(1)
NEGLIGIBLE = np.float32(1e-15)  # magnitude below which a group counts as zero


class AffineSearch(NamedTuple):
    """The grids of a search: `steps` + 1 of (low + 0.1 i + n) / range, and n / range."""

    largest: int  # n, the largest q
    low: float
    steps: int
    absolute: bool  # whether the sum of absolute errors counts, not that of squares


SEARCHES = {
    "Q2_K": AffineSearch(3, -0.5, 15, True),
    "Q4_K": AffineSearch(15, -1.0, 20, False),
    "Q5_K": AffineSearch(31, -0.5, 15, False),
}


def quantize_q2_k(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q2_K: s and t of 4 bits for groups of 16; (n, 256) -> (n, 84)."""
    groups = x.reshape(-1, 16, 16)
    columns = to_columns(groups)
    scale, minimum = fit_affine(columns, np.abs(columns), SEARCHES["Q2_K"])
    d, s = _round_scales(scale.reshape(-1, 16), 15)
    m, t = _round_scales(minimum.reshape(-1, 16), 15)
    q = _affine_numbers(groups, d, s, m, t, 3)
    fields = [s | t << 4, _pack_halves(q, 2), write_halves(d), write_halves(m)]
    return np.concatenate(fields, axis=1)


def quantize_q3_k(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q3_K: s of 6 bits for groups of 16; (n, 256) -> (n, 110)."""
    groups = x.reshape(-1, 16, 16)
    scale = fit_three_bits(to_columns(groups))
    d, s = _round_signed_scales(scale.reshape(-1, 16), 32, 31)
    step = _halved(d) * s
    q = (_signed_numbers(groups, step, 4, 3) + 4).astype(np.uint8)
    shifted = (s + 32).astype(np.uint8)
    fields = [
        pack(q.reshape(-1, 256) >> 2, 1),
        _pack_halves(q & 3, 2),
        pack(shifted & 15, 4),
        pack(shifted >> 4, 2),
        write_halves(d),
    ]
    return np.concatenate(fields, axis=1)


def quantize_q4_k(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q4_K: s and t of 6 bits for groups of 32; (n, 256) -> (n, 144)."""
    d, m, scales, q = _quantize_six_bits(x, SEARCHES["Q4_K"])
    low = pack(q.reshape(-1, 4, 64), 4).reshape(-1, 128)
    return np.concatenate([write_halves(d), write_halves(m), scales, low], axis=1)


def quantize_q5_k(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q5_K: s and t of 6 bits for groups of 32; (n, 256) -> (n, 176)."""
    d, m, scales, q = _quantize_six_bits(x, SEARCHES["Q5_K"])
    fifth = pack(q.reshape(-1, 256) >> 4, 1)
    low = pack(q.reshape(-1, 4, 64) & 15, 4).reshape(-1, 128)
    return np.concatenate([write_halves(d), write_halves(m), scales, fifth, low], axis=1)


def quantize_q6_k(x: np.ndarray) -> np.ndarray:
    """Return blocks of Q6_K: s of 8 bits for groups of 16; (n, 256) -> (n, 210)."""
    groups = x.reshape(-1, 16, 16)
    scale = fit_scale(to_columns(groups), 32)
    d, s = _round_signed_scales(scale.reshape(-1, 16), 128, 127)
    q = (_signed_numbers(groups, _halved(d) * s, 32, 31) + 32).astype(np.uint8).reshape(-1, 256)
    low = pack((q & 15).reshape(-1, 2, 128), 4).reshape(-1, 128)
    high = _pack_halves(q >> 4, 2)
    signs = s.astype(np.int8).view(np.uint8)
    return np.concatenate([low, high, signs, write_halves(d)], axis=1)


# -- scales of the groups -------------------------------------------------------------------------


def fit_affine(
    x: np.ndarray, weights: np.ndarray, search: AffineSearch
) -> tuple[np.ndarray, np.ndarray]:
    """Return scale s and minimum m of each group, for x = s q - m.

    Args:
        x: Weights, a column for each group, (k, groups) float32.
        weights: How much the error of each counts, in the same shape.
        search: The grids that are tried.

    Returns:
        s and m, (groups,) each; both are at least 0.
    """
    n = np.float32(search.largest)
    low = np.minimum(x.min(axis=0), np.float32(0))
    high = x.max(axis=0)
    flat = high == low
    sum_w = total(weights)
    sum_x = total(weights * x)
    inverse = ratio(n, high - low)
    scale = ratio(ONE, inverse)
    minimum = low
    best = _error(x, weights, scale, minimum, _grid(x, inverse, minimum, n), search)
    for i in range(search.steps + 1):
        factor = np.float32(search.low) + np.float32(0.1) * np.float32(i) + n
        q = _grid(x, ratio(factor, high - minimum), minimum, n)
        sum_q = total(weights * q)
        sum_qq = total(weights * q * q)
        sum_xq = total(weights * q * x)
        determinant = sum_w * sum_qq - sum_q * sum_q
        inverse_d = np.where(determinant > 0, determinant, np.float32(1))
        new_scale = (sum_w * sum_xq - sum_x * sum_q) / inverse_d
        new_minimum = (sum_qq * sum_x - sum_q * sum_xq) / inverse_d
        above = new_minimum > 0
        one = np.where(sum_qq > 0, sum_qq, np.float32(1))
        new_scale = np.where(above, sum_xq / one, new_scale)
        new_minimum = np.where(above, np.float32(0), new_minimum)
        error = _error(x, weights, new_scale, new_minimum, q, search)
        better = (determinant > 0) & (error < best) & ~flat
        best = np.where(better, error, best)
        scale = np.where(better, new_scale, scale)
        minimum = np.where(better, new_minimum, minimum)
    return np.where(flat, np.float32(0), scale), np.float32(0) - minimum  # no -0


def fit_scale(x: np.ndarray, largest: int) -> np.ndarray:
    """Return the signed scale s of each group, for x = s q with -largest <= q < largest.

    Args:
        x: Weights, a column for each group, (k, groups) float32.
        largest: The magnitude of the smallest q.

    Returns:
        s, (groups,); 0 for a group of zeros.
    """
    extreme, empty = _find_extreme(x)
    w = x * x
    scale = np.zeros_like(extreme)
    best = np.zeros_like(extreme)
    for i in (0, *range(-9, 0), *range(1, 10)):
        factor = -(np.float32(largest) + np.float32(0.1) * np.float32(i))
        q = np.clip(np.rint(ratio(factor, extreme) * x), -largest, largest - 1)
        sum_xq = total(w * x * q)
        sum_qq = total(w * q * q)
        better = (sum_xq * sum_xq > best * sum_qq) | (i == 0)
        scale = np.where(better, ratio(sum_xq, sum_qq), scale)
        best = np.where(better, scale * sum_xq, best)
    return np.where(empty, np.float32(0), scale)


def fit_three_bits(x: np.ndarray) -> np.ndarray:
    """Return the signed scale s of each group, for x = s q with -4 <= q <= 3.

    Starting from the grid of the weight of largest magnitude, each q in turn is replaced by the
    best one for the scale that the others give, five times.

    Args:
        x: Weights, a column for each group, (k, groups) float32.

    Returns:
        s, (groups,); 0 for a group of zeros.
    """
    extreme, empty = _find_extreme(x)
    w = x * x
    q = np.minimum(np.rint(ratio(np.float32(-4), extreme) * x), np.float32(3))
    sum_xq = total(w * x * q)
    sum_qq = total(w * q * q)
    for _ in range(5):
        for i in range(len(x)):
            one, weight, number = x[i], w[i], q[i]
            rest_xq = sum_xq - weight * one * number
            rest_qq = sum_qq - weight * number * number
            new = np.clip(np.rint(ratio(one * rest_qq, rest_xq)), -4, 3)
            new_xq = rest_xq + weight * one * new
            new_qq = rest_qq + weight * new * new
            gain = (new_qq > 0) & (new_xq * new_xq * sum_qq > sum_xq * sum_xq * new_qq)
            better = (rest_xq > 0) & (new != number) & gain
            q[i] = np.where(better, new, number)
            sum_xq = np.where(better, new_xq, sum_xq)
            sum_qq = np.where(better, new_qq, sum_qq)
    return np.where(empty, np.float32(0), ratio(sum_xq, sum_qq))


def to_columns(groups: np.ndarray) -> np.ndarray:
    """Return a column for each group, (blocks, groups, k) -> (k, blocks * groups)."""
    return np.ascontiguousarray(groups.reshape(-1, groups.shape[2]).T)


def total(x: np.ndarray) -> np.ndarray:
    """Return sums of columns, one number after the other in float32; (k, groups) -> (groups,)."""
    return np.add.reduce(x, axis=0)


def _grid(x: np.ndarray, inverse: np.ndarray, minimum: np.ndarray, n: np.float32) -> np.ndarray:
    return np.clip(np.rint(inverse * (x - minimum)), np.float32(0), n)


def _error(
    x: np.ndarray,
    weights: np.ndarray,
    scale: np.ndarray,
    minimum: np.ndarray,
    q: np.ndarray,
    search: AffineSearch,
) -> np.ndarray:
    difference = scale * q + minimum - x
    return total(weights * (np.abs(difference) if search.absolute else difference * difference))


def _find_extreme(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of largest magnitude of each group, and whether it is negligible."""
    first = np.abs(x).argmax(axis=0)
    extreme = np.take_along_axis(x, first[None], axis=0)[0]
    return extreme, np.abs(extreme) < NEGLIGIBLE


# -- scales of a block ----------------------------------------------------------------------------


def _quantize_six_bits(
    x: np.ndarray, search: AffineSearch
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return d, m, the packed scales and q of Q4_K and Q5_K."""
    groups = x.reshape(-1, 8, 32)
    columns = to_columns(groups)
    mean = np.sqrt(total(columns * columns) / np.float32(32))
    scale, minimum = fit_affine(columns, mean + np.abs(columns), search)
    d, s = _round_scales(scale.reshape(-1, 8), 63)
    m, t = _round_scales(minimum.reshape(-1, 8), 63)
    q = _affine_numbers(groups, d, s, m, t, search.largest)
    return d, m, pack_scales(s, t), q


def pack_scales(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the 12 bytes of s and t of six bits, the inverse of `unpack_scales`."""
    first_s = s[:, :4] | s[:, 4:] >> 4 << 6
    first_t = t[:, :4] | t[:, 4:] >> 4 << 6
    rest = s[:, 4:] & 15 | (t[:, 4:] & 15) << 4
    return np.concatenate([first_s, first_t, rest], axis=1)


def _round_scales(scales: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return d, (n, 1), and integers s up to `largest`, (n, groups), of scales = d s."""
    most = scales.max(axis=1, keepdims=True)
    s = np.rint(ratio(np.float32(largest), most) * scales)
    return most / np.float32(largest), np.minimum(s, largest).astype(np.uint8)


def _round_signed_scales(
    scales: np.ndarray, smallest: int, largest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return d, (n, 1), and integers s of scales = d s: the largest in magnitude is -smallest."""
    first = np.abs(scales).argmax(axis=1)
    extreme = np.take_along_axis(scales, first[:, None], axis=1)
    inverse = ratio(-np.float32(smallest), extreme)
    s = np.clip(np.rint(inverse * scales), -smallest, largest).astype(np.float32)
    return ratio(ONE, inverse), s


def _affine_numbers(
    x: np.ndarray, d: np.ndarray, s: np.ndarray, m: np.ndarray, t: np.ndarray, largest: int
) -> np.ndarray:
    """Return the nearest q of x = (d s) q - m t, with d and m as float16 holds them."""
    step = (_halved(d) * s.astype(np.float32))[:, :, None]
    offset = (_halved(m) * t.astype(np.float32))[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(step > 0, np.rint((x + offset) / step), np.float32(0))
    return np.clip(q, 0, largest).astype(np.uint8)


def _signed_numbers(x: np.ndarray, step: np.ndarray, below: int, above: int) -> np.ndarray:
    """Return the nearest q of x = step q, from -below to above; 0 where the step is 0."""
    steps = step[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(steps != 0, np.rint(x / steps), np.float32(0))
    return np.clip(q, -below, above).astype(np.int16)


def _halved(d: np.ndarray) -> np.ndarray:
    """Return numbers as float16 holds them."""
    with np.errstate(over="ignore"):
        return d.astype(np.float16).astype(np.float32)


def _pack_halves(q: np.ndarray, bits: int) -> np.ndarray:
    """Return 64 bytes, whose first and last 32 hold half of the numbers each."""
    return pack(q.reshape(-1, 2, 128), bits).reshape(-1, 64)
