"""The transformer of DiT: patches, positions, and blocks with adaLN-Zero.

Peebles and Xie 2023, arXiv:2212.09748, section 3.2; parameter names of diffusers'
DiTTransformer2DModel, in which every block has its own copy of the embeddings of time and class.
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
from ldmref_dit.config import DiTConfig

Array = Any
FREQUENCIES = 256  # width of the sines and cosines of the time
EPS = 1e-6


def transformer_spec(config: DiTConfig) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d = config.width
    embeddings: Spec = {
        "timestep_embedder": {
            "linear_1": specs.linear_spec(FREQUENCIES, d),
            "linear_2": specs.linear_spec(d, d),
        },
        "class_embedder": {"embedding_table": {"weight": (config.num_classes + 1, d)}},
    }
    block: Spec = {
        "norm1": {"emb": embeddings, "linear": specs.linear_spec(d, 6 * d)},
        "attn1": specs.attention_spec(d, bias=True),
        "ff": {
            "net": {"0": {"proj": specs.linear_spec(d, 4 * d)}, "2": specs.linear_spec(4 * d, d)}
        },
    }
    patch = config.patch_size
    return {
        "pos_embed": {"proj": specs.conv_spec(config.in_channels, d, patch)},
        "transformer_blocks": numbered([block] * config.num_layers),
        "proj_out_1": specs.linear_spec(d, 2 * d),
        "proj_out_2": specs.linear_spec(d, patch * patch * config.out_channels),
    }


def transformer(
    ops: Backend, p: Params, config: DiTConfig, x: Array, t: Array, labels: Array
) -> Array:
    """Predict eps and, with twice the channels, the variance between its bounds.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w); h and w are multiples of the patch size.
        t: Training timesteps, (n,), integers or floats.
        labels: Numbers of the classes, (n,) int64; `num_classes` is the null class.

    Returns:
        (n, out_channels, h, w).
    """
    xp = ops.xp
    patch = config.patch_size
    h = ops.conv2d(x, p.pos_embed.proj.weight, p.pos_embed.proj.bias, patch, 0)
    n, d, rows, columns = h.shape
    positions = embed_positions(ops, config, h)
    h = xp.permute_dims(xp.reshape(h, (n, d, rows * columns)), (0, 2, 1)) + positions
    for p_block in p.transformer_blocks.items_in_order():
        h = block(ops, p_block, h, t, labels, config)

    emb = embed(ops, p.transformer_blocks["0"].norm1.emb, t, labels, config, h)
    shift, scale = split(layers.linear(ops, p.proj_out_1, ops.silu(emb)), 2)
    h = layers.linear(ops, p.proj_out_2, modulate(ops, h, shift, scale, "norm_out", EPS))
    # tokens back to pixels: n, rows, columns, patch, patch, c -> n, c, h, w
    c = config.out_channels
    h = xp.reshape(h, (n, rows, columns, patch, patch, c))
    h = xp.permute_dims(h, (0, 5, 1, 3, 2, 4))
    return xp.reshape(h, (n, c, x.shape[2], x.shape[3]))


def embed_positions(ops: Backend, config: DiTConfig, patches: Array) -> Array:
    """Return the embedding of the place of patches (n, d, rows, columns): (1, rows * columns, d).

    The first half of the width has sines and cosines of the column, the second half of the row
    (the original counts the column first), with the frequencies 10000^(-i / (d / 4)). A grid of
    another size than in training is stretched over the same range, as diffusers does. Published
    weights hold the numbers in float32, so they are rounded to it in float64, too.
    """
    xp = ops.xp
    grid = xp.astype(patches[0, 0, ...], getattr(xp, ops.state_dtype))
    base = config.sample_size // config.patch_size
    rows = count_places(ops, grid[:, 0], base)
    columns = count_places(ops, grid[0, :], base)
    by_row = timestep_embedding(rows, config.width // 2, flip_sin_to_cos=False)[:, None, :]
    by_column = timestep_embedding(columns, config.width // 2, flip_sin_to_cos=False)[None, :, :]
    by_row, by_column = ops.broadcast_like(by_row, by_column), ops.broadcast_like(by_column, by_row)
    emb = xp.concat([by_column, by_row], axis=2)
    emb = xp.reshape(emb, (1, -1, config.width))
    return xp.astype(xp.astype(emb, xp.float32), patches.dtype)


def count_places(ops: Backend, line: Array, base: int) -> Array:
    """Return 0, 1, ... for a line of patches (k,), in units of a grid of `base` patches."""
    places = ops.count_from_zero(line, 0)
    return places / ((places[-1:] + 1.0) / base)


@layers.layer
def embed(
    ops: Backend, p: Params, t: Array, labels: Array, config: DiTConfig, like: Array
) -> Array:
    """Embed timesteps and classes, (n,) each, and add them: (n, d), dtype of `like`."""
    xp = ops.xp
    if xp.isdtype(t.dtype, "integral"):
        t = xp.astype(t, getattr(xp, ops.state_dtype))
    waves = timestep_embedding(t, FREQUENCIES, freq_shift=config.freq_shift)
    time = layers.mlp(ops, p.timestep_embedder, xp.astype(waves, like.dtype))
    return time + ops.embedding(p.class_embedder.embedding_table.weight, labels)


@layers.layer
def block(ops: Backend, p: Params, x: Array, t: Array, labels: Array, config: DiTConfig) -> Array:
    """Apply a block with adaLN-Zero; x: (n, l, d) -> the same.

    Time and class give a shift, a scale and a gate for each of attention and MLP (figure 3).
    """
    h, gate_attn, shift_mlp, scale_mlp, gate_mlp = norm1(ops, p.norm1, x, t, labels, config)
    h = layers.attention(ops, p.attn1, h, h, config.num_attention_heads)
    x = ops.add(x, gate_attn[:, None, :] * h)
    h = modulate(ops, x, shift_mlp, scale_mlp, "norm3", config.norm_eps)
    return ops.add(x, gate_mlp[:, None, :] * feed_forward(ops, p.ff, h))


@layers.layer
def norm1(
    ops: Backend, p: Params, x: Array, t: Array, labels: Array, config: DiTConfig
) -> tuple[Array, Array, Array, Array, Array]:
    """Normalise tokens (n, l, d) as time and class say, and return the block's other factors.

    They are the gate of attention, and shift, scale and gate of the MLP, (n, d) each.
    """
    emb = embed(ops, p.emb, t, labels, config, x)
    shift, scale, *rest = split(layers.linear(ops, p.linear, ops.silu(emb)), 6)
    gate, shift_mlp, scale_mlp, gate_mlp = rest
    return modulate(ops, x, shift, scale, "norm", EPS), gate, shift_mlp, scale_mlp, gate_mlp


def modulate(ops: Backend, x: Array, shift: Array, scale: Array, name: str, eps: float) -> Array:
    """Normalise tokens (n, l, d) without learned weights, then scale and shift by (n, d) each.

    `name` is that of diffusers' module.
    """
    normal = transformer_layers.standardize(ops, x, name, eps)
    return normal * (1.0 + scale[:, None, :]) + shift[:, None, :]


@layers.layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Apply an MLP with the tanh form of GELU; x: (n, l, d) -> the same."""
    h = layers.linear(ops, p.net["0"].proj, x)
    inner = math.sqrt(2.0 / math.pi) * (h + 0.044715 * h * h * h)
    return layers.linear(ops, p.net["2"], 0.5 * h * (1.0 + ops.xp.tanh(inner)))


def split(x: Array, parts: int) -> list[Array]:
    """Split (n, parts * d) into parts of (n, d)."""
    d = x.shape[1] // parts
    return [x[:, i * d : (i + 1) * d] for i in range(parts)]
