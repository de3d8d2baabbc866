"""Group norm and layer norm in two passes over blocks that fit the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldmref.backends.fast.threads import block_length, parallel, scratch

BLOCK = 2**18  # elements of a block: as large as the cache allows, since short calls contend
SMALL = 2**17  # elements below which threads cost more than they save


def group_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    groups: int,
    eps: float,
    activation_: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Normalise each group of channels to mean 0 and variance 1; x: (n, h, w, c), contiguous.

    Each block of pixels gives channel means and sums of squares about them, merged in float64
    (Chan, Golub and LeVeque 1983, The American Statistician 37:242, equation 2.1). The in-place
    `activation_` is applied to the result.
    """
    n = x.shape[0]
    c = x.shape[-1]
    rows = x.reshape(n, -1, c)
    pixels = rows.shape[1]
    # The step sets the rounding of the sums, so it must depend only on the shape.
    step = max(1, -(-pixels // -(-pixels * c // BLOCK)))
    blocks = -(-pixels // step)
    means = np.empty((n, blocks, c))
    squares = np.empty((n, blocks, c))
    y = np.empty_like(rows)

    def locate(i: int) -> tuple[int, int, slice]:
        image, block = divmod(i, blocks)
        return image, block, slice(block * step, (block + 1) * step)

    def measure(i: int) -> None:
        image, block, at = locate(i)
        part = rows[image, at]
        centred = scratch("centred", part.shape, x.dtype)
        mean = np.full(len(part), 1.0 / len(part), x.dtype) @ part
        np.subtract(part, mean, out=centred)
        means[image, block] = mean
        squares[image, block] = np.einsum("ij,ij->j", centred, centred)

    parallel(measure, n * blocks, (rows.shape,))
    sizes = np.full((blocks, 1, 1), float(step))
    sizes[-1] = pixels - (blocks - 1) * step
    per_group = (n, blocks, groups, c // groups)
    means = means.reshape(per_group)
    squares = squares.reshape(per_group)
    mean = np.mean(np.sum(means * sizes, axis=1), axis=-1) / pixels
    offsets = means - mean[:, None, :, None]
    variance = np.mean(np.sum(squares + sizes * offsets * offsets, axis=1), axis=-1) / pixels
    scale = (weight.reshape(groups, -1) / np.sqrt(variance + eps)[..., None]).reshape(n, c)
    shift = (bias - np.repeat(mean, c // groups, axis=1) * scale).astype(x.dtype)
    scale = scale.astype(x.dtype)

    def normalize(i: int) -> None:
        image, _, at = locate(i)
        part = y[image, at]
        np.multiply(rows[image, at], scale[image], out=part)
        part += shift[image]
        if activation_ is not None:
            activation_(part)

    parallel(normalize, n * blocks, (rows.shape,))
    return y.reshape(x.shape)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Normalise the last axis to mean 0 and variance 1; x: (..., d)."""
    d = x.shape[-1]
    rows = x.reshape(-1, d)
    y = np.empty_like(rows)
    step = len(rows) if x.size < SMALL else block_length(len(rows), max(1, 2 * BLOCK // d))
    average = np.full(d, 1.0 / d, x.dtype)

    def block(i: int) -> None:
        part = rows[i * step : (i + 1) * step]
        out = y[i * step : (i + 1) * step]
        np.subtract(part, (part @ average)[:, None], out=out)
        variance = np.vecdot(out, out) / d
        out *= (1.0 / np.sqrt(variance + eps))[:, None].astype(x.dtype)
        out *= weight
        out += bias

    parallel(block, -(-len(rows) // step) if x.size else 0, (rows.shape,))
    return y.reshape(x.shape)
