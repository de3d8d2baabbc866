"""Qwen3 as a text encoder: hidden states of a causal language model.

Yang et al. 2025, arXiv:2505.09388, section 2: grouped queries (Ainslie et al. 2023,
arXiv:2305.13245), rotary positions (Su et al. 2021, arXiv:2104.09864), a gated feed-forward layer
(Shazeer 2020, arXiv:2002.05202), norms before both, and a norm of every query and key. No layer has
a bias. Parameter names of transformers' Qwen3Model.

The text part of Qwen3-VL (Bai et al. 2025, arXiv:2511.21631) is the same network with another
`rope_theta`: for text alone, its three positions of a token are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ldmref.backends.base import Backend
from ldmref.declare import Length, Range
from ldmref.errors import UsageError
from ldmref.families.qwen3.siblings import find_sibling
from ldmref.families.qwen3.tokens import qwen_tokenizer, small_vocabulary
from ldmref.math.arrays import Array
from ldmref.models import transformer_layers
from ldmref.models.layers import layer, linear, mask_bias, merge_heads, repeat_heads, split_heads
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, swiglu_spec
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import TextEncoder

OUT_LAYERS = "text_encoder_out_layers"  # of config.json: which hidden states a pipeline reads


@dataclass(frozen=True)
class Qwen3Config(TextConfig):
    """Qwen3: token ids (n, l) to hidden states (n, l, hidden_size) for each of `hidden_layers`.

    Args:
        num_key_value_heads: Number of heads of keys and values, which divides that of queries.
        head_dim: Width of a head. It is given: Qwen3-4B has 32 heads of 128 and a width of 2560.
        rope_theta: The base of the frequencies of the positions.
        hidden_layers: Which hidden states are returned, side by side: 0 for the tokens'
            embeddings, i for the output of the i-th layer; -1 for that of the last, -2 for the one
            before it. `clip_skip` counts from here.
        final_norm: Whether the final norm is applied to them.
        use_attention_mask: Whether no token reads padding, and the denoiser gets its mask.
        padding_position: The position of padding, where the positions of tokens count tokens only,
            as transformers 4 finds them from a mask; -1: that of the token before. None: positions
            count padding, too.
    """

    model_type: str = "qwen3"
    vocab_size: Annotated[int, Range(1, 10_000_000)] = 151936
    hidden_size: Annotated[int, Range(1, 65536)] = 2560
    intermediate_size: Annotated[int, Range(1, 65536)] = 9728
    num_hidden_layers: Annotated[int, Range(1, 256)] = 36
    num_attention_heads: Annotated[int, Range(1, 65536)] = 32
    num_key_value_heads: Annotated[int, Range(1, 65536)] = 8
    head_dim: Annotated[int, Range(0, 65536)] = 128
    max_position_embeddings: Annotated[int, Range(1, 65536)] = 512
    layer_norm_eps: Annotated[float, Range(0, 1)] = 1e-6
    rope_theta: Annotated[float, Range(1, 1e12)] = 1e6
    hidden_layers: Annotated[tuple[int, ...], Range(-256, 256), Length(1, 64)] = (-1,)
    final_norm: bool = True
    use_attention_mask: bool = True
    padding_position: Annotated[int, Range(-1, 65536)] | None = None

    @property
    def later_layers(self) -> int:
        """The number of layers after the last of `hidden_layers`."""
        return self.num_hidden_layers - max(find_layers(self))


def qwen3_spec(config: TextConfig) -> Spec:
    """Return the shapes of every parameter."""
    assert isinstance(config, Qwen3Config)
    d = config.hidden_size
    head = config.head_dim
    queries = config.num_attention_heads * head
    keys = config.num_key_value_heads * head
    mlp = swiglu_spec(d, config.intermediate_size, ("gate_proj", "up_proj", "down_proj"))
    block: Spec = {
        "self_attn": {
            "q_proj": linear_spec(d, queries, False),
            "k_proj": linear_spec(d, keys, False),
            "v_proj": linear_spec(d, keys, False),
            "o_proj": linear_spec(queries, d, False),
            "q_norm": {"weight": (head,)},
            "k_norm": {"weight": (head,)},
        },
        "mlp": mlp,
        "input_layernorm": {"weight": (d,)},
        "post_attention_layernorm": {"weight": (d,)},
    }
    return {
        "embed_tokens": {"weight": (config.vocab_size, d)},
        "layers": numbered([block] * config.num_hidden_layers),
        "norm": {"weight": (d,)},
    }


def qwen3(
    ops: Backend,
    p: Params,
    config: Qwen3Config,
    ids: Array,
    skip: int = 0,
    mask: Array | None = None,
) -> Array:
    """Compute the hidden states of `config.hidden_layers`.

    Args:
        ops: The backend.
        p: The parameters of `qwen3_spec`.
        config: The configuration.
        ids: Token ids, (n, l) int64.
        skip: Number of layers by which the chosen states come earlier.
        mask: 1 for tokens and 0 for padding, which no token reads, (n, l). None: none is padding,
            or it follows the tokens, which read only those before them.

    Returns:
        (n, l, k * hidden_size) for k layers.

    Raises:
        UsageError: There is no layer that early.
    """
    wanted = find_layers(config, skip)
    score_bias = None if mask is None else mask_bias(ops, mask)
    positions = find_positions(ops, config, ids, mask)
    x = ops.embedding(p.embed_tokens.weight, ids)
    states = [x]
    for block in p.layers.items_in_order()[: max(wanted)]:
        x = decoder_layer(ops, block, x, positions, score_bias, config)
        states.append(x)
    found = [states[number] for number in wanted]
    if config.final_norm:
        found = [transformer_layers.rms_norm(ops, p.norm, x, config.layer_norm_eps) for x in found]
    return found[0] if len(found) == 1 else ops.xp.concat(found, axis=2)


def find_positions(ops: Backend, config: Qwen3Config, ids: Array, mask: Array | None) -> Array:
    """Return the positions of tokens, (l, 1), or (n, l, 1) where they count tokens only."""
    xp = ops.xp
    if mask is None or config.padding_position is None:
        return ops.asarray(np.arange(ids.shape[1], dtype=np.float64)[:, None], ops.state_dtype)
    kept = xp.astype(mask, getattr(xp, ops.state_dtype))
    counted = xp.cumulative_sum(kept, axis=1) - 1.0
    if config.padding_position < 0:
        return xp.clip(counted, 0.0, None)[:, :, None]
    padding = xp.full_like(counted, float(config.padding_position))
    return xp.where(kept != 0, counted, padding)[:, :, None]


def find_layers(config: Qwen3Config, skip: int = 0) -> list[int]:
    """Return the numbers of the layers whose outputs are wanted, 0 for the embeddings.

    Raises:
        UsageError: There is no layer that early.
    """
    layers = config.num_hidden_layers
    found = [(i if i >= 0 else layers + 1 + i) - skip for i in config.hidden_layers]
    if min(found) < 0:
        most = min(found) + skip
        message = f"clip_skip is {skip}, and {most} layers come before the hidden states"
        raise UsageError(message, code="E-CLIP-SKIP", hint=f"take 0 to {most}")
    return found


@layer
def decoder_layer(
    ops: Backend,
    p: Params,
    x: Array,
    positions: Array,
    score_bias: Array | None,
    config: Qwen3Config,
) -> Array:
    """Apply attention and the feed-forward layer, both pre-norm and residual; x: (n, l, d)."""
    h = transformer_layers.rms_norm(ops, p.input_layernorm, x, config.layer_norm_eps)
    x = ops.add(x, grouped_attention(ops, p.self_attn, h, positions, score_bias, config))
    h = transformer_layers.rms_norm(ops, p.post_attention_layernorm, x, config.layer_norm_eps)
    return ops.add(x, gated_mlp(ops, p.mlp, h))


@layer
def grouped_attention(
    ops: Backend,
    p: Params,
    x: Array,
    positions: Array,
    score_bias: Array | None,
    config: Qwen3Config,
) -> Array:
    """Apply causal self-attention, in which several heads share their keys; x: (n, l, d)."""
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    q = split_heads(ops, linear(ops, p.q_proj, x), heads)
    k, v = (split_heads(ops, linear(ops, name, x), shared) for name in (p.k_proj, p.v_proj))
    q = transformer_layers.rms_norm(ops, p.q_norm, q, config.layer_norm_eps)
    k = transformer_layers.rms_norm(ops, p.k_norm, k, config.layer_norm_eps)
    turned = positions, (config.head_dim,), config.rope_theta
    q, k = (
        ops.call_function("rotate", transformer_layers.rotate_halves, part, *turned)
        for part in (q, k)
    )
    k, v = (repeat_heads(ops, part, heads) for part in (k, v))
    mixed = ops.attention(q, k, v, causal=True, bias=score_bias)
    return linear(ops, p.o_proj, merge_heads(ops, mixed))


@layer
def gated_mlp(ops: Backend, p: Params, x: Array) -> Array:
    """Compute W_down (silu(W_gate x) * W_up x); x: (n, l, d) -> the same."""
    return transformer_layers.swiglu(ops, p.gate_proj, p.up_proj, p.down_proj, x)


LLAMA = {  # modules of a block in llama.cpp -> in transformers
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
LLAMA_ENDS = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}


def rename_tensor(name: str) -> str:
    """Return our name of a tensor or layer of transformers, or of a tensor of llama.cpp.

    It may belong to the whole language model, or to one that also reads images.

    >>> rename_tensor("model.layers.3.mlp.up_proj.weight"), rename_tensor("blk.3.ffn_up.weight")
    ('layers.3.mlp.up_proj.weight', 'layers.3.mlp.up_proj.weight')
    """
    module, _, leaf = name.rpartition(".")
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)", module)
    if block and block[2] in LLAMA:
        return f"layers.{block[1]}.{LLAMA[block[2]]}.{leaf}"
    if module in LLAMA_ENDS:
        return f"{LLAMA_ENDS[module]}.{leaf}"
    if name in ("model", "model.language_model", "language_model"):
        return ""
    return name.removeprefix("model.").removeprefix("language_model.")


def broken_rules(config: TextConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    assert isinstance(config, Qwen3Config)
    if config.num_attention_heads % config.num_key_value_heads:
        yield "num_key_value_heads must divide num_attention_heads"
    if config.head_dim < 2 or config.head_dim % 2:
        yield "head_dim of 'qwen3' must be even and positive"
    layers = config.num_hidden_layers
    if not all(-layers - 1 <= number <= layers for number in config.hidden_layers):
        yield f"hidden_layers must be from {-layers - 1} to {layers}, the layers that there are"
    elif len(config.hidden_layers) > 1 and layers in find_layers(config) and not config.final_norm:
        yield f"hidden_layers must be below {layers}: the last state is known only after a norm"


QWEN3 = TextEncoder(
    name="qwen3",
    title="Qwen3",
    spec=qwen3_spec,
    tokenizer=qwen_tokenizer,
    function=qwen3,
    config=Qwen3Config,
    fields=(
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "layer_norm_eps",
        "rope_theta",
        "hidden_layers",
        "final_norm",
        "use_attention_mask",
        "padding_position",
    ),
    vocabulary=small_vocabulary,
    any_length=True,
    rename=rename_tensor,
    ignored=r"lm_head\.weight|(model\.)?visual\..*|.*\.rotary_emb\.inv_freq",
    table="layers.0.self_attn.q_norm.weight",
    comfyui=("qwen3_4b", "qwen3_8b", "qwen3vl_4b", "qwen3vl_8b"),
    broken_rules=broken_rules,
    contradicts=find_sibling,
)
"""The kind of text encoder."""
