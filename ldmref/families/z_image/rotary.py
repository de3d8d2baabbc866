"""Rotary positions of tokens of which some are not read."""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models import transformer_layers


def find_waves(
    ops: Backend, positions: Array, dims: tuple[int, ...], theta: float, seen: Array | None
) -> tuple[Array, Array]:
    """Return cosines and sines of the angles of tokens at positions (n, l, axes).

    They are (n, 1, l, d / 2), the same in all layers of a network. Those of tokens that are not
    `seen`, (n, l), are 0, and so are then their queries and keys.
    """
    xp = ops.xp
    angles = transformer_layers.find_angles(positions, dims, theta)[:, None, :, :]
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
