"""Group norm and layer norm in two passes over blocks that fit the cache."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ldmref.backends.fast.memory import scratch
from ldmref.backends.fast.pointwise import double_swish_
from ldmref.backends.fast.threads import divisible, parallel

BLOCK = 2**18  # elements of a block: as large as the cache allows, since short calls contend
SMALL = 2**17  # elements below which threads cost more than they save


@divisible
def group_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    groups: int,
    eps: float,
    silu: bool = False,
) -> np.ndarray:
    """Normalise each group of channels to mean 0 and variance 1; x: (n, h, w, c), contiguous.

    Each block of pixels gives channel means and sums of squares about them, merged in float64
    (Chan, Golub and LeVeque 1983, The American Statistician 37:242, equation 2.1). With `silu`,
    SiLU is applied to the result.
    """
    n = x.shape[0]
    c = x.shape[-1]
    rows = x.reshape(n, -1, c)
    pixels = rows.shape[1]
    # The step sets the rounding of the sums, so it must depend only on the shape.
    step = max(1, -(-pixels // -(-pixels * c // BLOCK)))
    blocks = -(-pixels // step)
    images = n if rows.size < SMALL else 1  # of a block
    means = np.empty((n, blocks, c))
    squares = np.empty((n, blocks, c))
    y = np.empty_like(rows)

    def locate(i: int) -> tuple[slice, int, slice]:
        image, block = divmod(i, blocks)
        batch = slice(image * images, (image + 1) * images)
        return batch, block, slice(block * step, (block + 1) * step)

    def measure(i: int) -> None:
        batch, block, at = locate(i)
        part = rows[batch, at]
        centred = scratch("centred", part.shape, x.dtype)
        mean = _averages(part.shape[1]) @ part
        np.subtract(part, mean, out=centred)
        means[batch, block] = mean[:, 0]
        squares[batch, block] = np.einsum("nij,nij->nj", centred, centred)

    parallel(measure, -(-n // images) * blocks if n else 0)
    per_group = (n, blocks, groups, c // groups)
    mean, variance = _merge(means.reshape(per_group), squares.reshape(per_group), step, pixels)
    half = 0.5 if silu else 1.0
    factor = weight.reshape(groups, -1) * (half / np.sqrt(variance + eps))[..., None]
    offset = half * bias.reshape(groups, -1) - mean[..., None] * factor
    scale = factor.reshape(n, 1, c).astype(x.dtype)
    shift = offset.reshape(n, 1, c).astype(x.dtype)

    def normalize(i: int) -> None:
        batch, _, at = locate(i)
        part = y[batch, at]
        np.multiply(rows[batch, at], scale[batch], out=part)
        part += shift[batch]
        if silu:
            double_swish_(part)

    parallel(normalize, -(-n // images) * blocks if n else 0)
    return y.reshape(x.shape)


def _merge(
    means: np.ndarray, squares: np.ndarray, step: int, pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge blocks of `step` pixels, (n, blocks, groups, c), to mean and variance (n, groups)."""
    (blocks, _, c) = means.shape[1:]
    if blocks == 1:
        shares: np.ndarray | float = 1.0 / c
    else:
        shares = np.full((blocks, 1, 1), step / (pixels * c))
        shares[-1] = (pixels - (blocks - 1) * step) / (pixels * c)
    mean = np.add.reduce(means * shares, axis=(1, 3))
    offsets = means - mean[:, None, :, None]
    offsets *= offsets
    sums = squares / (pixels * c) + shares * offsets
    return mean, np.add.reduce(sums, axis=(1, 3))


@lru_cache(maxsize=64)
def _averages(count: int) -> np.ndarray:
    """Return a row of 1 / count: a product with it is a mean."""
    return np.full((1, count), 1.0 / count, np.float32)


@divisible
def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Normalise the last axis to mean 0 and variance 1; x: (..., d)."""
    d = x.shape[-1]
    rows = x.reshape(-1, d)
    y = np.empty_like(rows)
    # The step sets the rounding of the means in some kernels: only the shape may determine it.
    step = len(rows) if x.size < SMALL else max(1, SMALL // d)
    average = _averages(d)[0]

    def block(i: int) -> None:
        part = rows[i * step : (i + 1) * step]
        out = y[i * step : (i + 1) * step]
        np.subtract(part, (part @ average)[:, None], out=out)
        variance = np.vecdot(out, out) / d
        out *= (1.0 / np.sqrt(variance + eps))[:, None].astype(x.dtype)
        out *= weight
        out += bias

    parallel(block, -(-len(rows) // step) if x.size else 0)
    return y.reshape(x.shape)
