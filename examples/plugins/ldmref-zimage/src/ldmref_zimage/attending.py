"""Attention of tokens of which some are padding, and rotary positions by halves."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ldmref.backends import Backend
from ldmref.models.transformer_layers import find_angles

Array = Any
MASKED = -1e9  # the bias of a key that is not read: its weight, exp, is 0


def mask_bias(ops: Backend, seen: Array) -> Array:
    """Return the bias of the scores, 0 for keys that are `seen` (1) and -1e9 for others (0).

    Shapes are equal; the dtype is `ops.state_dtype`.
    """
    masked, free = (ops.asarray(np.asarray(x), ops.state_dtype) for x in (MASKED, 0.0))
    return ops.xp.where(seen != 0, free, masked)


def attend(ops: Backend, q: Array, k: Array, v: Array, score_bias: Array | None) -> Array:
    """Return attention with a bias of the scores, (n or 1, heads or 1, l or 1, m).

    q: (n, heads, l, d); k and v: (n, heads, m, d).
    """
    if score_bias is None:
        return ops.attention(q, k, v)
    return ops.call_function("attention", attend_with_bias, q, k, v, score_bias)


def attend_with_bias(q: Array, k: Array, v: Array, score_bias: Array) -> Array:
    """Return softmax(q k^T / sqrt(d) + score_bias) v."""
    xp = array_namespace(q)
    scores = xp.matmul(q * q.shape[-1] ** -0.5, xp.permute_dims(k, (0, 1, 3, 2)))
    scores = xp.astype(scores, score_bias.dtype, copy=False) + score_bias
    weights = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    return xp.matmul(xp.astype(weights, v.dtype, copy=False), v)


def turn_halves(x: Array, angles: Array) -> Array:
    """Turn channel i and channel i + d / 2 together; x: (n, heads, l, d), angles: (l, d / 2)."""
    xp = array_namespace(x)
    half = x.shape[-1] // 2
    wide = xp.astype(x, angles.dtype, copy=False)
    first, second = wide[..., :half], wide[..., half:]
    cos, sin = xp.cos(angles), xp.sin(angles)
    turned = xp.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return xp.astype(turned, x.dtype, copy=False)


def find_waves(
    ops: Backend, positions: Array, dims: tuple[int, ...], theta: float, seen: Array | None
) -> tuple[Array, Array]:
    """Return cosines and sines of the angles of tokens at positions (n, l, axes).

    They are (n, 1, l, d / 2), the same in all layers of a network. Those of tokens that are not
    `seen`, (n, l), are 0, and so are then their queries and keys.
    """
    xp = ops.xp
    n, length, axes = positions.shape
    angles = find_angles(xp.reshape(positions, (n * length, axes)), dims, theta)
    angles = xp.reshape(angles, (n, 1, length, angles.shape[1]))
    cos, sin = xp.cos(angles), xp.sin(angles)
    if seen is not None:
        kept = seen[:, None, :, None]
        cos, sin = cos * kept, sin * kept
    return cos, sin


def turn_pairs(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair of neighbouring channels by waves; x: (n, heads, l, d)."""
    xp = array_namespace(x)
    n, heads, length, d = x.shape
    pairs = xp.reshape(xp.astype(x, cos.dtype, copy=False), (n, heads, length, d // 2, 2))
    first, second = xp.unstack(pairs, axis=-1)
    turned = [first * cos - second * sin, first * sin + second * cos]
    together = xp.concat([part[..., None] for part in turned], axis=-1)
    return xp.astype(xp.reshape(together, (n, heads, length, d)), x.dtype, copy=False)
