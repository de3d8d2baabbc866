"""Products of tokens with weights, shared out among the threads."""

from __future__ import annotations

import numpy as np

from ldmref.backends.fast.pointwise import gelu_
from ldmref.backends.fast.threads import parallel, scratch

ROWS = 256  # of a block
SMALL = 2**22  # multiplications that are not worth sharing


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x @ weight.T + bias; x: (..., i), weight: (o, i) -> (..., o)."""
    rows, out = x.reshape(-1, x.shape[-1]), weight.shape[0]
    y = np.empty((rows.shape[0], out), x.dtype)
    tall = rows.shape[0] >= 2 * ROWS or rows.shape[0] > out
    whole = rows.shape[0] if tall else out
    step = whole if y.size * rows.shape[1] < SMALL else max(64, min(ROWS, -(-whole // 2)))

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
    step = max(1, min(ROWS, -(-rows.shape[0] // 2)))

    def block(i: int) -> None:
        part = rows[i * step : (i + 1) * step]
        both = scratch("both", (len(part), 2 * half))
        np.matmul(part, weight.T, out=both)
        if bias is not None:
            both += bias
        gate = np.ascontiguousarray(both[:, half:]).reshape(-1)
        gelu_(gate)
        np.multiply(both[:, :half], gate.reshape(-1, half), out=y[i * step : (i + 1) * step])

    parallel(block, -(-rows.shape[0] // step))
    return y.reshape(*x.shape[:-1], half)
