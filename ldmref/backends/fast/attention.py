"""Attention in blocks of queries, each of which is two products and one exponential, in place."""

from __future__ import annotations

import math

import numpy as np

from ldmref.backends.fast.threads import parallel, scratch

QUERIES, KEYS = 256, 512  # of a block: its scores stay in the cache
SCORES = 2**17  # numbers in a block of scores, if heads are small
SMALL = 2**18  # scores that are not worth sharing out among threads
SAFE = 60.0  # scores of at most this size need no maximum subtracted: 4096 exp(60) is 5e29


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool = False) -> np.ndarray:
    r"""softmax(q k^T / sqrt(d)) v; q: (n, heads, l, d), k and v: (n, heads, m, d).

    Scores stand with the keys first, the shape of product in which BLAS is fastest; a row of ones
    below v^T sums them up. The maximum so far is subtracted (Milakov and Gimelshein 2018,
    arXiv:1805.02867, algorithm 3) only where the norms do not rule out an overflow: by Cauchy and
    Schwarz no score is above max \|q\| max \|k\| / sqrt(d).
    """
    (n, heads, length, d), keys, width = q.shape, k.shape[2], v.shape[3]
    out = np.empty((n, length, heads, width), q.dtype).transpose(0, 2, 1, 3)
    queries = max(1, min(QUERIES, length))
    fitting = SCORES // (min(keys, KEYS) * queries)
    together = max(1, min(fitting, -(-heads // 2)))  # heads of a block
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
        stop, safe = start + part.shape[1], sizes[image, group] * _largest_norm(part) <= SAFE
        sums = scratch("sums", (len(part), width + 1, part.shape[1]))
        more = scratch("more", sums.shape)
        highest: np.ndarray | None = None
        for first in range(0, min(keys, stop) if causal else keys, KEYS):
            here = slice(first, min(first + KEYS, keys))
            scores = scratch("scores", (len(part), here.stop - first, part.shape[1]))
            np.matmul(scaled[at][:, here], part.swapaxes(1, 2), out=scores)
            if causal:
                late = np.arange(first, here.stop)[:, None] > np.arange(start, stop)
                np.copyto(scores, -np.inf, where=late)
            if not safe:
                top = scores.max(axis=1, keepdims=True)
                if highest is not None:
                    top = np.maximum(top, highest)
                    sums *= np.exp(highest - top)
                highest = top
                scores -= top
            np.exp(scores, out=scores)
            np.matmul(ones[at][:, :, here], scores, out=more if first else sums)
            if first:
                sums += more
        sums[:, :width] /= sums[:, width:]
        out[at][:, start:stop] = sums[:, :width].swapaxes(1, 2)

    parallel(prepare, n * groups)
    parallel(block, n * groups * blocks)
    return out


def _largest_norm(rows: np.ndarray) -> float:
    return math.sqrt(float(np.einsum("...j,...j->...", rows, rows).max(initial=0.0)))
