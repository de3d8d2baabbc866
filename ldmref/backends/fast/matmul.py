"""Products of tokens with weights, divided among the threads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ldmref.backends.fast.memory import scratch
from ldmref.backends.fast.pointwise import BLOCK, gelu_
from ldmref.backends.fast.threads import count, divisible, parallel

# Rows that the kernels of BLAS compute at a time. Where a product is cut along its rows at
# multiples of this, every element keeps its bits: Haswell's kernels take 24 rows, the others 4, 6,
# 8 or 12. Cut along its columns, it does not: Haswell's kernels round the last eight differently.
TILE = 24
ROWS = 42 * TILE  # of a part, at most
COLUMNS = 2560  # of [a, gate] that exist at a time, at most
FEW_ROWS = 512  # below which the rows of the weight are divided instead of those of the tokens
LANES = 8  # numbers that the kernels keep in a register, at least
# multiplications and weight elements that one thread does alone
SMALL = 2**22
LIGHT = 2**19
# Elements of a weight from which few rows are multiplied transposed, weight @ rows.T. The kernels
# then pack the few rows once and read the weight, which does not fit the cache, only once.
LARGE = 2**20
WORK = 2**23  # multiplications of a part, at least
# Multiplications of one call of BLAS, at least: up to 10^6, OpenBLAS takes other kernels on
# processors with AVX-512 (`sgemm_small_matrix_permit`), which round differently.
CALL = 2**20


def choose_parts(
    total: int, multiplications: int, maximum: int = ROWS, calls: int = 1
) -> list[slice]:
    """Divide the rows of a product into parts of equal length, as many for each thread.

    The parts begin at multiples of `TILE`, and none of them is so small that BLAS computes it by
    other kernels, so the result does not depend on the number of threads.

    Args:
        total: Rows to divide, >= 0.
        multiplications: Of the whole product.
        maximum: Rows of a part, at most, unless they are too few for `CALL`; a multiple of `TILE`.
        calls: Calls of BLAS for each part.
    """
    turns = max(1, -(-total // (count() * maximum)))
    worthwhile = max(1, multiplications // WORK, -(-total // maximum))
    parts = min(count() * turns, worthwhile)
    least = -(-CALL * calls * total // max(multiplications, 1))
    length = TILE * max(1, -(-total // (parts * TILE)), -(-least // TILE))
    starts = list(range(0, total, length))
    if len(starts) > 1 and total - starts[-1] < least:
        starts.pop()
    return [slice(*ends) for ends in pairwise([*starts, total])]


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Compute x @ weight.T + bias; x: (..., i), weight: (o, i) -> (..., o)."""
    rows = x.reshape(-1, x.shape[-1])
    out = weight.shape[0]
    if rows.shape[0] * weight.size < SMALL and weight.size < LIGHT:
        y = np.matmul(rows, weight.T)
        if bias is not None:
            y += bias
    else:
        y = _multiply_in_blocks(rows, weight, bias)
    return y.reshape(*x.shape[:-1], out)


def arrange_weight(weight: np.ndarray, copy: bool | None = None) -> np.ndarray:
    """Return a matrix, (o, i), in the order of memory in which products read it fastest.

    Large weights stay as they are in files, row by row: with AVX-512, products of few tokens are 5
    to 10 % faster so, those of many up to 5 % slower. Others are transposed in memory.

    Args:
        weight: The matrix.
        copy: Whether to copy it; None: if the order requires it.
    """
    return np.array(weight, order="C" if weight.size >= LARGE else "F", copy=copy)


def choose_columns(total: int, multiplications: int) -> list[slice]:
    """Divide the columns of a product by its shape alone, into a power of two of equal parts.

    Haswell's kernels round the last columns of a call differently, so the parts must not depend on
    the number of threads.

    Args:
        total: Columns to divide, >= 0.
        multiplications: Of the whole product; each part has at least `WORK` of them.
    """
    parts = 1 << max(0, (multiplications // WORK).bit_length() - 1)
    width = LANES * -(-total // (parts * LANES))
    return [slice(start, min(start + width, total)) for start in range(0, total, width or 1)]


def _fill_lanes(rows: np.ndarray) -> np.ndarray:
    """Return few rows, with rows of zeros after them if the transposed product is then faster.

    Its kernels compute the last 2 to 7 rows of 8 in pieces, which takes longer than 8 rows: 77
    tokens take 5 to 20 % longer than 80.
    """
    (n, width) = rows.shape
    missing = -n % LANES
    if n < LANES or missing == 0 or missing == LANES - 1:
        return rows
    filled = scratch("filled rows", (n + missing, width), rows.dtype)
    filled[:n] = rows
    filled[n:] = 0.0
    return filled


@divisible
def _multiply_in_blocks(
    rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """Compute rows @ weight.T + bias, divided by its rows or its columns."""
    (n, out) = (rows.shape[0], weight.shape[0])
    y = np.empty((n, out), rows.dtype)
    by_rows = n >= min(FEW_ROWS, out)
    if weight.size >= LARGE and not by_rows:
        _multiply_transposed(rows, weight, bias, y)
        return y
    work = n * weight.size
    parts = choose_parts(n, work) if by_rows else choose_columns(out, work)

    def multiply(i: int) -> None:
        row, column = (parts[i], slice(None)) if by_rows else (slice(None), parts[i])
        target = y[row, column]
        np.matmul(rows[row], weight[column].T, out=target)
        if bias is not None:
            target += bias[column]

    parallel(multiply, len(parts))
    return y


def _multiply_transposed(
    rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, y: np.ndarray
) -> None:
    """Write rows @ weight.T + bias into y, (rows, o), by rows of the weight: columns of y."""
    n = len(rows)
    parts = choose_parts(len(weight), n * weight.size)
    filled = _fill_lanes(rows)

    def multiply(i: int) -> None:
        part = parts[i]
        product = scratch("product", (len(weight[part]), len(filled)), rows.dtype)
        np.matmul(weight[part], filled.T, out=product)
        if bias is None:
            y[:, part] = product[:, :n].T
        else:
            np.add(product[:, :n].T, bias[part], out=y[:, part])

    parallel(multiply, len(parts))


@divisible
def geglu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Compute a * gelu(gate), [a, gate] = x @ weight.T + bias; weight: (2 o, i) -> (..., o).

    [a, gate] exists only one block at a time.
    """
    rows = x.reshape(-1, x.shape[-1])
    half = weight.shape[0] // 2
    y = np.empty((rows.shape[0], half), x.dtype)
    if y.size and (rows.shape[0] >= min(FEW_ROWS, half) or weight.size < LARGE):
        _geglu_by_rows(rows, weight, bias, y)
    elif y.size:
        _geglu_transposed(rows, weight, bias, y)
    return y.reshape(*x.shape[:-1], half)


def _geglu_by_rows(
    rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, y: np.ndarray
) -> None:
    """Write the result into y, (rows, o), by blocks of rows and of columns."""
    half = y.shape[1]
    blocks = -(-half // COLUMNS)
    width = -(-half // blocks)  # set by the shape alone: columns keep no bits
    parts = choose_parts(len(rows), len(rows) * weight.size, ROWS // 2, 2 * blocks)

    def block(i: int) -> None:
        row = parts[i]
        for first in range(0, half, width):
            values = slice(first, min(first + width, half))
            gates = slice(half + values.start, half + values.stop)
            shape = (len(rows[row]), values.stop - values.start)
            value = scratch("value", shape)
            gate = scratch("gates", shape)
            np.matmul(rows[row], weight[values].T, out=value)
            np.matmul(rows[row], weight[gates].T, out=gate)
            target = y[row, values]
            step = max(1, BLOCK // width)
            for top in range(0, shape[0], step):  # rows that fit the cache
                a = value[top : top + step]
                b = gate[top : top + step]
                if bias is not None:
                    a += bias[values]
                    b += bias[gates]
                gelu_(b)
                np.multiply(a, b, out=target[top : top + step])

    parallel(block, len(parts))


def _geglu_transposed(
    rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, y: np.ndarray
) -> None:
    """Write the result into y, (rows, o), by rows of the weight: columns of y."""
    half = y.shape[1]
    parts = choose_parts(half, len(rows) * weight.size, calls=2)
    filled = _fill_lanes(rows)

    def block(i: int) -> None:
        values = parts[i]
        gates = slice(half + values.start, half + values.stop)
        shape = (values.stop - values.start, len(filled))
        value = scratch("value", shape)
        gate = scratch("gates", shape)
        np.matmul(weight[values], filled.T, out=value)
        np.matmul(weight[gates], filled.T, out=gate)
        if bias is not None:
            value += bias[values, None]
            gate += bias[gates, None]
        gelu_(gate)
        value *= gate
        y[:, values] = value[:, : len(rows)].T

    parallel(block, len(parts))
