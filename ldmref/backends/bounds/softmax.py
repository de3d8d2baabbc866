"""Bounds for attention: softmax(s q k^T + b) v."""

from __future__ import annotations

import math

import numpy as np

from ldmref.backends.bounds.rounding import CENTRED, ELEMENTARY, SEQUENTIAL, Precision

SCORES = 2**21  # of a block
UNSHIFTED = 60.0  # largest |score| of which a kernel takes the exponential without a shift


def attention(
    p: Precision,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    causal: bool = False,
    bias: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    r"""Bound softmax(s q k^T + b) v for m keys, with the scale s = 1 / sqrt(d) by default.

    A score s_j = s q k_j errs by

        e_j = u_acc (SEQUENTIAL sqrt(d) |s_j| + CENTRED a_j) + 3 u |s_j| + u a_j,
        a_j = s |q| |k_j|

    (the sum of `rounding.inner_product`; the factor s, its product with q, k or s_j, and storing
    s_j). A bias adds u |b_j| + u |s_j + b_j|: it may be stored in the dtype of q, and the sum
    rounds. The weight exp(s_j - max s), of the sums t_j = s_j + b_j, then has the relative error

        h_j = exp(e_j + u |t_j - max t| + (ELEMENTARY + 2) u) - 1

    (Blanchard, Higham and Higham 2021, Accurately Computing the Log-Sum-Exp and Softmax Functions,
    IMA J. Numer. Anal. 41:2311, section 4: the shift costs no accuracy). With softmax weights w and
    y = sum w_j v_j, the error of the average is at most sum w_j h_j (\|v_j\| + \|y\|) to first
    order, and at most the distance of y to the farthest v_j, because every average is between them.
    Sums over the keys add u_acc (2 SEQUENTIAL sqrt(m) \|y\| + CENTRED sum w_j \|v_j\|); storing the
    weights' sum, quotient and result adds 3 u \|y\|.

    Weights that underflow err by tiny, and the result by 2 tiny sum \|v_j\|. A kernel may skip the
    shift for scores below UNSHIFTED; its products underflow by tiny_acc / exp(max s).
    """
    n, heads, length = q.shape[:3]
    keys = k.shape[2]
    bound = np.empty((n, heads, length, v.shape[3]))
    rows = max(1, SCORES // max(keys, 1))
    factor = 1.0 / math.sqrt(q.shape[3]) if scale is None else scale
    added = None if bias is None else np.broadcast_to(bias, (n, heads, length, keys))
    for image in range(n):
        for head in range(heads):
            at = image, head
            for start in range(0, length, rows):
                block = slice(start, min(start + rows, length))
                visible = np.arange(start, block.stop) + 1 if causal else None
                moved = None if added is None else added[at][block]
                bound[at][block] = _head(p, q[at][block] * factor, k[at], v[at], visible, moved)
    return bound


def _head(
    p: Precision,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    visible: np.ndarray | None,
    bias: np.ndarray | None,
) -> np.ndarray:
    """Bound one head, scaled q: (l, d), k: (m, d), v: (m, c), bias: (l, m).

    Query i attends to `visible[i]` keys.
    """
    d = q.shape[-1]
    keys = len(k)
    products = q @ k.T
    magnitude = np.abs(q) @ np.abs(k).T
    scores = products if bias is None else products + bias
    hidden = None if visible is None else np.arange(keys) >= visible[:, None]
    if hidden is not None:
        scores = np.where(hidden, -np.inf, scores)
    highest = scores.max(axis=-1, keepdims=True)
    shifted = scores - highest
    exponentials = np.exp(shifted)
    weights = exponentials / exponentials.sum(axis=-1, keepdims=True)
    size = np.abs(np.where(np.isfinite(scores), products, 0.0))
    error = np.minimum(d * magnitude, SEQUENTIAL * d**0.5 * size + CENTRED * magnitude) * p.u_acc
    error += p.u * (3.0 * size + magnitude + ELEMENTARY + 2.0)
    error += p.u * np.where(weights > 0.0, -shifted, 0.0) + d * p.tiny
    if bias is not None:
        error += p.u * (np.abs(bias) + np.abs(scores))
    relative = np.expm1(np.minimum(error, 50.0))
    blurred = weights * relative
    magnitudes = np.abs(v)
    y = weights @ v
    averaged = weights @ magnitudes
    from_weights = blurred @ magnitudes + blurred.sum(axis=-1, keepdims=True) * np.abs(y)
    farthest = _farthest(y, v, visible)
    from_sums = p.u_acc * (
        np.minimum(2.0 * keys, 2.0 * SEQUENTIAL * keys**0.5) * np.abs(y) + CENTRED * averaged
    )
    unshifted = np.exp(np.clip(-highest, 0.0, UNSHIFTED))
    underflow = p.tiny * (1.0 + 2.0 * magnitudes.sum(axis=0)) + keys * p.tiny_acc * unshifted
    stored = p.u * (2.0 * averaged + np.abs(y))
    return np.minimum(from_weights, farthest) + from_sums + stored + underflow


def _farthest(y: np.ndarray, v: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
    """Return the distance of y (l, c) to the farthest visible value (m, c)."""
    if visible is None:
        high = v.max(axis=0)
        low = v.min(axis=0)
    else:
        last = np.minimum(visible, len(v)) - 1
        high = np.maximum.accumulate(v, axis=0)[last]
        low = np.minimum.accumulate(v, axis=0)[last]
    return np.maximum(high - y, y - low)
