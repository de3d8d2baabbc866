"""Attention by blocks of queries and keys whose scores stay in the cache."""

from __future__ import annotations

import math

import numpy as np

from ldmref.backends.fast.memory import scratch
from ldmref.backends.fast.threads import divisible, parallel

# of a block, at most
QUERIES = 256
KEYS = 512
SCORES = 2**17  # elements of a block that holds several small heads
SMALL = 2**18  # scores below which threads cost more than they save
AT_ONCE = 2**17  # scores of all images and heads that are computed together
SAFE_SCORE = 60.0  # up to here exp cannot overflow: 4096 exp(60) is 5e29
LOWEST = np.finfo(np.float32).min


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    causal: bool = False,
    bias: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    r"""Compute softmax(s q k^T + b) v; q: (n, heads, l, d), k and v: (n, heads, m, d).

    Scores are computed transposed, (keys, queries), the shape of product that BLAS is fastest at; a
    row of ones below v^T adds up the exponentials. The running maximum is subtracted (Milakov and
    Gimelshein 2018, arXiv:1805.02867, algorithm 3) only if a score could overflow: by
    Cauchy-Schwarz, none exceeds s max \|q\| max \|k\|. With a bias, the highest score of a query
    differs by at most that from the highest bias of its keys.
    """
    (n, heads, length, d) = q.shape
    out = np.empty((n, length, heads, v.shape[3]), q.dtype).transpose(0, 2, 1, 3)
    factor = 1.0 / math.sqrt(d) if scale is None else scale
    if bias is not None:
        bias = np.broadcast_to(bias, (n, heads, *bias.shape[2:]))
    if n * heads * length * k.shape[2] <= AT_ONCE and not causal:
        _attend_at_once(q, k, v, out, bias, factor)
    else:
        _attend_in_blocks(q, k, v, out, causal, bias, factor)
    return out


def _subtract_maximum(
    scores: np.ndarray, maximum: np.ndarray | None, sums: np.ndarray, hides: bool
) -> np.ndarray:
    """Subtract the largest score so far of each query, and return it.

    Args:
        scores: Those of a block of keys, (heads, keys, queries); changed.
        maximum: The largest of earlier blocks. None: this is the first.
        sums: The sums of earlier blocks, which get the new unit.
        hides: Whether all keys of a block may be hidden, whose exponentials are 0.
    """
    largest = scores.max(axis=1, keepdims=True)
    if hides:
        largest = np.maximum(largest, LOWEST)
    if maximum is not None:
        largest = np.maximum(largest, maximum)
        sums *= np.exp(maximum - largest)
    scores -= largest
    return largest


@divisible
def _attend_in_blocks(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    out: np.ndarray,
    causal: bool,
    bias: np.ndarray | None,
    factor: float,
) -> None:
    """Write the attention into `out`, by blocks of heads, queries and keys."""
    (n, heads, length, d) = q.shape
    keys = k.shape[2]
    width = v.shape[3]
    queries = max(1, min(QUERIES, length))
    heads_per_block = max(1, min(SCORES // (min(keys, KEYS) * queries), -(-heads // 2)))
    if n * heads * length * keys <= SMALL:
        heads_per_block = heads
    head_blocks = -(-heads // heads_per_block)
    query_blocks = -(-length // queries)
    scaled_k = np.empty((n, heads, keys, d), q.dtype)
    v_and_ones = np.empty((n, heads, width + 1, keys), q.dtype)
    v_and_ones[:, :, width] = 1.0
    key_norms = np.empty((n, head_blocks))

    def head_slice(block: int) -> slice:
        return slice(block * heads_per_block, (block + 1) * heads_per_block)

    def prepare(i: int) -> None:
        image, head_block = divmod(i, head_blocks)
        at = image, head_slice(head_block)
        np.multiply(k[at], factor, out=scaled_k[at])
        v_and_ones[at][:, :width] = v[at].swapaxes(1, 2)
        key_norms[image, head_block] = _largest_norm(scaled_k[at])

    def attend(i: int) -> None:
        rest, query_block = divmod(i, query_blocks)
        image, head_block = divmod(rest, head_blocks)
        at = (image, head_slice(head_block))
        start = query_block * queries
        block_q = q[at][:, start : start + queries]
        stop = start + block_q.shape[1]
        of_scores = bias if bias is None else _rows(bias[at], start, stop)
        bound = key_norms[image, head_block] * _largest_norm(block_q)
        safe = bound + _largest_shift(of_scores, causal) <= SAFE_SCORE
        sums = scratch("sums", (len(block_q), width + 1, block_q.shape[1]))
        block_sums = scratch("block sums", sums.shape)
        maximum: np.ndarray | None = None
        for first in range(0, min(keys, stop) if causal else keys, KEYS):
            key_slice = slice(first, min(first + KEYS, keys))
            scores = scratch("scores", (len(block_q), key_slice.stop - first, block_q.shape[1]))
            np.matmul(scaled_k[at][:, key_slice], block_q.swapaxes(1, 2), out=scores)
            if of_scores is not None:
                _add_bias(scores, of_scores[:, :, key_slice])
            if causal:
                future = np.arange(first, key_slice.stop)[:, None] > np.arange(start, stop)
                np.copyto(scores, -np.inf, where=future)
            if not safe:
                maximum = _subtract_maximum(scores, maximum, sums, hides=of_scores is not None)
            np.exp(scores, out=scores)
            np.matmul(v_and_ones[at][:, :, key_slice], scores, out=block_sums if first else sums)
            if first:
                sums += block_sums
        sums[:, :width] /= sums[:, width:]
        out[at][:, start:stop] = sums[:, :width].swapaxes(1, 2)

    parallel(prepare, n * head_blocks)
    parallel(attend, n * head_blocks * query_blocks)


def _attend_at_once(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    out: np.ndarray,
    bias: np.ndarray | None,
    factor: float,
) -> None:
    """Write the attention of few queries to few keys into `out`, in as few calls as possible."""
    scores = scratch("scores", (*q.shape[:3], k.shape[2]), q.dtype)
    np.matmul(q * np.float32(factor), k.swapaxes(2, 3), out=scores)
    if bias is not None:
        scores += bias
    scores -= np.maximum.reduce(scores, axis=3, keepdims=True)
    np.exp(scores, out=scores)
    np.matmul(scores, v, out=out)
    out /= np.add.reduce(scores, axis=3, keepdims=True)


def _largest_norm(rows: np.ndarray) -> float:
    return math.sqrt(float(np.einsum("...j,...j->...", rows, rows).max(initial=0.0)))


def _rows(bias: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the bias of some queries, (heads, queries or 1, m)."""
    return bias if bias.shape[1] == 1 else bias[:, start:stop]


def _add_bias(scores: np.ndarray, bias: np.ndarray) -> None:
    """Add a bias, (heads, queries or 1, keys), to transposed scores, (heads, keys, queries)."""
    if bias.shape[1] > 1:  # its rows are far apart in memory, at distances that share cache lines
        near = scratch("bias", bias.shape)
        np.copyto(near, bias)
        bias = near
    scores += bias.swapaxes(1, 2)


def _largest_shift(bias: np.ndarray | None, causal: bool) -> float:
    """Return how far a bias moves the highest score of a query, up or down."""
    if bias is None:
        return 0.0
    if causal:  # the keys with the highest bias may be hidden
        return math.inf
    return float(np.abs(bias.max(axis=2)).max())
