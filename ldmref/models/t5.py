"""T5's text encoder: relative positions, norms without a mean, and a gated feed-forward layer.

Raffel et al. 2020, arXiv:1910.10683, section 2.1; the gate is that of T5 1.1 (Shazeer 2020,
arXiv:2002.05202). Parameter names of transformers' T5EncoderModel. No layer has a bias.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.layers import layer, linear, mask_bias, merge_heads, split_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec
from ldmref.models.text_config import LAYER_FIELDS, TextConfig
from ldmref.models.text_kind import TextEncoder
from ldmref.models.transformer_layers import gelu_tanh, rms_norm
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.unigram import unigram_tokenizer


def t5_spec(config: TextConfig) -> Spec:
    """Return the shapes of every parameter; the first block holds the biases of all of them."""
    d = config.hidden_size
    d_mlp = config.intermediate_size
    heads = config.num_attention_heads
    inner = heads * (config.head_dim or d // heads)
    norm: Spec = {"weight": (d,)}

    def block(number: int) -> Spec:
        attention: Spec = {name: linear_spec(d, inner, False) for name in ("q", "k", "v")}
        attention["o"] = linear_spec(inner, d, False)
        if number == 0:
            buckets = config.relative_attention_num_buckets
            attention["relative_attention_bias"] = {"weight": (buckets, heads)}
        feed_forward: Spec = {name: linear_spec(d, d_mlp, False) for name in ("wi_0", "wi_1")}
        feed_forward["wo"] = linear_spec(d_mlp, d, False)
        layers: list[Spec] = [
            {"SelfAttention": attention, "layer_norm": norm},
            {"DenseReluDense": feed_forward, "layer_norm": norm},
        ]
        return {"layer": numbered(layers)}

    blocks = numbered(block(i) for i in range(config.num_hidden_layers))
    return {
        "shared": {"weight": (config.vocab_size, d)},
        "encoder": {"block": blocks, "final_layer_norm": norm},
    }


def t5(
    ops: Backend,
    p: Params,
    config: TextConfig,
    ids: Array,
    skip: int = 0,
    mask: Array | None = None,
) -> Array:
    """Compute hidden states after the last norm; ids: (n, l) int64 -> (n, l, hidden_size).

    `skip` is the number of final layers to leave out. `mask`, (n, l), is 1 for tokens that others
    attend to and 0 for padding. None: padding is attended to, as in Stable Diffusion 3 and Flux.
    """
    x = ops.embedding(p.shared.weight, ids)
    blocks = p.encoder.block.items_in_order()
    table = blocks[0].layer["0"].SelfAttention.relative_attention_bias.weight
    bias = position_bias(ops, table, ids.shape[1], config.relative_attention_max_distance)
    if mask is not None:
        bias = mask_bias(ops, mask, bias)
    for block in blocks[: len(blocks) - skip]:
        x = t5_block(ops, block, x, bias, config)
    return rms_norm(ops, p.encoder.final_layer_norm, x, config.layer_norm_eps)


@layer
def t5_block(ops: Backend, p: Params, x: Array, bias: Array, config: TextConfig) -> Array:
    """Apply self-attention and the feed-forward layer, both pre-norm and residual; x: (n, l, d)."""
    attend, feed = p.layer.items_in_order()
    x = add_attention(ops, attend, x, bias, config.num_attention_heads, config.layer_norm_eps)
    return add_mlp(ops, feed, x, config.layer_norm_eps)


@layer
def add_attention(
    ops: Backend, p: Params, x: Array, bias: Array, num_heads: int, eps: float
) -> Array:
    """Add self-attention of the normalised tokens; x: (n, l, d) -> the same."""
    h = rms_norm(ops, p.layer_norm, x, eps)
    return ops.add(x, biased_attention(ops, p.SelfAttention, h, bias, num_heads))


@layer
def add_mlp(ops: Backend, p: Params, x: Array, eps: float) -> Array:
    """Add the feed-forward layer of the normalised tokens; x: (n, l, d) -> the same."""
    return ops.add(x, gated_mlp(ops, p.DenseReluDense, rms_norm(ops, p.layer_norm, x, eps)))


@layer
def biased_attention(ops: Backend, p: Params, x: Array, bias: Array, num_heads: int) -> Array:
    """Apply self-attention with a bias of positions, (1 or n, heads, l, l); x: (n, l, d) -> same.

    The scores are not divided by the square root of the head's width: T5's initial weights make up
    for it. They are therefore large, and the bias is in `ops.state_dtype`.
    """
    q, k, v = (split_heads(ops, linear(ops, proj, x), num_heads) for proj in (p.q, p.k, p.v))
    mixed = ops.attention(q, k, v, bias=bias, scale=1.0)
    return linear(ops, p.o, merge_heads(ops, mixed))


@layer
def gated_mlp(ops: Backend, p: Params, x: Array) -> Array:
    """Compute W_o (gelu(W_0 x) * W_1 x) with the tanh form of GELU; x: (n, l, d) -> the same."""
    return linear(ops, p.wo, gelu_tanh(ops, linear(ops, p.wi_0, x), "act") * linear(ops, p.wi_1, x))


def position_bias(ops: Backend, table: Array, length: int, max_distance: int) -> Array:
    """Return the bias of the scores of `length` tokens, (1, heads, l, l), in `ops.state_dtype`.

    `table`, (buckets, heads), has a row for each bucket of distances.
    """
    xp = ops.xp
    positions = np.arange(length)
    buckets = find_buckets(positions[None, :] - positions[:, None], table.shape[0], max_distance)
    bias = xp.permute_dims(ops.embedding(table, ops.asarray(buckets)), (2, 0, 1))
    flat = xp.reshape(bias, (-1,))  # a copy: each layer then reads the bias of a head at once
    bias = xp.reshape(flat, (1, table.shape[1], length, length))
    return xp.astype(bias, getattr(xp, ops.state_dtype), copy=False)


def find_buckets(distances: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Return the bucket of each distance between a key and its query.

    Half of the buckets are for keys after the query. Of each half, the first half holds one
    distance each; the others grow with its logarithm up to `max_distance`, and the last one also
    holds all that are farther. Logarithms are rounded to float32, as in the original.

    >>> find_buckets(np.array([-128, -8, -1, 0, 1, 7, 8, 127]), 32, 128).tolist()
    [15, 8, 1, 0, 17, 23, 24, 31]
    """
    half = buckets // 2
    exact = half // 2
    far = np.abs(distances)
    ratio = np.log(np.maximum(far, exact).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    wide = np.minimum(exact + steps.astype(np.int64), half - 1)
    return np.where(far < exact, far, wide) + half * (distances > 0)


def t5_tokenizer(config: TextConfig, source: str | Path | None, pad: int | None) -> PromptTokenizer:
    """Return the tokenizer of T5's vocabulary, which names its own padding."""
    return unigram_tokenizer(source, config.max_position_embeddings)


T5 = TextEncoder(
    name="t5",
    title="T5",
    spec=t5_spec,
    tokenizer=t5_tokenizer,
    function=t5,
    fields=(
        *LAYER_FIELDS,
        "head_dim",
        "hidden_act",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "use_attention_mask",
    ),
    comes_with=("clip", "t5"),
    vocabulary="t5",
    any_length=True,
    rename=lambda name: name.replace("encoder.embed_tokens.", "shared."),  # it has two names
    activations=("gelu_new",),
    lora_prefixes=("lora_te3_",),
    comfyui=("t5xxl", "t5"),
)
