"""The transformer of FLUX.2: blocks of two streams, image and text, then blocks of one.

Black Forest Labs 2025, github.com/black-forest-labs/flux2, src/flux2/model.py. All blocks of a kind
share their shifts, scales and gates, and no linear layer has a bias. Two streams as in Esser et
al. 2024, arXiv:2403.03206, section 4; rotary positions of Su et al. 2021, arXiv:2104.09864, on four
axes; attention beside the MLP as in Dehghani et al. 2023, arXiv:2302.05442, section 2; gates of
Shazeer 2020, arXiv:2002.05202. Parameter names of diffusers' Flux2Transformer2DModel.
"""

from __future__ import annotations

from ldmref.backends.base import Backend
from ldmref.families.flux2.config import Flux2Config
from ldmref.families.joint_transformers import SCALE, embed_numbers
from ldmref.math.arrays import Array
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.layers import layer, linear, merge_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, mlp_spec
from ldmref.models.transformer_layers import (
    ADDED,
    QUERY_KEY_VALUE,
    attend_jointly,
    gate_halves,
    join_cells,
    normalize_heads,
    place_cells,
    project_heads,
    split_cells,
    standardize,
    turn_by,
)


def transformer_spec(config: Flux2Config) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d = config.width

    def square(times: int = 1) -> Spec:
        return linear_spec(d, times * d, False)

    embedder = mlp_spec(config.timestep_guidance_channels, d, bias=False)
    embedders: Spec = {"timestep_embedder": embedder}
    if config.guidance_embeds:
        embedders["guidance_embedder"] = embedder
    return {
        "time_guidance_embed": embedders,
        "double_stream_modulation_img": {"linear": square(6)},
        "double_stream_modulation_txt": {"linear": square(6)},
        "single_stream_modulation": {"linear": square(3)},
        "x_embedder": linear_spec(config.in_channels, d, False),
        "context_embedder": linear_spec(config.joint_attention_dim, d, False),
        "transformer_blocks": numbered([double_spec(config)] * config.num_layers),
        "single_transformer_blocks": numbered([single_spec(config)] * config.num_single_layers),
        "norm_out": {"linear": square(2)},
        "proj_out": linear_spec(d, config.out_channels, False),
    }


def double_spec(config: Flux2Config) -> Spec:
    """Return the shapes of a block of two streams."""
    d = config.width
    square = linear_spec(d, d, False)
    head: Spec = {"weight": (config.attention_head_dim,)}
    attention: Spec = {name: square for name in (*QUERY_KEY_VALUE, *ADDED, "to_add_out")}
    attention["to_out"] = {"0": square}
    attention |= dict.fromkeys(("norm_q", "norm_k", "norm_added_q", "norm_added_k"), head)
    feed_forward: Spec = {
        "linear_in": linear_spec(d, 2 * config.mlp_width, False),
        "linear_out": linear_spec(config.mlp_width, d, False),
    }
    return {"attn": attention, "ff": feed_forward, "ff_context": feed_forward}


def single_spec(config: Flux2Config) -> Spec:
    """Return the shapes of a block of one stream."""
    d, hidden = config.width, config.mlp_width
    head: Spec = {"weight": (config.attention_head_dim,)}
    attention: Spec = {
        "to_qkv_mlp_proj": linear_spec(d, 3 * d + 2 * hidden, False),
        "norm_q": head,
        "norm_k": head,
        "to_out": linear_spec(d + hidden, d, False),
    }
    return {"attn": attention}


def transformer(
    ops: Backend,
    p: Params,
    config: Flux2Config,
    x: Array,
    t: Array,
    context: Array | CachedContext,
    guidance: Array | None = None,
    reference_tokens: Array | None = None,
    reference_positions: Array | None = None,
) -> Array:
    """Predict the velocity eps - x0 of latents x_t = (1 - t) x0 + t eps.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w).
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text, (n, l, joint_attention_dim). Those of padding are read
            like all others.
        guidance: The guidance scales, (n,). None: the network reads none.
        reference_tokens: Latents of the reference images, (n, k, z). None: there are none.
        reference_positions: Time, row, column and 0 of each of them, (n, k, 4).

    Returns:
        (n, z, h, w).
    """
    xp = ops.xp
    height, width = x.shape[2:]
    tokens = split_cells(x)
    text = get_hidden_states(context)
    positions = find_positions(ops, x, text)
    if reference_tokens is not None and reference_positions is not None:
        tokens = xp.concat([tokens, reference_tokens], axis=1)
        more = xp.astype(reference_positions, positions.dtype, copy=False)
        rows = ops.broadcast_like(positions[None, :, :], more[:, :1, :])
        positions = xp.concat([rows, more], axis=1)
    emb = embed(ops, p.time_guidance_embed, config, t, guidance, x)
    of_image = modulation(ops, p.double_stream_modulation_img, emb)
    of_text = modulation(ops, p.double_stream_modulation_txt, emb)
    of_both = modulation(ops, p.single_stream_modulation, emb)
    h = linear(ops, p.x_embedder, tokens)
    text = linear(ops, p.context_embedder, text)
    for block in p.transformer_blocks.items_in_order():
        text, h = double_block(ops, block, h, text, of_image, of_text, positions, config)
    length = text.shape[1]
    joined = xp.concat([text, h], axis=1)
    for block in p.single_transformer_blocks.items_in_order():
        joined = single_block(ops, block, joined, of_both, positions, config)
    h = linear(ops, p.proj_out, modulated_norm(ops, p.norm_out, joined[:, length:, :], emb, config))
    return join_cells(h, height, width)


def find_positions(ops: Backend, x: Array, text: Array) -> Array:
    """Return time, row, column and place of each token, (l + h * w, 4).

    The i-th token of the text, (n, l, d), is at (0, 0, 0, i); a cell of the latents, (n, z, h, w),
    at (0, row, column, 0).
    """
    xp = ops.xp
    cells = place_cells(ops, x[0, 0, :, :])
    none = xp.zeros_like(cells[:, :1])
    place = ops.count_from_zero(text[0, :, :1], axis=0)
    nowhere = xp.zeros_like(place)
    of_text = xp.concat([nowhere, nowhere, nowhere, place], axis=1)
    return xp.concat([of_text, xp.concat([none, cells, none], axis=1)], axis=0)


@layer
def embed(
    ops: Backend, p: Params, config: Flux2Config, t: Array, guidance: Array | None, like: Array
) -> Array:
    """Embed times and guidance scales, (n,) each; their sum is (n, d), in the dtype of `like`."""
    width = config.timestep_guidance_channels
    emb = embed_numbers(ops, p.timestep_embedder, t, width, like)
    if guidance is not None and "guidance_embedder" in p:
        emb = emb + embed_numbers(ops, p.guidance_embedder, guidance * SCALE, width, like)
    return emb


@layer
def modulation(ops: Backend, p: Params, emb: Array) -> Array:
    """Return shifts, scales and gates of all blocks of a kind, (n, 3 k d), of `emb`, (n, d)."""
    return linear(ops, p.linear, ops.silu(emb))


def split_modulation(rows: Array, d: int) -> list[Array]:
    """Return the shift, scale and gate of each part of a block, (n, 1, d), of (n, 3 k d)."""
    return [rows[:, None, i : i + d] for i in range(0, rows.shape[1], d)]


@layer
def double_block(
    ops: Backend,
    p: Params,
    x: Array,
    context: Array,
    of_image: Array,
    of_text: Array,
    positions: Array,
    config: Flux2Config,
) -> tuple[Array, Array]:
    """Apply a block to image (n, l, d) and text (n, m, d), each with its own weights.

    `of_image` and `of_text` are the `modulation` of each stream. Returns the text and the image.
    """
    d = config.width
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = split_modulation(of_image, d)
    h = standardize(ops, x, "norm1", config.eps) * (1.0 + scale) + shift
    text_shift, text_scale, text_gate, *of_text_mlp = split_modulation(of_text, d)
    text = standardize(ops, context, "norm1_context", config.eps) * (1.0 + text_scale) + text_shift
    h, text = joint_attention(ops, p.attn, h, text, positions, config)
    x = x + gate * h
    h = standardize(ops, x, "norm2", config.eps) * (1.0 + scale_mlp) + shift_mlp
    x = x + gate_mlp * feed_forward(ops, p.ff, h)
    context = context + text_gate * text
    shift_mlp, scale_mlp, gate_mlp = of_text_mlp
    h = standardize(ops, context, "norm2_context", config.eps) * (1.0 + scale_mlp) + shift_mlp
    return context + gate_mlp * feed_forward(ops, p.ff_context, h), x


@layer
def single_block(
    ops: Backend, p: Params, x: Array, rows: Array, positions: Array, config: Flux2Config
) -> Array:
    """Apply attention and MLP side by side to text and image in one stream, (n, l, d)."""
    shift, scale, gate = split_modulation(rows, config.width)
    h = standardize(ops, x, "norm", config.eps) * (1.0 + scale) + shift
    return x + gate * parallel_attention(ops, p.attn, h, positions, config)


@layer
def joint_attention(
    ops: Backend, p: Params, x: Array, context: Array, positions: Array, config: Flux2Config
) -> tuple[Array, Array]:
    """Let text (n, m, d) and image (n, l, d) attend to each other; returns image and text."""
    added = project_heads(ops, p, context, config.num_attention_heads, config.eps, ADDED, "added_")
    own = project_heads(ops, p, x, config.num_attention_heads, config.eps)
    turn = turn_by(ops, positions, config.axes_dims_rope, config.rope_theta)
    text, image = attend_jointly(ops, added, own, turn)
    text = linear(ops, p.to_add_out, text)
    return linear(ops, p.to_out["0"], image), text


@layer
def parallel_attention(
    ops: Backend, p: Params, x: Array, positions: Array, config: Flux2Config
) -> Array:
    """Let all tokens (n, l, d) attend to each other, in parallel with an MLP of each.

    One linear layer makes queries, keys, values and both halves of the MLP; another one reads the
    attention and the MLP.
    """
    d = config.width
    h = linear(ops, p.to_qkv_mlp_proj, x)
    parts = [h[:, :, i * d : (i + 1) * d] for i in range(3)]
    q, k, v = normalize_heads(ops, p, parts, config.num_attention_heads, config.eps)
    turn = turn_by(ops, positions, config.axes_dims_rope, config.rope_theta)
    attended = merge_heads(ops, ops.attention(turn(q), turn(k), v))
    both = ops.xp.concat([attended, gate_halves(ops, h[:, :, 3 * d :])], axis=2)
    return linear(ops, p.to_out, both)


@layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Apply an MLP with a gate; x: (n, l, d) -> the same."""
    return linear(ops, p.linear_out, gate_halves(ops, linear(ops, p.linear_in, x)))


@layer
def modulated_norm(ops: Backend, p: Params, x: Array, emb: Array, config: Flux2Config) -> Array:
    """Normalise tokens (n, l, d), then scale and shift them as `emb`, (n, d), says.

    Scale and shift have diffusers' order, not the original's.
    """
    scale, shift = split_modulation(linear(ops, p.linear, ops.silu(emb)), config.width)
    return standardize(ops, x, "norm", config.eps) * (1.0 + scale) + shift
