"""The layers that transformers of text, and of image and text, share.

Norms, activation, joint attention, tokens of images, and rotary positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from array_api_compat import array_namespace, device

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.layers import linear, merge_heads, split_heads
from ldmref.models.params import Params

Heads: TypeAlias = tuple[Array, Array, Array]
"""Queries, keys and values of a stream of tokens, (n, heads, l, d) each."""

NO_PARAMETERS = Params()
QUERY_KEY_VALUE = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")  # of the text beside an image
THETA = 10000.0  # the slowest rotation has nearly this wavelength, divided by 2 pi


def rms_norm(ops: Backend, p: Params, x: Array, eps: float, base: float = 0.0) -> Array:
    """Divide by the root mean square of the last axis, and scale; x: (..., d) -> the same shape.

    Zhang and Sennrich 2019, arXiv:1910.07467. The mean is taken in `ops.state_dtype`. The scale is
    `base` + weight; where `base` is not 0, the weight is small, and the product is also wide.
    """
    args = x, p.weight, eps, ops.state_dtype, base
    return ops.call_function("rms_norm", divide_by_rms, *args, axis=-2)


def divide_by_rms(x: Array, weight: Array, eps: float, dtype: str, base: float = 0.0) -> Array:
    """Return `rms_norm`, with the mean in `dtype`."""
    xp = array_namespace(x)
    wide = xp.astype(x, getattr(xp, dtype), copy=False)
    wide = wide / xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if base:
        scale = base + xp.astype(weight, getattr(xp, dtype), copy=False)
        return xp.astype(wide * scale, x.dtype, copy=False)
    return xp.astype(wide, x.dtype, copy=False) * weight


def standardize(ops: Backend, x: Array, name: str, eps: float) -> Array:
    """Bring the last axis to mean 0 and variance 1, a LayerNorm without weights; x: (..., d).

    Ba et al. 2016, arXiv:1607.06450, computed in `ops.state_dtype`. `name` is that of the module.
    """
    return ops.call_function(name, divide_by_deviation, x, eps, ops.state_dtype, axis=-2)


def divide_by_deviation(x: Array, eps: float, dtype: str) -> Array:
    """Return (x - mean) / sqrt(variance + eps) over the last axis, computed in `dtype`."""
    xp = array_namespace(x)
    wide = xp.astype(x, getattr(xp, dtype), copy=False)
    wide = wide - xp.mean(wide, axis=-1, keepdims=True)
    wide = wide / xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return xp.astype(wide, x.dtype, copy=False)


def gelu_tanh(ops: Backend, x: Array, name: str = "gelu_tanh") -> Array:
    """Return the tanh form of GELU; `name` is that of the module."""
    return ops.call_function(name, tanh_gelu, x, axis=-2)


def tanh_gelu(x: Array) -> Array:
    """Return 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    inner = 0.044715 * x  # in place from here on: new memory costs more than the arithmetic
    inner *= x
    inner *= x
    inner += x
    inner *= math.sqrt(2.0 / math.pi)
    half = 0.5 * x
    half *= 1.0 + array_namespace(x).tanh(inner)
    return half


def cut_width(x: Array, count: int) -> list[Array]:
    """Cut the last axis into equal parts; x: (..., count * d) -> (..., d) each."""
    d = x.shape[-1] // count
    return [x[..., i * d : (i + 1) * d] for i in range(count)]


def gate_halves(ops: Backend, x: Array) -> Array:
    """Return silu(a) b of (a, b); x: (..., 2 d) -> (..., d).

    SwiGLU of Shazeer 2020, arXiv:2002.05202, section 2, after its matrices.
    """
    gate, value = cut_width(x, 2)
    return ops.silu(gate) * value


def project_heads(
    ops: Backend,
    p: Params,
    x: Array,
    heads: int,
    eps: float,
    names: Sequence[str] = QUERY_KEY_VALUE,
    stream: str = "",
) -> Heads:
    """Return the heads of tokens (n, l, d), as `normalize_heads` does, of the layers `names`."""
    parts = [linear(ops, p[name], x) for name in names]
    return normalize_heads(ops, p, parts, heads, eps, stream)


def normalize_heads(
    ops: Backend, p: Params, parts: Sequence[Array], heads: int, eps: float, stream: str = ""
) -> Heads:
    """Return heads, (n, heads, l, d / heads), of which queries and keys are divided by their RMS.

    Dehghani et al. 2023, arXiv:2302.05442, section 2, with the norm of `rms_norm`.

    Args:
        ops: The backend.
        p: The parameters of the attention: `norm_q` and `norm_k`.
        parts: Queries, keys and values, (n, l, d) each.
        heads: The number of heads.
        eps: Number added to the mean squares.
        stream: What stands before the last letter of the norms' names.
    """
    q, k, v = (split_heads(ops, part, heads) for part in parts)
    norm_q, norm_k = p[f"norm_{stream}q"], p[f"norm_{stream}k"]
    return rms_norm(ops, norm_q, q, eps), rms_norm(ops, norm_k, k, eps), v


def attend_jointly(
    ops: Backend, first: Heads, second: Heads, turn: Callable[[Array], Array] | None = None
) -> tuple[Array, Array]:
    """Let two streams of tokens attend to each other.

    Esser et al. 2024, arXiv:2403.03206, figure 2b.

    Args:
        ops: The backend.
        first, second: The streams, of l and m tokens, in the order of the joined ones.
        turn: Turns the joined queries, and the keys, by the positions of their tokens. None: they
            have no positions.

    Returns:
        The attention of both streams, (n, l, heads * d) and (n, m, heads * d).

    >>> import numpy as np
    >>> from ldmref.backends import get_backend
    >>> from ldmref.families import attend_jointly
    >>> image, text = ((np.ones((1, 2, length, 4), np.float32),) * 3 for length in (6, 5))
    >>> [x.shape for x in attend_jointly(get_backend("numpy"), image, text)]
    [(1, 6, 8), (1, 5, 8)]
    """
    return ops.call_layer(join_and_attend, NO_PARAMETERS, (first, second, turn), {})


def join_and_attend(
    ops: Backend,
    p: Params,
    first: Heads,
    second: Heads,
    turn: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """Compute `attend_jointly`, a layer without parameters and name, which may be replaced."""
    q, k, v = (ops.xp.concat(pair, axis=2) for pair in zip(first, second, strict=True))
    if turn is not None:
        q, k = turn(q), turn(k)
    joined = merge_heads(ops, ops.attention(q, k, v))
    length = first[0].shape[2]
    return joined[:, :length, :], joined[:, length:, :]


def split_cells(x: Array) -> Array:
    """Return latents (n, z, h, w) as tokens (n, h * w, z): a token is a cell."""
    xp = array_namespace(x)
    n, z, height, width = x.shape
    return xp.permute_dims(xp.reshape(x, (n, z, height * width)), (0, 2, 1))


def join_cells(x: Array, rows: int, columns: int) -> Array:
    """Return the first rows * columns tokens of (n, l, z) as latents, (n, z, rows, columns)."""
    xp = array_namespace(x)
    n, _, z = x.shape
    cells = xp.permute_dims(x[:, : rows * columns, :], (0, 2, 1))
    return xp.reshape(cells, (n, z, rows, columns))


def flatten_patches(ops: Backend, grid: Array) -> Array:
    """Return patches (n, rows, columns, c) as tokens (n, rows * columns, c)."""
    n, rows, columns, width = grid.shape
    return ops.xp.reshape(grid, (n, rows * columns, width))


def embed_patches(ops: Backend, p: Params, grid: Array) -> Array:
    """Embed patches (n, rows, columns, c) as tokens (n, rows * columns, d)."""
    return linear(ops, p, flatten_patches(ops, grid))


def swiglu(ops: Backend, gate: Params, up: Params, down: Params, x: Array) -> Array:
    """Compute W_down (silu(W_gate x) * W_up x), a feed-forward layer with a gate.

    Shazeer 2020, arXiv:2002.05202, section 2.

    Args:
        ops: The backend.
        gate, up, down: The linear layers.
        x: Tokens, (n, l, d).

    Returns:
        (n, l, d).
    """
    return linear(ops, down, ops.silu(linear(ops, gate, x)) * linear(ops, up, x))


def place_cells(ops: Backend, plane: Array) -> Array:
    """Return row and column of each cell of a plane (h, w), from 0, one row after the other.

    They are (h * w, 2), in `ops.state_dtype`.
    """
    counted = [ops.xp.reshape(ops.count_from_zero(plane, axis), (-1, 1)) for axis in (0, 1)]
    return ops.xp.concat(counted, axis=1)


def rotate(x: Array, positions: Array, dims: tuple[int, ...], theta: float = THETA) -> Array:
    """Turn each pair of neighbouring channels by its angle (rotary positions).

    Su et al. 2021, arXiv:2104.09864, section 3.2, with several axes.

    Args:
        x: Queries or keys, (n, heads, l, d).
        positions: Of the tokens on each axis, (l, axes) or (n, l, axes), floating.
        dims: How many of the d channels belong to each axis.
        theta: The base of the frequencies.

    Returns:
        Like `x`.
    """
    return turn(x, find_angles(positions, dims, theta))


def turn_by(
    ops: Backend, positions: Array, dims: tuple[int, ...], *theta: float
) -> Callable[[Array], Array]:
    """Return what turns queries or keys by the positions of their tokens; see `rotate`.

    Traces record `theta` where it is stated.
    """
    return lambda x: ops.call_function("rotate", rotate, x, positions, dims, *theta)


def rotate_halves(x: Array, positions: Array, dims: tuple[int, ...], theta: float = THETA) -> Array:
    """Turn each pair of channels that are half a head apart, as language models do.

    Arguments and result are those of `rotate`, of which this is another order of the channels.
    """
    return turn_halves(x, find_angles(positions, dims, theta))


def find_angles(positions: Array, dims: tuple[int, ...], theta: float = THETA) -> Array:
    """Return the angle of each pair, (..., l, d / 2): the position on its axis times its frequency.

    `positions` are (..., l, axes). The i-th pair of an axis of `dim` channels has the frequency
    theta^(-2 i / dim).
    """
    xp = array_namespace(positions)
    angles = []
    for axis, dim in enumerate(dims):
        steps = xp.arange(dim // 2, dtype=positions.dtype, device=device(positions))
        frequencies = xp.exp(steps * (-2.0 * math.log(theta) / dim))
        angles.append(positions[..., axis : axis + 1] * frequencies)
    return xp.concat(angles, axis=-1)


def turn(x: Array, angles: Array) -> Array:
    """Turn each pair of neighbouring channels.

    x: (n, heads, l, 2 k), angles: (l, k) or (n, l, k) -> like x.
    """
    return turn_pairs(x, *angles_to_waves(angles))


def find_waves(
    positions: Array, dims: tuple[int, ...], theta: float = THETA
) -> tuple[Array, Array]:
    """Return cosines and sines of the angles of tokens at positions (n, l, axes), for `turn_pairs`.

    They are (n, 1, l, d / 2), and the same in all layers of a network.
    """
    return angles_to_waves(find_angles(positions, dims, theta))


def angles_to_waves(angles: Array) -> tuple[Array, Array]:
    """Return cosines and sines of angles, (l, k) or (n, l, k): (l, k) or (n, 1, l, k)."""
    xp = array_namespace(angles)
    if angles.ndim == 3:  # of each row
        angles = angles[:, None, :, :]
    return xp.cos(angles), xp.sin(angles)


def turn_pairs(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair of neighbouring channels by the cosines and sines of their angles.

    x: (n, heads, l, 2 k), cos and sin: (l, k) or (n, 1, l, k) -> like x.
    """
    xp = array_namespace(x)
    n, heads, length, d = x.shape
    pairs = xp.reshape(xp.astype(x, cos.dtype, copy=False), (n, heads, length, d // 2, 2))
    first, second = xp.unstack(pairs, axis=-1)
    parts = _turn_parts(first, second, cos, sin)
    together = xp.concat([part[..., None] for part in parts], axis=-1)
    return xp.astype(xp.reshape(together, (n, heads, length, d)), x.dtype, copy=False)


def turn_halves(x: Array, angles: Array) -> Array:
    """Turn each pair of channels i and i + k.

    x: (n, heads, l, 2 k), angles: (l, k) or (n, l, k) -> like x.
    """
    xp = array_namespace(x)
    n, heads, length, d = x.shape
    # Not as slices: OpenVINO 2026.4 fuses these with the rotation, and then reads wrong memory
    # where each row has its own angles.
    halves = xp.reshape(xp.astype(x, angles.dtype, copy=False), (n, heads, length, 2, d // 2))
    first, second = xp.unstack(halves, axis=-2)
    parts = _turn_parts(first, second, *angles_to_waves(angles))
    return xp.astype(xp.concat(parts, axis=-1), x.dtype, copy=False)


def _turn_parts(first: Array, second: Array, cos: Array, sin: Array) -> list[Array]:
    """Turn the pairs (first, second), of (n, heads, l, k) numbers each."""
    # Not `- second * sin`: OpenVINO 2026.4 takes that for an operation which it stores wrong.
    return [first * cos + second * (-sin), first * sin + second * cos]
