"""CLIP's text transformer, causal and pre-norm.

Radford et al. 2021, arXiv:2103.00020, section 2.4; parameter names of transformers' CLIPTextModel.
"""

from __future__ import annotations

from pathlib import Path

from array_api_compat import device

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.layers import layer, layer_norm, linear, self_attention
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, norm_spec
from ldmref.models.text_config import LAYER_FIELDS, TextConfig
from ldmref.models.text_kind import TextEncoder, kind_of
from ldmref.prompts.clip_vocabulary import load_tokenizer
from ldmref.prompts.tokenizer import PromptTokenizer


def clip_spec(config: TextConfig) -> Spec:
    """Return the shapes of every parameter; a configuration with a projection has one more."""
    d = config.hidden_size
    d_mlp = config.intermediate_size
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    block: Spec = {
        "self_attn": {name: linear_spec(d, d) for name in projections},
        "layer_norm1": norm_spec(d),
        "mlp": {"fc1": linear_spec(d, d_mlp), "fc2": linear_spec(d_mlp, d)},
        "layer_norm2": norm_spec(d),
    }
    spec: Spec = {}
    if config.projection_dim:
        spec["text_projection"] = linear_spec(d, config.projection_dim, bias=False)
    spec["text_model"] = {
        "embeddings": {
            "token_embedding": {"weight": (config.vocab_size, d)},
            "position_embedding": {"weight": (config.max_position_embeddings, d)},
        },
        "encoder": {"layers": numbered([block] * config.num_hidden_layers)},
        "final_layer_norm": norm_spec(d),
    }
    return spec


def clip(ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int = 0) -> Array:
    """Compute hidden states; ids: (n, l) int64 -> (n, l, hidden_size).

    `skip` is the number of final layers to leave out. The final norm is applied if `final_norm` is
    set.
    """
    return _hidden_and_last(ops, p, config, ids, skip, pool=False)[0]


def clip_pooled(
    ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int = 0
) -> tuple[Array, Array]:
    """Compute the hidden states of `clip`, and the projected state of the end token.

    ids: (n, l) int64 -> (n, l, hidden_size), (n, projection_dim). The pooled output is computed
    after all layers and the final norm. The end token is the first token with `eos_token_id`, or
    the token with the largest id if `eos_token_id` is 2 (in configurations from before 2024).
    """
    hidden, last = _hidden_and_last(ops, p, config, ids, skip, pool=True)
    return hidden, linear(ops, p.text_projection, pool_end_token(ops, config, ids, last))


def pool_end_token(ops: Backend, config: TextConfig, ids: Array, states: Array) -> Array:
    """Return the states of the end tokens; ids: (n, l), states: (n, l, d) -> (n, d)."""
    xp = ops.xp
    is_end = ids == config.eos_token_id if config.eos_token_id != 2 else ids
    end = xp.argmax(xp.astype(is_end, ids.dtype), axis=1)
    positions = xp.arange(ids.shape[1], dtype=end.dtype, device=device(ids))
    one_hot = xp.astype(end[:, None] == positions[None, :], states.dtype)
    return xp.sum(one_hot[:, :, None] * states, axis=1)


@layer
def embed_tokens(ops: Backend, p: Params, ids: Array) -> Array:
    """Add the embeddings of tokens and positions; ids: (n, l) -> (n, l, d)."""
    x = ops.embedding(p.token_embedding.weight, ids)
    return x + p.position_embedding.weight[: ids.shape[1], :]


@layer
def encoder_layer(ops: Backend, p: Params, x: Array, config: TextConfig) -> Array:
    """Apply causal self-attention and an MLP, both pre-norm and residual; x: (n, l, d) -> same."""
    h = layer_norm(ops, p.layer_norm1, x, config.layer_norm_eps)
    x = ops.add(x, self_attention(ops, p.self_attn, h, config.num_attention_heads, causal=True))
    h = layer_norm(ops, p.layer_norm2, x, config.layer_norm_eps)
    return ops.add(x, clip_mlp(ops, p.mlp, h, config.hidden_act))


@layer
def clip_mlp(ops: Backend, p: Params, x: Array, activation: str) -> Array:
    """Apply fc1, the activation ("gelu" or "quick_gelu") and fc2; x: (n, l, d) -> the same."""
    h = linear(ops, p.fc1, x)
    return linear(ops, p.fc2, ops.gelu(h) if activation == "gelu" else ops.quick_gelu(h))


def _hidden_and_last(
    ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int, pool: bool
) -> tuple[Array, Array]:
    """Compute the U-Net's context and, with `pool`, the states after all layers and the norm."""
    m = p.text_model
    eps = config.layer_norm_eps
    x = embed_tokens(ops, m.embeddings, ids)
    layers = m.encoder.layers.items_in_order()
    used = len(layers) - skip
    hidden = None
    for i, p_layer in enumerate(layers if pool else layers[:used]):
        if i == used:
            hidden = x
        x = encoder_layer(ops, p_layer, x, config)
    hidden = x if hidden is None else hidden
    if config.final_norm:
        hidden = layer_norm(ops, m.final_layer_norm, hidden, eps)
    return hidden, layer_norm(ops, m.final_layer_norm, x, eps) if pool else x


def clip_tokenizer_of(
    config: TextConfig, source: str | Path | None, pad: int | None
) -> PromptTokenizer:
    """Return the tokenizer of CLIP's vocabulary."""
    return load_tokenizer(source, config.max_position_embeddings, pad=pad)


def rename_tensor(name: str) -> str:
    """Return our name of a tensor or layer of transformers, whose version 5 omits `text_model.`

    >>> rename_tensor("encoder.layers.0.mlp.fc1")
    'text_model.encoder.layers.0.mlp.fc1'
    """
    known = not name or name.partition(".")[0] in ("text_model", "text_projection")
    return name if known else f"text_model.{name}"


def is_openclip(config: TextConfig) -> bool:
    """Return whether a text encoder is OpenCLIP's: CLIP's network with the exact GELU.

    Its own files have other names, and pad with 0.
    """
    return kind_of(config) is CLIP and config.hidden_act == "gelu"


CLIP = TextEncoder(
    name="clip",
    title="CLIP",
    spec=clip_spec,
    tokenizer=clip_tokenizer_of,
    function=clip,
    pooled=clip_pooled,
    fields=(*LAYER_FIELDS, "hidden_act", "projection_dim", "eos_token_id", "final_norm"),
    comes_with=("clip", "t5"),
    learns_words=True,
    vocabulary="clip",
    activations=("gelu", "quick_gelu"),
    rename=rename_tensor,
    padding=lambda config: 0 if is_openclip(config) else None,
)
