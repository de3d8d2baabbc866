"""The transformer of Stable Diffusion 3: streams of image and text that attend to each other.

Esser et al. 2024, arXiv:2403.03206, section 4 and figure 2 (MMDiT); adaLN-Zero of Peebles and Xie
2023, arXiv:2212.09748. Parameter names of diffusers' SD3Transformer2DModel.
"""

from __future__ import annotations

import math

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.joint_transformers import (
    EPS,
    adaptive_norm,
    embed,
    embedding_spec,
    feed_forward_spec,
    gated_feed_forward,
)
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.math.arrays import Array
from ldmref.math.embedding import timestep_embedding
from ldmref.math.tokens import join_patches
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.layers import layer, linear, merge_heads, split_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import attention_spec, conv_spec, linear_spec
from ldmref.models.transformer_layers import attend_jointly, rms_norm


def transformer_spec(config: MMDiTConfig) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d = config.width
    patch = config.patch_size
    last = config.num_layers - 1
    return {
        "pos_embed": {
            "pos_embed": (1, config.pos_embed_max_size**2, d),
            "proj": conv_spec(config.in_channels, d, patch),
        },
        "time_text_embed": embedding_spec(d, config.pooled_projection_dim),
        "context_embedder": linear_spec(config.joint_attention_dim, d),
        "transformer_blocks": numbered(block_spec(config, i, i == last) for i in range(last + 1)),
        "norm_out": {"linear": linear_spec(d, 2 * d)},
        "proj_out": linear_spec(d, patch * patch * config.out_channels),
    }


def block_spec(config: MMDiTConfig, number: int, last: bool = False) -> Spec:
    """Return the shapes of a block; the last one drops the text after its attention."""
    d = config.width
    dual = number in config.dual_attention_layers
    norm: Spec = {"weight": (config.attention_head_dim,)}
    feed_forward = feed_forward_spec(d)

    def with_norms(spec: Spec, *names: str) -> Spec:
        return spec | dict.fromkeys(names if config.qk_norm else (), norm)

    attention = attention_spec(d, bias=True)
    added = {f"add_{name}_proj": linear_spec(d, d) for name in "qkv"}
    if not last:
        added["to_add_out"] = linear_spec(d, d)
    names = "norm_q", "norm_k", "norm_added_q", "norm_added_k"
    spec: Spec = {
        "norm1": {"linear": linear_spec(d, (9 if dual else 6) * d)},
        "norm1_context": {"linear": linear_spec(d, (2 if last else 6) * d)},
        "attn": with_norms(attention | added, *names),
        "ff": feed_forward,
    }
    if dual:
        spec["attn2"] = with_norms(attention, *names[:2])
    if not last:
        spec["ff_context"] = feed_forward
    return spec


def transformer(
    ops: Backend,
    p: Params,
    config: MMDiTConfig,
    x: Array,
    t: Array,
    context: Array | CachedContext,
    pooled: Array,
    control: BlockResiduals | None = None,
) -> Array:
    """Predict the velocity eps - x0 of latents x_t = (1 - t) x0 + t eps.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w); h and w are multiples of the patch size.
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text, (n, l, joint_attention_dim).
        pooled: Pooled text, (n, pooled_projection_dim).
        control: What ControlNets add to the tokens of the image after each block but the last.

    Returns:
        (n, out_channels, h, w).

    Raises:
        UsageError: The table of positions is too small for the latents.
    """
    patch = config.patch_size
    h = embed_patches(ops, p.pos_embed, x, patch)
    text = linear(ops, p.context_embedder, get_hidden_states(context))
    emb = embed(ops, p.time_text_embed, t, pooled)
    heads = config.num_attention_heads
    for number, p_block in enumerate(p.transformer_blocks.items_in_order()):
        text, h = joint_block(ops, p_block, h, text, emb, heads)
        if control is not None and number < config.num_layers - 1:
            h = h + control.blocks[number]

    h = linear(ops, p.proj_out, adaptive_norm(ops, p.norm_out, h, emb)[0])
    return join_patches(h, x.shape[2] // patch, x.shape[3] // patch, patch, channels_last=True)


@layer
def embed_patches(ops: Backend, p: Params, x: Array, patch: int) -> Array:
    """Embed patches of latents and, if there is a table, their positions; returns (n, l, d)."""
    grid = ops.conv2d(x, p.proj.weight, p.proj.bias, patch, 0)
    n, d, rows, columns = grid.shape
    h = ops.xp.permute_dims(ops.xp.reshape(grid, (n, d, rows * columns)), (0, 2, 1))
    return h + crop_positions(ops, p.pos_embed, grid) if "pos_embed" in p else h


def make_positions(config: MMDiTConfig) -> np.ndarray:
    """Return the table of positions, (1, side * side, d) float32, with `pos_embed_max_size` a side.

    The first half of the width has sines and cosines of the column, the second half of the row,
    with the frequencies 10000^(-i / (d / 4)). The whole table spans the range from 0 to
    `sample_size / patch_size`, however many rows it has.
    """
    side = config.pos_embed_max_size
    grid = np.arange(side) * (config.sample_size // config.patch_size / side)
    waves = timestep_embedding(grid, config.width // 2, flip_sin_to_cos=False)
    columns = np.broadcast_to(waves[None, :, :], (side, *waves.shape))
    rows = np.broadcast_to(waves[:, None, :], columns.shape)
    table = np.concatenate([columns, rows], axis=2)
    return table.reshape(1, side * side, config.width).astype(np.float32)


def crop_positions(ops: Backend, table: Array, grid: Array) -> Array:
    """Return the middle of the table of positions, for patches (n, d, rows, columns).

    Args:
        ops: The backend.
        table: (1, side * side, d), whose first half of the width tells the column.
        grid: The patches.

    Returns:
        (1, rows * columns, d), from the row (side - rows) // 2 and the column of that kind.

    Raises:
        UsageError: There are more rows or columns than in the table.
    """
    xp = ops.xp
    side = math.isqrt(table.shape[1])
    sizes = [size for size in grid.shape[2:] if isinstance(size, int)]  # others are open in graphs
    if max(sizes, default=0) > side:
        raise UsageError(
            f"the latents have {max(sizes)} patches on a side, the model knows {side} positions",
            code="E-SIZE",
            hint="generate a smaller image",
        )
    d = table.shape[2]
    rows = middle_places(ops, grid[0, 0, :, 0], side)
    columns = middle_places(ops, grid[0, 0, 0, :], side)
    cropped = xp.take(xp.reshape(table, (side, side, d)), rows, axis=0)
    return xp.reshape(xp.take(cropped, columns, axis=1), (1, -1, d))


def middle_places(ops: Backend, line: Array, side: int) -> Array:
    """Return the places of a line of patches (k,) in the middle of `side` places, (k,) int64."""
    xp = ops.xp
    counted = ops.count_from_zero(line, 0)
    first = xp.astype((side - 1.0 - counted[-1:]) / 2, xp.int64)
    return first + xp.astype(counted, xp.int64)


@layer
def joint_block(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array,
    emb: Array,
    num_heads: int,
) -> tuple[Array, Array]:
    """Apply a block to image and text; x: (n, l, d), context: (n, m, d), emb: (n, d).

    Returns text and image, in diffusers' order. Each stream has its own weights. Time and pooled
    text give a shift, a scale and a gate for each attention and feed-forward layer. Nothing reads
    the text after the last block, which returns it as it was.
    """
    h, gate, *of_mlp = adaptive_norm(ops, p.norm1, x, emb)
    text, *of_text = adaptive_norm(ops, p.norm1_context, context, emb)
    h, *text = joint_attention(ops, p.attn, h, text, num_heads)
    x = x + gate * h
    if "attn2" in p:
        *of_mlp, h, gate = of_mlp
        x = x + gate * joint_attention(ops, p.attn2, h, None, num_heads)[0]
    x = x + gated_feed_forward(ops, p.ff, x, *of_mlp)
    if "ff_context" in p:
        gate, *of_mlp = of_text
        context = context + gate * text[0]
        context = context + gated_feed_forward(ops, p.ff_context, context, *of_mlp)
    return context, x


@layer
def joint_attention(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array | None,
    num_heads: int,
) -> tuple[Array, ...]:
    """Let all tokens of image and text attend to each other (figure 2b).

    Args:
        ops: The backend.
        p: Projections of both streams; `norm_q` and others if queries and keys are normalised.
        x: Image tokens, (n, l, d), which come first.
        context: Text tokens, (n, m, d). None: the image attends to itself.
        num_heads: Number of heads.

    Returns:
        The image, and the text if there is one and it is read after this block.
    """

    def project(states: Array, name: str, norm: str) -> Array:
        h = split_heads(ops, linear(ops, p[name], states), num_heads)
        return rms_norm(ops, p[norm], h, EPS) if norm in p else h

    q, k, v = (project(x, f"to_{name}", f"norm_{name}") for name in "qkv")
    if context is None:
        return (linear(ops, p.to_out["0"], merge_heads(ops, ops.attention(q, k, v))),)
    q_text, k_text, v_text = (
        project(context, f"add_{name}_proj", f"norm_added_{name}") for name in "qkv"
    )
    image, text = attend_jointly(ops, (q, k, v), (q_text, k_text, v_text))
    attended = linear(ops, p.to_out["0"], image)
    if "to_add_out" not in p:
        return (attended,)
    return attended, linear(ops, p.to_add_out, text)
