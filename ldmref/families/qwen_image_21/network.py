"""The transformer of Qwen-Image 2.1: text, then image, in one causal sequence.

Text reads the text before it, and the image all text and itself. Text is modulated as at time 0, so
nothing of it depends on the step, and its keys and values may be kept over a run. There are no
biases, and one modulation for all blocks: scales and gates, without shifts (adaLN-Zero of Peebles
and Xie 2023, arXiv:2212.09748, without its shift). Rotary positions on three axes are those of Su
et al. 2021, arXiv:2104.09864. Parameter names are those of diffusers'
QwenImage21Transformer2DModel, which is the makers' code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from ldmref.backends.base import Backend
from ldmref.families.joint_transformers import FREQUENCIES, as_floating, find_sines
from ldmref.families.qwen_image_21.config import QwenImage21Config
from ldmref.math.arrays import Array
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.layers import layer, linear, mask_bias, merge_heads, mlp
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, mlp_spec, normalized_attention_spec
from ldmref.models.transformer_layers import (
    cut_width,
    find_waves,
    gelu_tanh,
    join_cells,
    place_cells,
    project_heads,
    rms_norm,
    split_cells,
    standardize,
    swiglu,
    turn_pairs,
)

THETA = 10000.0  # the base of the frequencies of the positions
HALF_RANGE = 65504.0  # the largest number of float16, to which blocks clip there
KeysAndValues: TypeAlias = tuple[Array, Array]
"""Keys and values of the text in a block, (n, heads, l, d / heads) each."""


class TokenSequence(NamedTuple):
    """The positions of the tokens of text and image, and the mask of the text.

    Attributes:
        text_waves: Cosines and sines of the positions of the text, (1, 1, l, d / heads). None: the
            keys and values of the text are given.
        waves: Those of the image, (n, 1, cells, d / heads).
        hidden: The bias that hides padding of the text from the image, (n, 1, 1, l + cells). None:
            there is no padding.
    """

    text_waves: Array | None
    waves: Array
    hidden: Array | None


class TokenRows(NamedTuple):
    """Factors of tokens: (n, 1, d) for the image, and (1, 1, d) for the text, as at time 0."""

    image: Array
    text: Array


def transformer_spec(config: QwenImage21Config) -> Spec:
    """Return the shapes of every parameter of the transformer."""
    d = config.width
    hidden = config.mlp_ratio * d
    block: Spec = {
        "attn": normalized_attention_spec(d, config.attention_head_dim),
        "img_mlp": {
            "proj": linear_spec(d, hidden, False),
            "out": linear_spec(hidden, d, False),
            "gate_layer": linear_spec(d, hidden, False),
        },
    }
    text = config.context_in_dim
    return {
        "time_text_embed": {"timestep_embedder": mlp_spec(FREQUENCIES, d, bias=False)},
        "txt_in": {
            "text_norm": {"weight": (text,)},
            "in_layer": linear_spec(text, d, False),
            "out_layer": linear_spec(d, d, False),
        },
        "img_in": linear_spec(config.in_channels, d, False),
        "modulation": {"1": linear_spec(d, 4 * d, False)},
        "transformer_blocks": numbered([block] * config.num_layers),
        "norm_out": {"linear": linear_spec(d, d, False)},
        "proj_out": linear_spec(d, config.out_channels, False),
    }


def transformer(
    ops: Backend,
    p: Params,
    config: QwenImage21Config,
    x: Array,
    t: Array,
    context: Array | CachedContext,
    mask: Array | None = None,
    image_start: Array | None = None,
) -> Array:
    """Predict the velocity eps - x0 of latents x_t = (1 - t) x0 + t eps.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w).
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text, (n, l, context_in_dim). Keys and values of all blocks
            are kept with those that may be cached.
        mask: 1 for tokens of the text, which come first, and 0 for padding, (n, l). None: all are
            tokens.
        image_start: The place of the images on the first axis, (n,). None: behind the tokens of
            the text.

    Returns:
        (n, z, h, w).
    """
    xp = ops.xp
    emb = embed_time(ops, p.time_text_embed, add_clean_time(ops, t))
    rows = linear(ops, p.modulation["1"], ops.silu(emb))
    kept: list[KeysAndValues] | None = None
    states = get_hidden_states(context)
    if isinstance(context, CachedContext):
        kept = context.keys_and_values(p, partial(read_text, ops, p, config, rows))
    tokens = linear(ops, p.img_in, split_cells(x))
    sequence = find_sequence(ops, config, x, states, mask, kept is not None, image_start)
    length = 0
    if kept is None:
        tokens = xp.concat([embed_text(ops, p.txt_in, states, config.eps), tokens], axis=1)
        length = states.shape[1]
    for number, p_block in enumerate(p.transformer_blocks.items_in_order()):
        before = None if kept is None else kept[number]
        tokens = block(ops, p_block, tokens, rows, *sequence, before, config)
    tokens = final_norm(ops, p.norm_out, tokens[:, length:, :], emb, config.eps)
    return join_cells(linear(ops, p.proj_out, tokens), *x.shape[2:])


def add_clean_time(ops: Backend, t: Array) -> Array:
    """Return times, (n,), and time 0, as which text is modulated, after them: (n + 1,) floating."""
    t = as_floating(ops, t)
    return ops.xp.concat([t, ops.xp.zeros_like(t[:1])], axis=0)


@layer
def embed_time(ops: Backend, p: Params, t: Array) -> Array:
    """Embed times, (n,): (n, d)."""
    waves = find_sines(ops, t, FREQUENCIES)
    return mlp(ops, p.timestep_embedder, ops.cast(waves, ops.dtype))


@layer
def embed_text(ops: Backend, p: Params, x: Array, eps: float) -> Array:
    """Normalise hidden states, (n, l, d_text), and project them with an MLP: (n, l, d)."""
    h = rms_norm(ops, p.text_norm, x, eps, base=1.0)
    return linear(ops, p.out_layer, gelu_tanh(ops, linear(ops, p.in_layer, h), "act"))


def find_sequence(
    ops: Backend,
    config: QwenImage21Config,
    x: Array,
    states: Array,
    mask: Array | None,
    image_alone: bool,
    image_start: Array | None = None,
) -> TokenSequence:
    """Return the waves of text (n, l, d_text) and image (n, z, h, w), and what is hidden.

    The image is one step behind the last token of the text on the first axis, with its rows and
    columns counted from its middle on the others. Padding moves nothing, but `image_start`, (n,),
    may be another place on the first axis.
    """
    xp = ops.xp
    wide = getattr(xp, ops.state_dtype)
    line = xp.ones_like(xp.astype(states[:1, :, 0], wide, copy=False))
    kept = line if mask is None else xp.astype(mask, wide, copy=False)
    start = xp.sum(kept, axis=1) if image_start is None else image_start
    frame = xp.astype(start, wide, copy=False)[:, None, None]
    cells = find_cells(ops, x)
    frames, cells = ops.broadcast_like(frame, cells[:, :, :1]), ops.broadcast_like(cells, frame)
    positions = xp.concat([frames, cells], axis=2)
    waves = join_waves(ops, config, positions)
    hidden = None
    if mask is not None:
        seen = xp.ones_like(positions[:, :, 0])
        hidden = mask_bias(ops, xp.concat([kept, seen], axis=1))
    return TokenSequence(
        None if image_alone else find_text_waves(ops, config, states), waves, hidden
    )


def find_text_waves(ops: Backend, config: QwenImage21Config, states: Array) -> Array:
    """Return the waves of text (n, l, d_text), whose tokens are counted on all three axes."""
    counted = ops.count_from_zero(states[:1, :, :1], axis=1)
    return join_waves(ops, config, ops.xp.concat([counted] * 3, axis=2))


def join_waves(ops: Backend, config: QwenImage21Config, positions: Array) -> Array:
    """Return the cosines, then the sines, of tokens at positions (n, l, 3): (n, 1, l, 2 k)."""
    waves = find_waves(positions, config.axes_dims_rope, THETA)
    return ops.xp.concat([*waves], axis=3)


def find_cells(ops: Backend, x: Array) -> Array:
    """Return row and column of cells of (n, z, h, w), whose middle is 0: (1, h * w, 2)."""
    cells = place_cells(ops, x[0, 0, :, :])
    half = 0.5 * (cells[-1:, :] + 1.0)  # sides are even
    return (cells - half)[None, :, :]


def split_rows(rows: Array) -> TokenRows:
    """Return the rows of the images and that of the text of (n + 1, d), whose last is of time 0."""
    return TokenRows(rows[:-1, None, :], rows[-1:, None, :])


def multiply(ops: Backend, x: Array, rows: TokenRows, length: int) -> Array:
    """Multiply tokens (n, l, d), of which `length` are text, by the rows of text and image."""
    if isinstance(length, int) and length == 0:
        return x * rows.image
    return ops.xp.concat([x[:, :length, :] * rows.text, x[:, length:, :] * rows.image], axis=1)


@layer
def block(
    ops: Backend,
    p: Params,
    x: Array,
    rows: Array,
    text_waves: Array | None,
    waves: Array,
    hidden: Array | None,
    before: KeysAndValues | None,
    config: QwenImage21Config,
) -> Array:
    """Apply attention and the feed-forward layer, each with a scale before and a gate after.

    `x` is text and image, (n, l, d), or with keys and values of the text, `before`, the image.
    `rows`, (n + 1, 4 d), are the scales and gates, and the others as in `TokenSequence`.
    """
    length = 0 if text_waves is None else text_waves.shape[2]

    def attend(h: Array) -> Array:
        return self_attention(ops, p.attn, h, text_waves, waves, hidden, before, config)

    return add_layers(ops, p, x, rows, length, attend, config.eps)


def add_layers(
    ops: Backend,
    p: Params,
    x: Array,
    rows: Array,
    length: int,
    attend: Callable[[Array], Array],
    eps: float,
) -> Array:
    """Add attention and the feed-forward layer to tokens (n, l, d), of which `length` are text."""
    scale, gate, mlp_scale, mlp_gate = (split_rows(part) for part in cut_width(rows, 4))
    h = multiply(ops, standardize(ops, x, "img_norm1", eps), plus_one(scale), length)
    x = x + multiply(ops, attend(h), bound(ops, gate), length)
    h = multiply(ops, standardize(ops, x, "img_norm2", eps), plus_one(mlp_scale), length)
    x = x + multiply(ops, feed_forward(ops, p.img_mlp, h), bound(ops, mlp_gate), length)
    return ops.xp.clip(x, -HALF_RANGE, HALF_RANGE) if ops.dtype == "float16" else x


def plus_one(rows: TokenRows) -> TokenRows:
    """Return 1 + rows."""
    return TokenRows(*(1.0 + part for part in rows))


def bound(ops: Backend, rows: TokenRows) -> TokenRows:
    """Return tanh of rows."""
    return TokenRows(*(ops.xp.tanh(part) for part in rows))


@layer
def self_attention(
    ops: Backend,
    p: Params,
    x: Array,
    text_waves: Array | None,
    waves: Array,
    hidden: Array | None,
    before: KeysAndValues | None,
    config: QwenImage21Config,
) -> Array:
    """Let the text read the text before it, and the image the text and itself; x: (n, l, d)."""
    xp = ops.xp
    if before is not None:
        q, *own = project(ops, p, x, waves, config)
        k, v = (xp.concat(pair, axis=2) for pair in zip(before, own, strict=True))
        mixed = ops.attention(q, k, v, bias=hidden)
        return linear(ops, p.to_out["0"], merge_heads(ops, mixed))
    assert text_waves is not None
    length = text_waves.shape[2]
    joined = xp.concat([ops.broadcast_like(text_waves, waves[:, :, :1, :]), waves], axis=2)
    q, k, v = project(ops, p, x, joined, config)
    text = ops.attention(*(part[:, :, :length, :] for part in (q, k, v)), causal=True)
    image = ops.attention(q[:, :, length:, :], k, v, bias=hidden)
    mixed = xp.concat([text, image], axis=2)
    return linear(ops, p.to_out["0"], merge_heads(ops, mixed))


def project(
    ops: Backend, p: Params, x: Array, waves: Array, config: QwenImage21Config
) -> tuple[Array, Array, Array]:
    """Return queries and keys, normalised and turned, and values of tokens (n, l, d)."""
    q, k, v = project_heads(ops, p, x, config.num_attention_heads, config.eps)
    cos, sin = cut_width(waves, 2)
    q, k = (ops.call_function("rotate", turn_pairs, part, cos, sin) for part in (q, k))
    return q, k, v


@layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Compute W_out (silu(W_gate x) * W_proj x); x: (n, l, d) -> the same."""
    return swiglu(ops, p.gate_layer, p.proj, p.out, x)


@layer
def final_norm(ops: Backend, p: Params, x: Array, emb: Array, eps: float) -> Array:
    """Normalise tokens of images, (n, l, d), and scale them by their times, `emb` (n + 1, d)."""
    scale = linear(ops, p.linear, ops.silu(emb))
    return standardize(ops, x, "norm", eps) * (1.0 + scale[:-1, None, :])


def read_text(
    ops: Backend, p: Params, config: QwenImage21Config, rows: Array, states: Array
) -> list[KeysAndValues]:
    """Return the keys and values of the text, (n, l, d_text), in every block.

    They are the same in every step: the text is modulated by the last of `rows`, that of time 0,
    and reads nothing but text.
    """
    waves = find_text_waves(ops, config, states)
    x = embed_text(ops, p.txt_in, states, config.eps)
    kept: list[KeysAndValues] = []

    def attend(p_attn: Params, h: Array) -> Array:
        q, k, v = project(ops, p_attn, h, waves, config)
        kept.append((k, v))
        return linear(
            ops, p_attn.to_out["0"], merge_heads(ops, ops.attention(q, k, v, causal=True))
        )

    for p_block in p.transformer_blocks.items_in_order():
        reads = partial(attend, p_block.attn)
        x = add_layers(ops, p_block, x, rows, states.shape[1], reads, config.eps)
    return kept
