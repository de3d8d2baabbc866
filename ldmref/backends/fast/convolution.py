"""Convolution over images in channels-last memory, (n, h, w, c): an algorithm for each shape.

| kernel | condition | algorithm |
|---|---|---|
| 1 x 1 | | one matrix product |
| 3 x 3, stride 1 | at least 16 channels; many tiles or a light weight | Winograd (`winograd.py`) |
| other, stride 1 | few output channels | one product, then k * k shifted sums |
| other | at most `FEW_PIXELS` outputs, a heavy weight | im2col by channels: reads the weight once |
| other | | im2col by bands of rows |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.backends.fast.matmul import choose_parts, linear
from ldmref.backends.fast.memory import scratch
from ldmref.backends.fast.threads import block_length, divisible, parallel

# Winograd: channels below which it is slower; tiles below which only light weights (elements) are
# transformed, because a transformed weight takes 16/9 of its memory; channels of F(4x4)
WINOGRAD_CHANNELS = 16
WINOGRAD_TILES = 64
LIGHT_WEIGHT = 2**20
WINOGRAD_4_CHANNELS = 64
FEW_PIXELS = 256  # output pixels of all images
BLOCK = 2**20  # elements in a block of columns

OutputShape = tuple[int, int, int]  # (n, h', w') of the output


def winograd_pays(n: int, h: int, w: int, c_in: int, c_out: int, m: int = 2) -> bool:
    """Return whether Winograd's F(m x m) is the faster 3 x 3 convolution at stride 1."""
    channels = min(c_in, c_out)
    many = n * -(-h // m) * -(-w // m) >= WINOGRAD_TILES
    if m > 2:
        return many and channels >= WINOGRAD_4_CHANNELS
    return channels >= WINOGRAD_CHANNELS and (many or 9 * c_in * c_out <= LIGHT_WEIGHT)


def im2col(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: int,
    padding: int,
    cache: Callable[[Callable[[], np.ndarray]], np.ndarray] = lambda make: make(),
) -> np.ndarray:
    """Convolve with any kernel; x: (n, h, w, i), weight: (o, i, k, k) -> (n, h', w', o).

    `cache(make)` returns `make()`, the weight as a matrix, or an earlier result of it.
    """
    if padding:
        x = _pad(x, padding)
    k = weight.shape[2]
    if stride == 1 and k * k * weight.shape[0] < weight.shape[1]:
        return _by_shifts(x, weight, bias)
    n = x.shape[0]
    h = (x.shape[1] - k) // stride + 1
    w = (x.shape[2] - k) // stride + 1
    if n * h * w <= FEW_PIXELS and weight.size > LIGHT_WEIGHT:
        return _by_channels(x, weight, bias, stride, (n, h, w))
    c = weight.shape[1]
    out = weight.shape[0]
    matrix = cache(lambda: weight.transpose(2, 3, 1, 0).reshape(k * k * c, out))
    return _by_rows(x, matrix, bias, stride, (n, h, w), k)


def _pad(x: np.ndarray, padding: int) -> np.ndarray:
    """Surround images with zeros, as `np.pad` does more slowly."""
    (n, h, w, c) = x.shape
    y = np.empty((n, h + 2 * padding, w + 2 * padding, c), x.dtype)
    y[:, :padding] = 0.0
    y[:, h + padding :] = 0.0
    inside = y[:, padding : h + padding]
    inside[:, :, :padding] = 0.0
    inside[:, :, w + padding :] = 0.0
    inside[:, :, padding : w + padding] = x
    return y


@divisible
def _by_rows(
    x: np.ndarray,
    matrix: np.ndarray,
    bias: np.ndarray | None,
    stride: int,
    shape: OutputShape,
    k: int,
) -> np.ndarray:
    """Multiply columns (rows * w', k * k * i) by the matrix (k * k * i, o)."""
    (n, h, w) = shape
    c = x.shape[3]
    out = matrix.shape[1]
    y = np.empty((n, h, w, out), x.dtype)
    rows = max(1, min(h, BLOCK // (k * k * c * w), h if n > 1 else -(-h // 2)))
    bands = -(-h // rows)
    (per_image, per_row, per_pixel, per_channel) = x.strides
    windows = np.lib.stride_tricks.as_strided(
        x,
        (n, h, w, k, k, c),
        (per_image, stride * per_row, stride * per_pixel, per_row, per_pixel, per_channel),
        writeable=False,
    )

    def band(i: int) -> None:
        image = i // bands
        top = (i % bands) * rows
        height = min(rows, h - top)
        columns = scratch("columns", (height, w, k, k, c))
        np.copyto(columns, windows[image, top : top + height])
        product = y[image, top : top + height].reshape(-1, out)
        np.matmul(columns.reshape(-1, k * k * c), matrix, out=product)
        if bias is not None:
            product += bias

    parallel(band, n * bands)
    return y


def _by_shifts(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Multiply each pixel by the whole kernel and add the products to its k * k outputs."""
    (n, h, w, c) = x.shape
    (out, _, k, _) = weight.shape
    h = h - k + 1
    w = w - k + 1
    products = linear(x, weight.transpose(2, 3, 0, 1).reshape(-1, c), None)
    products = products.reshape(*x.shape[:3], k, k, out)
    y = np.empty((n, h, w, out), x.dtype)
    y[...] = 0.0 if bias is None else bias
    for dy in range(k):
        for dx in range(k):
            y += products[:, dy : dy + h, dx : dx + w, dy, dx]
    return y


@divisible
def _by_channels(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, stride: int, shape: OutputShape
) -> np.ndarray:
    """Multiply the weight (o, i * k * k) by columns (i * k * k, pixels), in blocks of channels."""
    (n, h, w) = shape
    (out, c, k, _) = weight.shape
    lines = np.empty((c, *x.shape[:3]), x.dtype)
    columns = np.empty((c, k, k, n, h, w), x.dtype)
    channels = block_length(c, c)

    def gather(i: int) -> None:
        inputs = slice(i * channels, (i + 1) * channels)
        lines[inputs] = x[..., inputs].transpose(3, 0, 1, 2)
        for dy in range(k):
            for dx in range(k):
                rows = slice(dy, dy + stride * (h - 1) + 1, stride)
                across = slice(dx, dx + stride * (w - 1) + 1, stride)
                columns[inputs, dy, dx] = lines[inputs, :, rows, across]

    parallel(gather, -(-c // channels))
    matrix = columns.reshape(c * k * k, -1)
    y = np.empty((n * h * w, out), x.dtype)
    parts = choose_parts(out, weight.size * n * h * w)

    def multiply(i: int) -> None:
        outputs = parts[i]
        product = np.matmul(weight[outputs].reshape(-1, c * k * k), matrix)
        y[:, outputs] = product.T if bias is None else product.T + bias[outputs]

    parallel(multiply, len(parts))
    return y.reshape(n, h, w, out)
