"""The transformer of Flux.1: blocks of two streams, image and text, then blocks of one.

Black Forest Labs 2024, github.com/black-forest-labs/flux, src/flux/model.py; two streams as in
Esser et al. 2024, arXiv:2403.03206, section 4; rotary positions of Su et al. 2021,
arXiv:2104.09864; attention beside the MLP as in Dehghani et al. 2023, arXiv:2302.05442, section 2.
Parameter names of diffusers' FluxTransformer2DModel.
"""

from __future__ import annotations

from ldmref.backends.base import Backend
from ldmref.families.flux.config import FluxConfig
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.joint_transformers import (
    EPS,
    SCALE,
    adaptive_norm,
    embed,
    embedding_spec,
    feed_forward_spec,
    gated_feed_forward,
)
from ldmref.math.arrays import Array
from ldmref.math.tokens import PATCH, cut_patches, join_patches
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.layers import layer, linear, merge_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import attention_spec, linear_spec
from ldmref.models.transformer_layers import (
    ADDED,
    attend_jointly,
    embed_patches,
    gelu_tanh,
    place_cells,
    project_heads,
    turn_by,
)


def transformer_spec(config: FluxConfig) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d = config.width
    norms: Spec = {"weight": (config.attention_head_dim,)}
    attention = attention_spec(d, bias=True) | {"norm_q": norms, "norm_k": norms}
    alone = {name: part for name, part in attention.items() if name != "to_out"}
    joint = attention | {f"add_{name}_proj": linear_spec(d, d) for name in "qkv"}
    joint |= {"to_add_out": linear_spec(d, d), "norm_added_q": norms, "norm_added_k": norms}
    feed_forward = feed_forward_spec(d)
    double: Spec = {
        "norm1": {"linear": linear_spec(d, 6 * d)},
        "norm1_context": {"linear": linear_spec(d, 6 * d)},
        "attn": joint,
        "ff": feed_forward,
        "ff_context": feed_forward,
    }
    single: Spec = {
        "norm": {"linear": linear_spec(d, 3 * d)},
        "attn": alone,
        "proj_mlp": linear_spec(d, 4 * d),
        "proj_out": linear_spec(5 * d, d),
    }
    return {
        "time_text_embed": embedding_spec(d, config.pooled_projection_dim, config.guidance_embeds),
        "context_embedder": linear_spec(config.joint_attention_dim, d),
        "x_embedder": linear_spec(PATCH**2 * config.in_channels, d),
        "transformer_blocks": numbered([double] * config.num_layers),
        "single_transformer_blocks": numbered([single] * config.num_single_layers),
        "norm_out": {"linear": linear_spec(d, 2 * d)},
        "proj_out": linear_spec(d, PATCH**2 * config.out_channels),
    }


def transformer(
    ops: Backend,
    p: Params,
    config: FluxConfig,
    x: Array,
    t: Array,
    context: Array | CachedContext,
    pooled: Array,
    guidance: Array | None = None,
    control: BlockResiduals | None = None,
) -> Array:
    """Predict the velocity eps - x0 of latents x_t = (1 - t) x0 + t eps.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, in_channels, h, w) with even h and w.
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text, (n, l, joint_attention_dim).
        pooled: Pooled text, (n, pooled_projection_dim).
        guidance: The guidance scales, (n,). None: the network reads none.
        control: What ControlNets add to the tokens of the image after each block.

    Returns:
        (n, out_channels, h, w).
    """
    heads = config.num_attention_heads
    grid = cut_patches(x)
    _, rows, columns, _ = grid.shape
    h = embed_patches(ops, p.x_embedder, grid)
    scale = None if guidance is None else guidance * SCALE
    emb = embed(ops, p.time_text_embed, t, pooled, scale)
    text = linear(ops, p.context_embedder, get_hidden_states(context))
    positions = find_positions(ops, grid, text)
    dims = config.axes_dims_rope
    added = control or BlockResiduals()
    for number, block in enumerate(p.transformer_blocks.items_in_order()):
        text, h = double_block(ops, block, h, text, emb, positions, dims, heads)
        if added.blocks:
            h = h + added.blocks[number]
    for number, block in enumerate(p.single_transformer_blocks.items_in_order()):
        text, h = single_block(ops, block, h, text, emb, positions, dims, heads)
        if added.single_blocks:
            h = h + added.single_blocks[number]
    h = linear(ops, p.proj_out, adaptive_norm(ops, p.norm_out, h, emb)[0])
    return join_patches(h, rows, columns)


def find_positions(ops: Backend, grid: Array, text: Array) -> Array:
    """Return time, row and column of each token, (l + rows * columns, 3), in `ops.state_dtype`.

    A token of the text, (n, l, d), is at time, row and column 0; a patch, (n, rows, columns, c), at
    time 0.
    """
    xp = ops.xp
    cells = place_cells(ops, grid[0, :, :, 0])
    of_patches = xp.concat([xp.zeros_like(cells[:, :1]), cells], axis=1)
    of_text = ops.zeros((text.shape[1], 3), cells)
    return xp.concat([of_text, of_patches], axis=0)


@layer
def double_block(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array,
    emb: Array,
    positions: Array,
    dims: tuple[int, ...],
    num_heads: int,
) -> tuple[Array, Array]:
    """Apply a block to image (n, l, d) and text (n, m, d), each with its own weights.

    Returns the text and the image. Time, guidance and pooled text, `emb` (n, d), give a shift, a
    scale and a gate for attention and MLP of each stream.
    """
    h, gate, *of_mlp = adaptive_norm(ops, p.norm1, x, emb)
    text, text_gate, *of_text_mlp = adaptive_norm(ops, p.norm1_context, context, emb)
    h, text = joint_attention(ops, p.attn, h, text, positions, dims, num_heads)
    x = x + gate * h
    x = x + gated_feed_forward(ops, p.ff, x, *of_mlp)
    context = context + text_gate * text
    return context + gated_feed_forward(ops, p.ff_context, context, *of_text_mlp), x


@layer
def single_block(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array,
    emb: Array,
    positions: Array,
    dims: tuple[int, ...],
    num_heads: int,
) -> tuple[Array, Array]:
    """Apply attention and MLP side by side to text (n, m, d) and image (n, l, d), in this order.

    Returns the text and the image.
    """
    xp = ops.xp
    length = context.shape[1]
    joined = xp.concat([context, x], axis=1)
    h, gate = adaptive_norm(ops, p.norm, joined, emb)
    attended = self_attention(ops, p.attn, h, positions, dims, num_heads)
    h = gelu_tanh(ops, linear(ops, p.proj_mlp, h), "act_mlp")
    h = xp.concat([attended, h], axis=2)  # frees the MLP's 4 d channels, most of the block's memory
    joined = joined + gate * linear(ops, p.proj_out, h)
    return joined[:, :length, :], joined[:, length:, :]


@layer
def joint_attention(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array,
    positions: Array,
    dims: tuple[int, ...],
    num_heads: int,
) -> tuple[Array, Array]:
    """Let text (n, m, d) and image (n, l, d) attend to each other; returns image and text."""
    added = project_heads(ops, p, context, num_heads, EPS, ADDED, "added_")
    own = project_heads(ops, p, x, num_heads, EPS)
    text, image = attend_jointly(ops, added, own, turn_by(ops, positions, dims))
    text = linear(ops, p.to_add_out, text)
    return linear(ops, p.to_out["0"], image), text


@layer
def self_attention(
    ops: Backend, p: Params, x: Array, positions: Array, dims: tuple[int, ...], num_heads: int
) -> Array:
    """Let all tokens (n, l, d) attend to each other, without a projection of the result."""
    q, k, v = project_heads(ops, p, x, num_heads, EPS)
    turn = turn_by(ops, positions, dims)
    return merge_heads(ops, ops.attention(turn(q), turn(k), v))
