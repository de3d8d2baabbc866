"""Group and layer norm in two passes over blocks that fit the cache, with the activation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.backends.fast.threads import fair, parallel, scratch

BLOCK = 2**18  # numbers that are worked on at once; with fewer, threads wait for each other
SMALL = 2**17  # numbers that are not worth sharing out among threads


def group_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    groups: int,
    eps: float,
    activation_: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Zero mean and unit variance over each group of channels; x: (n, h, w, c), contiguous.

    Blocks of pixels give means and sums of squares about them, which are merged in float64 (Chan,
    Golub and LeVeque 1983, The American Statistician 37:242, equation 2.1).
    """
    n, c = x.shape[0], x.shape[-1]
    rows = x.reshape(n, -1, c)
    pixels = rows.shape[1]
    step = max(1, -(-pixels // -(-pixels * c // BLOCK)))  # by the shape alone: it rounds the sums
    blocks = -(-pixels // step)
    means, squares = np.empty((n, blocks, c)), np.empty((n, blocks, c))
    y = np.empty_like(rows)

    def measure(i: int) -> None:
        image, block = divmod(i, blocks)
        part = rows[image, block * step : (block + 1) * step]
        centred = scratch("centred", part.shape, x.dtype)
        mean = np.full(len(part), 1.0 / len(part), x.dtype) @ part
        np.subtract(part, mean, out=centred)
        means[image, block] = mean
        squares[image, block] = np.einsum("ij,ij->j", centred, centred)

    parallel(measure, n * blocks)
    sizes = np.full((blocks, 1), float(step))
    sizes[-1] = pixels - (blocks - 1) * step
    per_group = (n, blocks, groups, c // groups)
    means, squares = means.reshape(per_group), squares.reshape(per_group)
    sizes = sizes[..., None]
    mean = np.mean(np.sum(means * sizes, axis=1), axis=-1) / pixels
    away = means - mean[:, None, :, None]
    variance = np.mean(np.sum(squares + sizes * away * away, axis=1), axis=-1) / pixels
    scale = (weight.reshape(groups, -1) / np.sqrt(variance + eps)[..., None]).reshape(n, c)
    shift = (bias - np.repeat(mean, c // groups, axis=1) * scale).astype(x.dtype)
    scale = scale.astype(x.dtype)

    def normalize(i: int) -> None:
        image, block = divmod(i, blocks)
        part = y[image, block * step : (block + 1) * step]
        np.multiply(rows[image, block * step : (block + 1) * step], scale[image], out=part)
        part += shift[image]
        if activation_ is not None:
            activation_(part)

    parallel(normalize, n * blocks)
    return y.reshape(x.shape)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Zero mean and unit variance over the last axis; x: (..., d)."""
    d = x.shape[-1]
    rows = x.reshape(-1, d)
    y = np.empty_like(rows)
    step = len(rows) if x.size < SMALL else fair(len(rows), max(1, 2 * BLOCK // d))
    average = np.full(d, 1.0 / d, x.dtype)

    def block(i: int) -> None:
        part, out = rows[i * step : (i + 1) * step], y[i * step : (i + 1) * step]
        np.subtract(part, (part @ average)[:, None], out=out)
        variance = np.vecdot(out, out) / d
        out *= (1.0 / np.sqrt(variance + eps))[:, None].astype(x.dtype)
        out *= weight
        out += bias

    parallel(block, -(-len(rows) // step) if x.size else 0)
    return y.reshape(x.shape)
