"""Products of tokens with weights, divided among the threads."""

from __future__ import annotations

import numpy as np

from ldmref.backends.fast.memory import empty, scratch
from ldmref.backends.fast.pointwise import BLOCK, gelu_
from ldmref.backends.fast.threads import divisible, parallel

# of a block, at most
ROWS = 1024
COLUMNS = 2560
# multiplications and weight elements that one thread does alone
SMALL = 2**22
LIGHT = 2**19
# multiplications of a block
WORK = 2**23


def choose_block_length(total: int, multiplications: int, maximum: int) -> int:
    """Return the length of equal blocks of a product, at most `maximum`.

    It depends on the shape alone, not on the number of threads: some kernels of BLAS (Haswell's)
    round a result differently near the edge of a product.

    Args:
        total: Rows or columns to divide, > 0.
        multiplications: Of the whole product.
        maximum: Rows or columns of a block, at most.
    """
    blocks = min(total, max(-(-total // maximum), multiplications // WORK))
    return -(-total // blocks)


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


@divisible
def _multiply_in_blocks(
    rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """Compute rows @ weight.T + bias, divided by rows or by columns of the result."""
    out = weight.shape[0]
    y = empty((rows.shape[0], out), rows.dtype)
    by_rows = rows.shape[0] >= min(512, out)
    length = rows.shape[0] if by_rows else out
    step = choose_block_length(length, rows.shape[0] * weight.size, ROWS) if length else 1

    def block(i: int) -> None:
        part = slice(i * step, (i + 1) * step)
        row, column = (part, slice(None)) if by_rows else (slice(None), part)
        target = y[row, column]
        np.matmul(rows[row], weight[column].T, out=target)
        if bias is not None:
            target += bias[column]

    parallel(block, -(-length // step))
    return y


@divisible
def geglu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Compute a * gelu(gate), [a, gate] = x @ weight.T + bias; weight: (2 o, i) -> (..., o).

    [a, gate] exists only one block at a time.
    """
    rows = x.reshape(-1, x.shape[-1])
    half = weight.shape[0] // 2
    y = empty((rows.shape[0], half), x.dtype)
    height = max(1, min(ROWS // 2, rows.shape[0]))
    bands = -(-rows.shape[0] // height)
    width = choose_block_length(half, height * weight.size, COLUMNS) if half else 1
    columns = -(-half // width)

    def block(i: int) -> None:
        band, column = divmod(i, columns)
        row = slice(band * height, (band + 1) * height)
        values = slice(column * width, min((column + 1) * width, half))
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

    parallel(block, bands * columns if y.size else 0)
    return y.reshape(*x.shape[:-1], half)
