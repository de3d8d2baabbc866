"""The transformer of Z-Image: image and caption alone, then both in one stream.

Z-Image Team 2025, arXiv:2511.22699, section 4.2, and github.com/Tongyi-MAI/Z-Image,
src/zimage/transformer.py; rotary positions of Su et al. 2021, arXiv:2104.09864, on three axes;
norms before and after every layer, as in Ding et al. 2021, arXiv:2105.13290, section 2.4. Parameter
names of diffusers' ZImageTransformer2DModel.
"""

from __future__ import annotations

from typing import NamedTuple

from ldmref.backends.base import Backend
from ldmref.families.joint_transformers import FREQUENCIES, find_sines, normalize
from ldmref.families.z_image.config import ZImageConfig
from ldmref.math.arrays import Array
from ldmref.math.tokens import PATCH, cut_patches, join_patches
from ldmref.models.layers import layer, linear, mask_bias, merge_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, normalized_attention_spec
from ldmref.models.transformer_layers import (
    cut_width,
    flatten_patches,
    place_cells,
    project_heads,
    rms_norm,
    swiglu,
    turn_by,
)

TIME_WIDTH = 1024  # of the embedded time between its two layers
FORM = "2-1"  # patches of 2 x 2 cells of one frame
QK_EPS = 1e-5  # of the norms of queries and keys


class TokenStream(NamedTuple):
    """Tokens with their positions, and which of them are read.

    Attributes:
        states: (n, l, d).
        positions: Place in the sequence, row and column, (n, l, 3).
        seen: 1 for tokens that others read and 0 for those that fill up a batch, (n, l). None: all
            are read.
    """

    states: Array
    positions: Array
    seen: Array | None


def transformer_spec(config: ZImageConfig) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d = config.dim
    hidden = config.hidden_dim
    norm: Spec = {"weight": (d,)}
    plain: Spec = {
        "attention": normalized_attention_spec(d, d // config.n_heads),
        "feed_forward": {
            "w1": linear_spec(d, hidden, False),
            "w2": linear_spec(hidden, d, False),
            "w3": linear_spec(d, hidden, False),
        },
        "attention_norm1": norm,
        "ffn_norm1": norm,
        "attention_norm2": norm,
        "ffn_norm2": norm,
    }
    modulated: Spec = {**plain, "adaLN_modulation": {"0": linear_spec(config.time_dim, 4 * d)}}
    width = PATCH**2 * config.in_channels
    final: Spec = {
        "linear": linear_spec(d, width),
        "adaLN_modulation": {"1": linear_spec(config.time_dim, d)},
    }
    text = config.cap_feat_dim
    return {
        "x_pad_token": (1, d),
        "cap_pad_token": (1, d),
        "all_x_embedder": {FORM: linear_spec(width, d)},
        "all_final_layer": {FORM: final},
        "noise_refiner": numbered([modulated] * config.n_refiner_layers),
        "context_refiner": numbered([plain] * config.n_refiner_layers),
        "t_embedder": {
            "mlp": {
                "0": linear_spec(FREQUENCIES, TIME_WIDTH),
                "2": linear_spec(TIME_WIDTH, config.time_dim),
            }
        },
        "cap_embedder": {"0": {"weight": (text,)}, "1": linear_spec(text, d)},
        "layers": numbered([modulated] * config.n_layers),
    }


def transformer(
    ops: Backend, p: Params, config: ZImageConfig, x: Array, t: Array, context: Array, mask: Array
) -> Array:
    """Predict x0 - eps, the velocity from noise to image, as the makers' network does.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w) with even h and w.
        t: The makers' times, (n,) floating: 0 for noise, 1 for the image.
        context: Hidden states of the captions, (n, l, cap_feat_dim).
        mask: 1 for tokens of a caption, which come first, and 0 for padding, (n, l).

    Returns:
        (n, z, h, w).
    """
    xp = ops.xp
    emb = embed_time(ops, p.t_embedder, t * config.t_scale, x)
    caption = embed_caption(ops, p, config, context, mask)
    image = embed_image(ops, p, config, x, caption)
    image = refine(ops, p.noise_refiner, config, image, emb)
    caption = refine(ops, p.context_refiner, config, caption, None)
    positions = xp.concat([image.positions, caption.positions], axis=1)
    seen = xp.concat([xp.ones_like(image.positions[:, :, 0]), caption.seen], axis=1)
    joined = xp.concat([image.states, caption.states], axis=1)
    joined = refine(ops, p.layers, config, TokenStream(joined, positions, seen), emb)
    h = final_layer(ops, p.all_final_layer[FORM], joined.states, emb)
    return join_patches(h, x.shape[2] // PATCH, x.shape[3] // PATCH, channels_last=True)


@layer
def embed_time(ops: Backend, p: Params, t: Array, like: Array) -> Array:
    """Embed times, (n,), already scaled: (n, d_time), dtype of `like`."""
    waves = find_sines(ops, t, FREQUENCIES)
    h = linear(ops, p.mlp["0"], ops.xp.astype(waves, like.dtype, copy=False))
    return linear(ops, p.mlp["2"], ops.silu(h))


def embed_caption(
    ops: Backend, p: Params, config: ZImageConfig, context: Array, mask: Array
) -> TokenStream:
    """Embed captions, (n, l, cap_feat_dim), whose mask is (n, l).

    The last segment of a caption is filled up with a learned token, which is read like all others;
    it has the next positions in the sequence. Segments without a token of the caption are not read.
    """
    xp = ops.xp
    wide = getattr(xp, ops.state_dtype)
    real = xp.astype(mask, wide)[:, :, None]
    segment = config.text_segment
    real = fill_segment(ops, real, xp.zeros_like(real[:, :1, :]), segment)
    last = context.shape[1] - 1
    context = fill_segment(ops, context, context[:, last:, :], segment)
    n, length, _ = real.shape
    segments = xp.reshape(real, (n, length // segment, segment))
    seen = ops.broadcast_like(xp.max(segments, axis=2, keepdims=True), segments)
    h = embed_states(ops, p.cap_embedder, context, config.norm_eps)
    h = xp.where(real != 0, h, p.cap_pad_token[None, :, :])
    indices = ops.count_from_zero(real, 1) + 1.0
    nowhere = xp.zeros_like(indices)
    positions = xp.concat([indices, nowhere, nowhere], axis=2)
    return TokenStream(h, positions, xp.reshape(seen, (n, length)))


@layer
def embed_states(ops: Backend, p: Params, x: Array, eps: float) -> Array:
    """Normalise hidden states, (n, l, d_text), and project them: (n, l, d)."""
    return linear(ops, p["1"], rms_norm(ops, p["0"], x, eps))


def embed_image(
    ops: Backend, p: Params, config: ZImageConfig, x: Array, caption: TokenStream
) -> TokenStream:
    """Embed patches of latents, (n, z, h, w), which come after the caption in the sequence.

    The last segment is filled up with a learned token, which is read like all others, at place 0.
    """
    xp = ops.xp
    grid = cut_patches(x, channels_last=True)
    patches = flatten_patches(ops, grid)
    last = patches.shape[1] - 1
    segment = config.image_segment
    patches = fill_segment(ops, patches, patches[:, last:, :], segment)
    indices = place_cells(ops, grid[0, :, :, 0])[None, :, :]
    real = xp.ones_like(indices[:, :, :1])
    real = fill_segment(ops, real, xp.zeros_like(real[:, :1, :]), segment)
    indices = fill_segment(ops, indices, indices[:, :1, :], segment)
    after = xp.sum(caption.seen, axis=1)[:, None, None] + 1.0
    positions = xp.concat([after * real, ops.broadcast_like(indices, after)], axis=2)
    h = linear(ops, p.all_x_embedder[FORM], patches)
    h = xp.where(real != 0, h, p.x_pad_token[None, :, :])
    return TokenStream(h, positions, None)


def fill_segment(ops: Backend, x: Array, row: Array, segment: int) -> Array:
    """Append `row`, (n, 1, k), to tokens (n, l, k) until l is a multiple of `segment`."""
    length = x.shape[1]
    whole = (length + segment - 1) // segment * segment
    if whole - length == 0:
        return x
    rows = [row] * (segment - 1)  # as many as may be missing
    return ops.xp.concat([x, *rows], axis=1)[:, :whole, :]


def refine(
    ops: Backend, blocks: Params, config: ZImageConfig, tokens: TokenStream, emb: Array | None
) -> TokenStream:
    """Apply blocks, modulated by the embedded time (n, d_time) if there is one.

    Tokens that are not seen begin as 0, as in the makers' batches.
    """
    x = tokens.states
    score_bias = None
    if tokens.seen is not None:
        score_bias = mask_bias(ops, tokens.seen)
        x = x * ops.xp.astype(tokens.seen, x.dtype, copy=False)[:, :, None]
    for p_block in blocks.items_in_order():
        x = block(ops, p_block, x, emb, tokens.positions, tokens.seen, score_bias, config)
    return tokens._replace(states=x)


@layer
def block(
    ops: Backend,
    p: Params,
    x: Array,
    emb: Array | None,
    positions: Array,
    seen: Array | None,
    score_bias: Array | None,
    config: ZImageConfig,
) -> Array:
    """Apply attention and the feed-forward layer, with norms before and after; x: (n, l, d).

    The time gives a scale before and a gate after each, which tanh limits.
    """
    eps = config.norm_eps
    where = positions, seen, score_bias, config
    h = rms_norm(ops, p.attention_norm1, x, eps)
    if emb is None:
        h = self_attention(ops, p.attention, h, *where)
        x = x + rms_norm(ops, p.attention_norm2, h, eps)
        h = feed_forward(ops, p.feed_forward, rms_norm(ops, p.ffn_norm1, x, eps))
        return x + rms_norm(ops, p.ffn_norm2, h, eps)
    rows = linear(ops, p.adaLN_modulation["0"], emb)[:, None, :]
    scale_attn, gate_attn, scale_mlp, gate_mlp = cut_width(rows, 4)
    h = self_attention(ops, p.attention, h * (1.0 + scale_attn), *where)
    x = x + ops.xp.tanh(gate_attn) * rms_norm(ops, p.attention_norm2, h, eps)
    h = rms_norm(ops, p.ffn_norm1, x, eps) * (1.0 + scale_mlp)
    h = feed_forward(ops, p.feed_forward, h)
    return x + ops.xp.tanh(gate_mlp) * rms_norm(ops, p.ffn_norm2, h, eps)


@layer
def self_attention(
    ops: Backend,
    p: Params,
    x: Array,
    positions: Array,
    seen: Array | None,
    score_bias: Array | None,
    config: ZImageConfig,
) -> Array:
    """Let tokens (n, l, d) read each other; queries and keys of those that are not seen are 0."""
    turn = turn_by(ops, positions, config.axes_dims, config.rope_theta)
    q, k, v = project_heads(ops, p, x, config.n_heads, QK_EPS)
    q, k = turn(q), turn(k)
    if seen is not None:
        kept = ops.xp.astype(seen, q.dtype, copy=False)[:, None, :, None]
        q, k = q * kept, k * kept
    mixed = ops.attention(q, k, v, bias=score_bias)
    return linear(ops, p.to_out["0"], merge_heads(ops, mixed))


@layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Compute W_2 (silu(W_1 x) * W_3 x); x: (n, l, d) -> the same."""
    return swiglu(ops, p.w1, p.w3, p.w2, x)


@layer
def final_layer(ops: Backend, p: Params, x: Array, emb: Array) -> Array:
    """Normalise tokens (n, l, d), scale them as the time says, and project: (n, l, 4 z)."""
    scale = linear(ops, p.adaLN_modulation["1"], ops.silu(emb))[:, None, :]
    return linear(ops, p.linear, normalize(ops, x) * (1.0 + scale))
