"""Attention in blocks of queries, each of which is two products and one exponential, in place."""

from __future__ import annotations

import math

import numpy as np

from ldmref.backends.fast.threads import parallel, scratch

QUERIES = 256  # of a block
SCORES = 2**20  # numbers in a block of scores
SMALL = 2**18  # scores that are not worth sharing out among threads
SAFE = 60.0  # scores of at most this size need no maximum subtracted: 4096 exp(60) is 5e29


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool = False) -> np.ndarray:
    r"""softmax(q k^T / sqrt(d)) v; q: (n, heads, l, d), k and v: (n, heads, m, d).

    Scores stand with the keys first, the shape of product in which BLAS is fastest; a row of ones
    below v^T sums them up. The maximum is subtracted only where the norms do not rule out an
    overflow: by Cauchy and Schwarz no score is above max \|q\| max \|k\| / sqrt(d).
    """
    (n, heads, length, d), keys, width = q.shape, k.shape[2], v.shape[3]
    out = np.empty((n, length, heads, width), q.dtype).transpose(0, 2, 1, 3)
    queries = max(1, min(QUERIES, SCORES // keys, length))
    together = max(1, min(SCORES // (keys * queries), -(-heads // 2)))  # heads of a block
    if n * heads * length * keys <= SMALL:
        together = heads
    groups, blocks = -(-heads // together), -(-length // queries)
    scaled = np.empty((n, heads, keys, d), q.dtype)
    ones = np.empty((n, heads, width + 1, keys), q.dtype)
    ones[:, :, width] = 1.0
    sizes = np.empty((n, groups))

    def prepare(i: int) -> None:
        image, group = divmod(i, groups)
        at = image, slice(group * together, (group + 1) * together)
        np.multiply(k[at], 1.0 / math.sqrt(d), out=scaled[at])
        ones[at][:, :width] = v[at].swapaxes(1, 2)
        sizes[image, group] = _largest_norm(scaled[at])

    def block(i: int) -> None:
        rest, start = divmod(i, blocks)
        image, group = divmod(rest, groups)
        at, start = (image, slice(group * together, (group + 1) * together)), start * queries
        part = q[at][:, start : start + queries]
        scores = scratch("scores", (len(part), keys, part.shape[1]))
        np.matmul(scaled[at], part.swapaxes(1, 2), out=scores)
        if causal:
            late = np.arange(keys)[:, None] > np.arange(start, start + part.shape[1])
            np.copyto(scores, -np.inf, where=late)
        if sizes[image, group] * _largest_norm(part) > SAFE:
            scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        sums = scratch("sums", (len(part), width + 1, part.shape[1]))
        np.matmul(ones[at], scores, out=sums)
        sums[:, :width] /= sums[:, width:]
        out[at][:, start : start + queries] = sums[:, :width].swapaxes(1, 2)

    parallel(prepare, n * groups)
    parallel(block, n * groups * blocks)
    return out


def _largest_norm(rows: np.ndarray) -> float:
    return math.sqrt(float(np.einsum("...j,...j->...", rows, rows).max(initial=0.0)))
