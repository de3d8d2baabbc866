"""The transformer of Krea 2: the text's states are fused, then text and image are one stream.

github.com/krea-ai/krea-2, mmdit.py: rotary positions of Su et al. 2021, arXiv:2104.09864, on three
axes; grouped queries of Ainslie et al. 2023, arXiv:2305.13245; a gate on the output of attention,
Qiu et al. 2025, arXiv:2505.06708, section 2.2; feed-forward layers of Shazeer 2020,
arXiv:2002.05202. Patches and positions are those of Flux.1. Every norm divides by the root mean
square and multiplies by 1 + weight, in float32. Parameter names of diffusers'
Krea2Transformer2DModel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ldmref.backends.base import Backend
from ldmref.families.flux.network import find_positions
from ldmref.families.joint_transformers import find_sines
from ldmref.families.krea2.config import Krea2Config
from ldmref.math.arrays import Array
from ldmref.math.tokens import PATCH, cut_patches, join_patches
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.layers import layer, linear, mask_bias, merge_heads, repeat_heads, split_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, mlp_spec, normalized_attention_spec, swiglu_spec
from ldmref.models.transformer_layers import (
    cut_width,
    embed_patches,
    gelu_tanh,
    rms_norm,
    swiglu,
    turn_by,
)

Turn: TypeAlias = Callable[[Array], Array]
"""Turns queries or keys, (n, heads, l, d), by the positions of their tokens."""


def transformer_spec(config: Krea2Config) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d, text = config.width, config.text_hidden_dim
    patch = PATCH**2 * config.in_channels
    heads = config.num_attention_heads, config.num_key_value_heads
    text_heads = config.text_num_attention_heads, config.text_num_key_value_heads
    block = block_spec(d, *heads, config.intermediate_size)
    of_text = block_spec(text, *text_heads, config.text_intermediate_size)
    block["scale_shift_table"] = (6, d)
    return {
        "img_in": linear_spec(patch, d),
        "time_embed": mlp_spec(config.timestep_embed_dim, d),
        "time_mod_proj": linear_spec(d, 6 * d),
        "text_fusion": {
            "layerwise_blocks": numbered([of_text] * config.num_layerwise_text_blocks),
            "projector": linear_spec(config.num_text_layers, 1, False),
            "refiner_blocks": numbered([of_text] * config.num_refiner_text_blocks),
        },
        "txt_in": {"norm": {"weight": (text,)}, **mlp_spec(text, d)},
        "transformer_blocks": numbered([block] * config.num_layers),
        "final_layer": {
            "scale_shift_table": (2, d),
            "norm": {"weight": (d,)},
            "linear": linear_spec(d, patch),
        },
    }


def block_spec(d: int, heads: int, shared: int, hidden: int) -> Spec:
    """Return the shapes of norms, attention and feed-forward layer of a block of width d."""
    keys = d // heads * shared
    return {
        "norm1": {"weight": (d,)},
        "norm2": {"weight": (d,)},
        "attn": {
            **normalized_attention_spec(d, d // heads),
            "to_k": linear_spec(d, keys, False),
            "to_v": linear_spec(d, keys, False),
            "to_gate": linear_spec(d, d, False),
        },
        "ff": swiglu_spec(d, hidden, ("gate", "up", "down")),
    }


def transformer(
    ops: Backend,
    p: Params,
    config: Krea2Config,
    x: Array,
    t: Array,
    context: Array | CachedContext,
    mask: Array | None = None,
) -> Array:
    """Predict the velocity eps - x0 of latents x_t = (1 - t) x0 + t eps.

    The order of the text's tokens does not matter: none of them has a position.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w) with even h and w.
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text's tokens, (n, l, k * text_hidden_dim) for k layers.
        mask: 1 for tokens and 0 for padding, which no token reads, (n, l). None: all are tokens.

    Returns:
        (n, z, h, w).
    """
    xp = ops.xp
    states = get_hidden_states(context)
    if mask is None:
        mask = xp.ones_like(states[:, :, 0])
    grid = cut_patches(x)
    _, rows, columns, _ = grid.shape
    emb = embed_time(ops, p.time_embed, t, config.timestep_embed_dim, x)
    modulation = linear(ops, p.time_mod_proj, gelu_tanh(ops, emb, "gelu"))
    layers = xp.reshape(states, (*states.shape[:2], config.num_text_layers, config.text_hidden_dim))
    text = fuse_layers(ops, p.text_fusion, layers, mask_bias(ops, mask), config)
    text = project_text(ops, p.txt_in, text, config.norm_eps)
    positions = find_positions(ops, grid, text)
    length = text.shape[1]
    h = xp.concat([text, embed_patches(ops, p.img_in, grid)], axis=1)
    seen = xp.astype(mask, getattr(xp, ops.state_dtype), copy=False)
    of_image = xp.ones_like(xp.astype(h[:, length:, 0], seen.dtype, copy=False))
    score_bias = mask_bias(ops, xp.concat([seen, of_image], axis=1))
    for block in p.transformer_blocks.items_in_order():
        h = modulated_block(ops, block, h, modulation, positions, score_bias, config)
    h = final_layer(ops, p.final_layer, h[:, length:, :], emb, config.norm_eps)
    return join_patches(h, rows, columns)


@layer
def embed_time(ops: Backend, p: Params, t: Array, dim: int, like: Array) -> Array:
    """Embed times, multiplied by 1000, (n,): (n, 1, d), dtype of `like`."""
    waves = ops.xp.astype(find_sines(ops, t, dim), like.dtype, copy=False)
    h = linear(ops, p.linear_1, waves[:, None, :])
    return linear(ops, p.linear_2, gelu_tanh(ops, h, "gelu"))


@layer
def fuse_layers(ops: Backend, p: Params, x: Array, score_bias: Array, config: Krea2Config) -> Array:
    """Make one state of the hidden states of k layers, (n, l, k, d): (n, l, d).

    The states of a token read each other, are summed with a weight for each layer, and then the
    tokens read each other.
    """
    xp = ops.xp
    n, length, k, d = x.shape
    h = xp.reshape(x, (n * length, k, d))
    for block in p.layerwise_blocks.items_in_order():
        h = plain_block(ops, block, h, None, config)
    h = xp.permute_dims(xp.reshape(h, (n, length, k, d)), (0, 1, 3, 2))
    h = linear(ops, p.projector, h)[:, :, :, 0]
    for block in p.refiner_blocks.items_in_order():
        h = plain_block(ops, block, h, score_bias, config)
    return h


@layer
def project_text(ops: Backend, p: Params, x: Array, eps: float) -> Array:
    """Project states of the text, (n, l, d_text), to the width of the blocks, (n, l, d)."""
    h = linear(ops, p.linear_1, unit_norm(ops, p.norm, x, eps))
    return linear(ops, p.linear_2, gelu_tanh(ops, h, "gelu"))


@layer
def plain_block(
    ops: Backend, p: Params, x: Array, score_bias: Array | None, config: Krea2Config
) -> Array:
    """Apply attention and the feed-forward layer, both pre-norm and residual; x: (n, l, d)."""
    eps = config.norm_eps
    heads = config.text_num_attention_heads, config.text_num_key_value_heads
    h = unit_norm(ops, p.norm1, x, eps)
    x = x + gated_attention(ops, p.attn, h, score_bias, heads, eps)
    return x + feed_forward(ops, p.ff, unit_norm(ops, p.norm2, x, eps))


@layer
def modulated_block(
    ops: Backend,
    p: Params,
    x: Array,
    modulation: Array,
    positions: Array,
    score_bias: Array | None,
    config: Krea2Config,
) -> Array:
    """Apply attention and the feed-forward layer to text and image, (n, l, d).

    The time gives scale, shift and gate of both, (n, 1, 6 d) for all blocks; each block adds a
    table.
    """
    d, eps = x.shape[2], config.norm_eps
    rows = modulation + ops.xp.reshape(p.scale_shift_table, (1, 1, 6 * d))
    scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = cut_width(rows, 6)
    heads = config.num_attention_heads, config.num_key_value_heads
    turn = turn_by(ops, positions, config.axes_dims_rope, config.rope_theta)
    h = (1.0 + scale) * unit_norm(ops, p.norm1, x, eps) + shift
    x = x + gate * gated_attention(ops, p.attn, h, score_bias, heads, eps, turn)
    h = (1.0 + scale_mlp) * unit_norm(ops, p.norm2, x, eps) + shift_mlp
    return x + gate_mlp * feed_forward(ops, p.ff, h)


@layer
def gated_attention(
    ops: Backend,
    p: Params,
    x: Array,
    score_bias: Array | None,
    heads: tuple[int, int],
    eps: float,
    turn: Turn | None = None,
) -> Array:
    """Let tokens (n, l, d) read each other; each scales what it read by its own gate.

    `heads` are the numbers of those of the queries, and of those of keys and values.
    """
    queries, shared = heads
    q = unit_norm(ops, p.norm_q, split_heads(ops, linear(ops, p.to_q, x), queries), eps)
    k = unit_norm(ops, p.norm_k, split_heads(ops, linear(ops, p.to_k, x), shared), eps)
    v = split_heads(ops, linear(ops, p.to_v, x), shared)
    if turn is not None:
        q, k = turn(q), turn(k)
    k, v = (repeat_heads(ops, part, queries) for part in (k, v))
    mixed = merge_heads(ops, ops.attention(q, k, v, bias=score_bias))
    return linear(ops, p.to_out["0"], mixed * sigmoid(ops, linear(ops, p.to_gate, x)))


def sigmoid(ops: Backend, x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), by tanh, which does not overflow."""
    return 0.5 * ops.xp.tanh(0.5 * x) + 0.5


@layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Compute W_down (silu(W_gate x) * W_up x); x: (n, l, d) -> the same."""
    return swiglu(ops, p.gate, p.up, p.down, x)


@layer
def final_layer(ops: Backend, p: Params, x: Array, emb: Array, eps: float) -> Array:
    """Normalise tokens (n, l, d), scale and shift them as the time (n, 1, d) says, and project.

    Unlike in the blocks, the embedded time itself is added to the table.
    """
    table = p.scale_shift_table[None, :, :]
    scale, shift = emb + table[:, :1, :], emb + table[:, 1:, :]
    h = (1.0 + scale) * unit_norm(ops, p.norm, x, eps) + shift
    return linear(ops, p.linear, h)


def unit_norm(ops: Backend, p: Params, x: Array, eps: float) -> Array:
    """Divide by the root mean square of the last axis, and multiply by 1 + weight."""
    return rms_norm(ops, p, x, eps, 1.0)
