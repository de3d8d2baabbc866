"""Products of tokens with weights, shared out among the threads."""

from __future__ import annotations

import numpy as np

from ldmref.backends.fast.pointwise import gelu_
from ldmref.backends.fast.threads import fair, parallel, scratch

ROWS, COLUMNS = 1024, 2560  # of a block
SMALL = 2**22  # multiplications that are not worth sharing


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x @ weight.T + bias; x: (..., i), weight: (o, i) -> (..., o)."""
    rows, out = x.reshape(-1, x.shape[-1]), weight.shape[0]
    y = np.empty((rows.shape[0], out), x.dtype)
    tall = rows.shape[0] >= min(512, out)
    whole = rows.shape[0] if tall else out
    step = whole if y.size * rows.shape[1] < SMALL else fair(whole, ROWS)

    def block(i: int) -> None:
        part = slice(i * step, (i + 1) * step)
        here, there = (part, slice(None)) if tall else (slice(None), part)
        target = y[here, there]
        np.matmul(rows[here], weight[there].T, out=target)
        if bias is not None:
            target += bias[there]

    parallel(block, -(-whole // step) if whole else 0)
    return y.reshape(*x.shape[:-1], out)


def geglu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """a * gelu(gate), [a, gate] = x @ weight.T + bias; x: (..., i), weight: (2 o, i) -> (..., o).

    Block by block, so that only a block of [a, gate] is ever there.
    """
    rows, half = x.reshape(-1, x.shape[-1]), weight.shape[0] // 2
    y = np.empty((rows.shape[0], half), x.dtype)
    down, across = min(ROWS // 2, rows.shape[0]), min(COLUMNS, half)
    columns = -(-half // across)

    def block(i: int) -> None:
        row, column = divmod(i, columns)
        here = slice(row * down, (row + 1) * down)
        first, last = column * across, min((column + 1) * across, half)
        shape = (len(rows[here]), last - first)
        value, gate = scratch("value", shape), scratch("gate", shape)
        for target, start in ((value, first), (gate, half + first)):
            these = slice(start, start + shape[1])
            np.matmul(rows[here], weight[these].T, out=target)
            if bias is not None:
                target += bias[these]
        gelu_(gate)
        np.multiply(value, gate, out=y[here, first:last])

    parallel(block, -(-rows.shape[0] // down) * columns if y.size else 0)
    return y.reshape(*x.shape[:-1], half)
