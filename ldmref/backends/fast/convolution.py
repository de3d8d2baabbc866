"""Convolution over pictures whose channels lie together, (n, h, w, c): a strategy for each shape.

| kernel | where | strategy |
|---|---|---|
| 1 x 1 | everywhere | one matrix product |
| 3 x 3, stride 1 | at least `FEWEST` tiles and channels | Winograd (`winograd.py`) |
| other, stride 1 | few output channels | one product, then k * k shifted sums |
| other | few pixels | im2col by channels: the weight is read once, as it lies |
| other | else | im2col by blocks of rows |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.backends.fast.matmul import linear
from ldmref.backends.fast.threads import fair, parallel, scratch

FEWEST = 64  # tiles, and channels, below which Winograd costs more than it saves, or more memory
FEW, OUTPUTS = 256, 1024  # pixels of all pictures; output channels of a block
BLOCK = 2**20  # numbers in a block of columns


def by_tiles(n: int, h: int, w: int, c_in: int, c_out: int, m: int = 2) -> bool:
    """Whether Winograd's F(m x m) pays for a 3 x 3 convolution at stride 1."""
    tiles = n * -(-h // m) * -(-w // m)
    return tiles >= FEWEST and min(c_in, c_out) >= FEWEST


def pointwise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """1 x 1; x: (n, h, w, i), weight: (o, i, 1, 1) -> (n, h, w, o)."""
    return linear(x, weight[:, :, 0, 0], bias)


def im2col(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: int,
    padding: int,
    keep: Callable[[Callable[[], np.ndarray]], np.ndarray] = lambda make: make(),
) -> np.ndarray:
    """Any kernel; x: (n, h, w, i), weight: (o, i, k, k) -> (n, h', w', o).

    `keep` may keep the weight as the matrix that it is called to make.
    """
    if padding:
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    k = weight.shape[2]
    if stride == 1 and k * k * weight.shape[0] < weight.shape[1]:
        return _by_shifts(x, weight, bias)
    n, h, w = x.shape[0], (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    if n * h * w <= FEW:
        return _by_channels(x, weight, bias, stride, (n, h, w))
    c, out = weight.shape[1], weight.shape[0]
    matrix = keep(lambda: weight.transpose(2, 3, 1, 0).reshape(k * k * c, out))
    return _by_rows(x, matrix, bias, stride, (n, h, w), k)


def _by_rows(x, matrix, bias, stride, shape, k):
    """Columns (rows * w', k * k * i) times matrix (k * k * i, o)."""
    (n, h, w), c, out = shape, x.shape[3], matrix.shape[1]
    y = np.empty((n, h, w, out), x.dtype)
    rows = max(1, min(h, BLOCK // (k * k * c * w), -(-h // 2)))
    bands = -(-h // rows)

    def band(i: int) -> None:
        image, top = i // bands, (i % bands) * rows
        height = min(rows, h - top)
        columns = scratch("columns", (height, w, k, k, c))
        for dy in range(k):
            for dx in range(k):
                first = stride * top + dy
                lines = x[image, first : first + stride * (height - 1) + 1 : stride]
                columns[:, :, dy, dx] = lines[:, dx : dx + stride * (w - 1) + 1 : stride]
        product = y[image, top : top + height].reshape(-1, out)
        np.matmul(columns.reshape(-1, k * k * c), matrix, out=product)
        if bias is not None:
            product += bias

    parallel(band, n * bands)
    return y


def _by_shifts(x, weight, bias):
    """Every pixel times all of the kernel, (k, k, o) numbers, added up where they belong."""
    (n, h, w, c), (out, _, k, _) = x.shape, weight.shape
    h, w = h - k + 1, w - k + 1
    parts = linear(x, weight.transpose(2, 3, 0, 1).reshape(-1, c), None)
    parts = parts.reshape(*x.shape[:3], k, k, out)
    y = np.empty((n, h, w, out), x.dtype)
    y[...] = 0.0 if bias is None else bias
    for dy in range(k):
        for dx in range(k):
            y += parts[:, dy : dy + h, dx : dx + w, dy, dx]
    return y


def _by_channels(x, weight, bias, stride, shape):
    """Weight (o, i * k * k) times columns (i * k * k, pixels), in blocks of output channels."""
    (n, h, w), (out, c, k, _) = shape, weight.shape
    lines = np.empty((c, *x.shape[:3]), x.dtype)
    columns = np.empty((c, k, k, n, h, w), x.dtype)
    some = fair(c, c)

    def gather(i: int) -> None:
        here = slice(i * some, (i + 1) * some)
        lines[here] = x[..., here].transpose(3, 0, 1, 2)
        for dy in range(k):
            for dx in range(k):
                down = slice(dy, dy + stride * (h - 1) + 1, stride)
                across = slice(dx, dx + stride * (w - 1) + 1, stride)
                columns[here, dy, dx] = lines[here, :, down, across]

    parallel(gather, -(-c // some))
    flat = columns.reshape(c * k * k, -1)
    y = np.empty((n * h * w, out), x.dtype)
    step = fair(out, OUTPUTS)

    def block(i: int) -> None:
        these = slice(i * step, (i + 1) * step)
        product = weight[these].reshape(-1, c * k * k) @ flat
        y[:, these] = product.T if bias is None else product.T + bias[these]

    parallel(block, -(-out // step))
    return y.reshape(n, h, w, out)
