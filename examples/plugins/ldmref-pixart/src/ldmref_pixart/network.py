"""The transformer of PixArt: patches that read the caption by cross-attention, and adaLN-single.

Chen et al. 2023, arXiv:2310.00426, section 2.3; parameter names of diffusers'
PixArtTransformer2DModel.
"""

from __future__ import annotations

import math
from typing import Any

from ldmref.families import (
    Backend,
    Params,
    Spec,
    layers,
    numbered,
    specs,
    timestep_embedding,
    transformer_layers,
)
from ldmref_pixart.config import PixArtConfig

Array = Any
FREQUENCIES = 256  # width of the sines and cosines of the time
EPS = 1e-6  # of all norms


def transformer_spec(config: PixArtConfig) -> Spec:
    """Return the shapes of every parameter."""
    d = config.width
    two: Spec = {"linear_1": specs.linear_spec(FREQUENCIES, d), "linear_2": specs.linear_spec(d, d)}
    block: Spec = {
        "scale_shift_table": (6, d),
        "attn1": specs.attention_spec(d, bias=True),
        "attn2": specs.attention_spec(d, bias=True),
        "ff": {
            "net": {"0": {"proj": specs.linear_spec(d, 4 * d)}, "2": specs.linear_spec(4 * d, d)}
        },
    }
    text = config.caption_channels
    return {
        "pos_embed": {"proj": specs.conv_spec(config.in_channels, d, config.patch_size)},
        "transformer_blocks": numbered([block] * config.num_layers),
        "scale_shift_table": (2, d),
        "proj_out": specs.linear_spec(d, config.patch_size**2 * config.out_channels),
        "adaln_single": {
            "emb": {"timestep_embedder": two},
            "linear": specs.linear_spec(d, 6 * d),
        },
        "caption_projection": {
            "linear_1": specs.linear_spec(text, d),
            "linear_2": specs.linear_spec(d, d),
        },
    }


def transformer(
    ops: Backend,
    p: Params,
    config: PixArtConfig,
    x: Array,
    t: Array,
    context: Array,
    mask: Array,
) -> Array:
    """Predict eps and, with twice the channels, the variance between its bounds.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w); h and w are multiples of the patch size.
        t: Training timesteps, (n,), integers or floats.
        context: Hidden states of the captions, (n, l, caption_channels).
        mask: 1 for tokens of a caption and 0 for padding, which is not read, (n, l).

    Returns:
        (n, out_channels, h, w).
    """
    xp = ops.xp
    patch = config.patch_size
    h = ops.conv2d(x, p.pos_embed.proj.weight, p.pos_embed.proj.bias, patch, 0)
    n, d, rows, columns = h.shape
    positions = embed_positions(ops, config, h)
    h = xp.permute_dims(xp.reshape(h, (n, d, rows * columns)), (0, 2, 1)) + positions
    time, modulation = embed_time(ops, p.adaln_single, t, h)
    text = project_caption(ops, p.caption_projection, context)
    hidden = layers.mask_bias(ops, mask)
    for p_block in p.transformer_blocks.items_in_order():
        h = block(ops, p_block, h, text, modulation, hidden, config.num_attention_heads)
    table = p.scale_shift_table[None, :, :] + time[:, None, :]
    h = normalize(ops, h, "norm_out") * (1.0 + table[:, 1:2, :]) + table[:, 0:1, :]
    h = layers.linear(ops, p.proj_out, h)
    c = config.out_channels
    h = xp.reshape(h, (n, rows, columns, patch, patch, c))
    h = xp.permute_dims(h, (0, 5, 1, 3, 2, 4))
    return xp.reshape(h, (n, c, x.shape[2], x.shape[3]))


def embed_positions(ops: Backend, config: PixArtConfig, patches: Array) -> Array:
    """Return sines and cosines of the places of patches (n, d, rows, columns)."""
    xp = ops.xp
    grid = xp.astype(patches[0, 0, ...], getattr(xp, ops.state_dtype))
    base = config.sample_size // config.patch_size
    scale = config.interpolation_scale
    by = []
    for line in (grid[:, 0], grid[0, :]):
        places = ops.count_from_zero(line, 0)
        places = places / ((places[-1:] + 1.0) / base) / scale
        by.append(timestep_embedding(places, config.width // 2, flip_sin_to_cos=False))
    by_row, by_column = by[0][:, None, :], by[1][None, :, :]
    by_row, by_column = ops.broadcast_like(by_row, by_column), ops.broadcast_like(by_column, by_row)
    emb = xp.concat([by_column, by_row], axis=2)
    emb = xp.reshape(emb, (1, -1, config.width))
    return xp.astype(xp.astype(emb, xp.float32), patches.dtype)


def embed_time(ops: Backend, p: Params, t: Array, like: Array) -> tuple[Array, Array]:
    """Embed timesteps, (n,): (n, d), and what modulates all blocks, (n, 6, d)."""
    xp = ops.xp
    if xp.isdtype(t.dtype, "integral"):
        t = xp.astype(t, getattr(xp, ops.state_dtype))
    waves = xp.astype(timestep_embedding(t, FREQUENCIES), like.dtype)
    time = layers.mlp(ops, p.emb.timestep_embedder, waves)
    rows = layers.linear(ops, p.linear, ops.silu(time))
    return time, xp.reshape(rows, (rows.shape[0], 6, like.shape[2]))


@layers.layer
def project_caption(ops: Backend, p: Params, x: Array) -> Array:
    """Project hidden states, (n, l, caption_channels) -> (n, l, d)."""
    return layers.linear(ops, p.linear_2, gelu(ops, layers.linear(ops, p.linear_1, x)))


@layers.layer
def block(
    ops: Backend,
    p: Params,
    x: Array,
    text: Array,
    modulation: Array,
    hidden: Array,
    heads: int,
) -> Array:
    """Apply self-attention, cross-attention and an MLP; x: (n, l, d) -> the same."""
    table = p.scale_shift_table[None, :, :] + modulation
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (table[:, i : i + 1, :] for i in range(6))
    h = normalize(ops, x, "norm1") * (1.0 + scale) + shift
    x = ops.add(x, gate * layers.attention(ops, p.attn1, h, h, heads))
    x = ops.add(x, layers.attention(ops, p.attn2, x, text, heads, bias=hidden))
    h = normalize(ops, x, "norm2") * (1.0 + scale_mlp) + shift_mlp
    return ops.add(x, gate_mlp * feed_forward(ops, p.ff, h))


def normalize(ops: Backend, x: Array, name: str) -> Array:
    """Normalise tokens (n, l, d) without learned weights; `name` is that of the module."""
    return transformer_layers.standardize(ops, x, name, EPS)


@layers.layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Apply an MLP with the tanh form of GELU; x: (n, l, d) -> the same."""
    return layers.linear(ops, p.net["2"], gelu(ops, layers.linear(ops, p.net["0"].proj, x)))


def gelu(ops: Backend, x: Array) -> Array:
    """Return the tanh form of GELU."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + ops.xp.tanh(inner))
