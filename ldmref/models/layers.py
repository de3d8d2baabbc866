"""The layers shared by the networks; `specs.py` has the shapes of their parameters.

Every layer is a plain function of `(ops, p, ...)`: the backend, its own parameters, its input.
Parameter names are those of diffusers. Shapes: n batch, c channels, h and w latent height and
width, l tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.conditioning import CachedContext
from ldmref.models.params import Params

P = ParamSpec("P")
R = TypeVar("R")  # an array, or a tuple of arrays
MASKED = -1e9  # the bias of a key that no query attends to: its weight, exp, is 0


def layer(
    function: Callable[Concatenate[Backend, Params, P], R],
) -> Callable[Concatenate[Backend, Params, P], R]:
    """Mark a function `(ops, p, x, ...) -> y` as a layer, called through `Backend.call_layer`.

    Its name is the path of `p` in the tree of parameters, which is the module's path in diffusers.
    """

    @wraps(function)
    def call(ops: Backend, p: Params, *args: Any, **kwargs: Any) -> Any:
        return ops.call_layer(function, p, args, kwargs)

    return call


def linear(ops: Backend, p: Params, x: Array) -> Array:
    """Apply a linear layer; x: (..., d_in) -> (..., d_out)."""
    return ops.linear(x, p.weight, p.get("bias"))


def conv2d(ops: Backend, p: Params, x: Array, stride: int = 1) -> Array:
    """Convolve with "same" padding; x: (n, c_in, h, w) -> (n, c_out, h/stride, w/stride)."""
    return ops.conv2d(x, p.weight, p.bias, stride, p.weight.shape[-1] // 2)


def group_norm(ops: Backend, p: Params, x: Array, groups: int, eps: float) -> Array:
    """Apply group normalization; x: (n, c, h, w) -> the same shape."""
    return ops.group_norm(x, p.weight, p.bias, groups, eps)


def norm_silu(ops: Backend, p: Params, x: Array, groups: int, eps: float) -> Array:
    """Apply group normalization, then SiLU; x: (n, c, h, w) -> the same shape."""
    return ops.group_norm_silu(x, p.weight, p.bias, groups, eps)


def layer_norm(ops: Backend, p: Params, x: Array, eps: float = 1e-5) -> Array:
    """Apply layer normalization; x: (n, l, d) -> the same shape."""
    return ops.layer_norm(x, p.weight, p.bias, eps)


@layer
def resnet_block(
    ops: Backend,
    p: Params,
    x: Array,
    emb: Array | None,
    groups: int,
    eps: float,
    resample: Callable[[Array], Array] | None = None,
) -> Array:
    """Apply a residual block; x: (n, c_in, h, w), emb: (n, d) or None -> (n, c_out, h, w).

    `resample` down- or upsamples both branches before the first convolution.
    """
    h = norm_silu(ops, p.norm1, x, groups, eps)
    if resample is not None:
        x = resample(x)
        h = resample(h)
    h = conv2d(ops, p.conv1, h)
    if emb is None:
        h = norm_silu(ops, p.norm2, h, groups, eps)
    else:
        time = linear(ops, p.time_emb_proj, ops.silu(emb))[:, :, None, None]
        c = h.shape[1]
        if time.shape[1] == c:
            h = norm_silu(ops, p.norm2, h + time, groups, eps)
        else:  # scale and shift
            h = group_norm(ops, p.norm2, h, groups, eps)
            h = ops.silu(h * (1.0 + time[:, :c, ...]) + time[:, c:, ...])
    h = conv2d(ops, p.conv2, h)
    return ops.add(conv2d(ops, p.conv_shortcut, x) if "conv_shortcut" in p else x, h)


def mean_pool(ops: Backend, x: Array, factor: int = 2) -> Array:
    """Average factor x factor pixels; (n, c, h, w) -> (n, c, h/factor, w/factor)."""
    n, c, h, w = x.shape
    squares = ops.xp.reshape(x, (n, c, h // factor, factor, w // factor, factor))
    return ops.xp.mean(squares, axis=(3, 5))


def split_heads(ops: Backend, x: Array, num_heads: int) -> Array:
    """Reshape (n, l, d) to (n, heads, l, d / heads)."""
    n, length, d = x.shape
    x = ops.xp.reshape(x, (n, length, num_heads, d // num_heads))
    return ops.xp.permute_dims(x, (0, 2, 1, 3))


def merge_heads(ops: Backend, x: Array) -> Array:
    """Reshape (n, heads, l, d / heads) to (n, l, d), the inverse of `split_heads`."""
    n, heads, length, d = x.shape
    return ops.xp.reshape(ops.xp.permute_dims(x, (0, 2, 1, 3)), (n, length, heads * d))


def repeat_heads(ops: Backend, x: Array, num_heads: int) -> Array:
    """Repeat the heads of keys or values for groups of queries; (n, k, l, d) -> (n, heads, l, d).

    The queries of head h attend to head h // (heads / k). Nothing is copied if every head of the
    queries has a head of keys.

    Source: Ainslie et al. 2023, arXiv:2305.13245, section 2.2.
    """
    n, groups, length, d = x.shape
    if groups == num_heads:
        return x
    repeated = ops.xp.concat([x[:, :, None, ...]] * (num_heads // groups), axis=2)
    return ops.xp.reshape(repeated, (n, num_heads, length, d))


def mask_bias(ops: Backend, mask: Array, bias: Array | None = None) -> Array:
    """Return the bias of `Backend.attention` that hides keys, in `ops.state_dtype`.

    It is chosen, not added: compilers add constants first, and `MASKED` swallows what is added to
    it. It is finite, so a query without keys gets a mean of the values, not NaN.

    Args:
        ops: The backend.
        mask: Booleans or numbers, not zero at keys that are seen: (n, m), or of four axes that
            broadcast to (n, heads, l, m).
        bias: The bias of the keys that are seen, of four axes, in `ops.state_dtype`. None: 0.

    Returns:
        The shape to which mask and bias broadcast, of four axes.
    """
    xp = ops.xp
    seen = mask[:, None, None, :] if mask.ndim == 2 else mask
    if not xp.isdtype(seen.dtype, "bool"):
        seen = seen != 0
    hidden, nothing = (ops.asarray(np.asarray([x]), ops.state_dtype) for x in (MASKED, 0.0))
    return xp.where(seen, nothing if bias is None else bias, hidden)


@layer
def downsample(ops: Backend, p: Params, x: Array) -> Array:
    """Convolve with stride 2; x: (n, c, h, w) -> (n, c, h/2, w/2), rounded up."""
    return conv2d(ops, p.conv, x, stride=2)


@layer
def downsample_padded(ops: Backend, p: Params, x: Array) -> Array:
    """Convolve with stride 2 and zeros on the right and at the bottom; (n, c, h, w), halved."""
    return ops.conv2d(ops.pad_bottom_right(x), p.conv.weight, p.conv.bias, stride=2)


@layer
def upsample(ops: Backend, p: Params, x: Array, size: tuple[int, int] | None = None) -> Array:
    """Double each pixel, crop to `size` (h', w') if it is smaller, and convolve; x: (n, c, h, w).

    Nearest-neighbour upsampling to one less is the doubled image without the last row or column.
    """
    x = ops.upsample2x(x)
    if size is not None and x.shape[2:] != size:
        x = x[:, :, : size[0], : size[1]]
    return conv2d(ops, p.conv, x)


@layer
def attention(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array | CachedContext,
    num_heads: int,
    bias: Array | None = None,
) -> Array:
    """Apply multi-head attention of x: (n, l, d) over context: (n, m, d_context) -> (n, l, d).

    `bias` is added to the scores, as by `Backend.attention`; `mask_bias` makes one from a mask.
    """

    def project(layer: Params, states: Array) -> Array:
        return split_heads(ops, linear(ops, layer, states), num_heads)

    def keys_and_values(states: Array) -> tuple[Array, Array]:
        return project(p.to_k, states), project(p.to_v, states)

    q = project(p.to_q, x)
    if isinstance(context, CachedContext):
        k, v = context.keys_and_values(p, keys_and_values)
    else:
        k, v = keys_and_values(context)
    mixed = ops.attention(q, k, v, bias=bias)
    return linear(ops, p.to_out["0"], merge_heads(ops, mixed))


@layer
def identity_attention(ops: Backend, p: Params, x: Array) -> Array:
    """Apply self-attention to x, (n, l, d), with the identity as its map: tokens see themselves.

    Source: Ahn et al. 2024, arXiv:2403.17377, section 4.2.
    """
    return linear(ops, p.to_out["0"], linear(ops, p.to_v, x))


@layer
def self_attention(
    ops: Backend,
    p: Params,
    x: Array,
    num_heads: int,
    causal: bool = False,
    bias: Array | None = None,
) -> Array:
    """Apply multi-head self-attention of a text encoder; x: (n, l, d) -> (n, l, d).

    `bias` is added to the scores, as by `Backend.attention`; `mask_bias` makes one from a mask.
    """
    projections = p.q_proj, p.k_proj, p.v_proj
    q, k, v = (split_heads(ops, linear(ops, proj, x), num_heads) for proj in projections)
    mixed = ops.attention(q, k, v, causal=causal, bias=bias)
    return linear(ops, p.out_proj, merge_heads(ops, mixed))


@layer
def attention_block(
    ops: Backend,
    p: Params,
    x: Array,
    num_heads: int,
    groups: int,
    eps: float,
) -> Array:
    """Apply residual self-attention over the h*w pixels; x: (n, c, h, w) -> the same shape."""
    n, c, h, w = x.shape
    tokens = group_norm(ops, p.group_norm, x, groups, eps)
    tokens = ops.xp.permute_dims(ops.xp.reshape(tokens, (n, c, h * w)), (0, 2, 1))
    tokens = attention(ops, p, tokens, tokens, num_heads)
    return ops.add(x, ops.xp.reshape(ops.xp.permute_dims(tokens, (0, 2, 1)), (n, c, h, w)))


@layer
def geglu(ops: Backend, p: Params, x: Array) -> Array:
    """Compute a * gelu(gate) with [a, gate] = W x + b; x: (n, l, d) -> (n, l, d_mlp)."""
    return ops.geglu(x, p.proj.weight, p.proj.bias)


@layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Apply GEGLU and a linear layer; x: (n, l, d) -> (n, l, d)."""
    return linear(ops, p.net["2"], geglu(ops, p.net["0"], x))


@layer
def mlp(ops: Backend, p: Params, x: Array) -> Array:
    """Apply linear_1, SiLU and linear_2; x: (n, d_in) -> (n, d_out)."""
    return linear(ops, p.linear_2, ops.silu(linear(ops, p.linear_1, x)))


@layer
def transformer_block(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array | CachedContext,
    num_heads: int,
) -> Array:
    """Apply self-attention, cross-attention and feed-forward; x: (n, l, d) -> the same shape.

    Each is pre-norm with a residual connection.
    """
    h = layer_norm(ops, p.norm1, x)
    x = ops.add(x, attention(ops, p.attn1, h, h, num_heads))
    x = ops.add(x, attention(ops, p.attn2, layer_norm(ops, p.norm2, x), context, num_heads))
    return ops.add(x, feed_forward(ops, p.ff, layer_norm(ops, p.norm3, x)))


@layer
def spatial_transformer(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array | CachedContext,
    num_heads: int,
    groups: int,
) -> Array:
    """Apply transformer blocks over the h*w pixels; x: (n, c, h, w) -> the same shape."""
    n, c, h, w = x.shape
    xp = ops.xp
    as_linear = p.proj_in.weight.ndim == 2
    y = group_norm(ops, p.norm, x, groups, 1e-6)
    if not as_linear:
        y = conv2d(ops, p.proj_in, y)
    y = xp.permute_dims(xp.reshape(y, (n, c, h * w)), (0, 2, 1))
    if as_linear:
        y = linear(ops, p.proj_in, y)
    for block in p.transformer_blocks.items_in_order():
        y = transformer_block(ops, block, y, context, num_heads)
    if as_linear:
        y = linear(ops, p.proj_out, y)
    y = xp.reshape(xp.permute_dims(y, (0, 2, 1)), (n, c, h, w))
    return ops.add(x, y if as_linear else conv2d(ops, p.proj_out, y))
