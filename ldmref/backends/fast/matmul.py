"""Products of tokens with weights, shared out among the threads."""

from __future__ import annotations

import numpy as np

from ldmref.backends.fast.pointwise import BLOCK, gelu_
from ldmref.backends.fast.threads import count, fair, parallel, scratch

ROWS, COLUMNS = 1024, 2560  # of a block
SMALL, LIGHT = 2**22, 2**19  # multiplications, numbers of a weight, that are not worth sharing


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x @ weight.T + bias; x: (..., i), weight: (o, i) -> (..., o)."""
    rows, out = x.reshape(-1, x.shape[-1]), weight.shape[0]
    y = np.empty((rows.shape[0], out), x.dtype)
    tall = rows.shape[0] >= min(512, out)
    whole = rows.shape[0] if tall else out
    alone = y.size * rows.shape[1] < SMALL and weight.size < LIGHT
    step = whole if alone else fair(whole, ROWS)

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
    down = max(1, min(ROWS // 2, rows.shape[0]))
    bands = -(-rows.shape[0] // down)
    columns = max(-(-half // COLUMNS), -(-count() // bands) if bands else 1)
    across = -(-half // columns)

    def block(i: int) -> None:
        row, column = divmod(i, columns)
        here = slice(row * down, (row + 1) * down)
        first, last = column * across, min((column + 1) * across, half)
        shape = (len(rows[here]), last - first)
        value, gate = scratch("value", shape), scratch("gate", shape)
        these, gates = slice(first, last), slice(half + first, half + last)
        np.matmul(rows[here], weight[these].T, out=value)
        np.matmul(rows[here], weight[gates].T, out=gate)
        target, some = y[here, these], max(1, BLOCK // across)
        for top in range(0, shape[0], some):  # rows that the cache can hold
            a, b = value[top : top + some], gate[top : top + some]
            if bias is not None:
                a += bias[these]
                b += bias[gates]
            gelu_(b)
            np.multiply(a, b, out=target[top : top + some])

    parallel(block, bands * columns if y.size else 0)
    return y.reshape(*x.shape[:-1], half)
