"""The text transformer of latent diffusion: a pre-norm encoder without a mask over BERT's tokens.

Rombach et al. 2022, arXiv:2112.10752, section 4.3.1; CompVis/latent-diffusion,
ldm/modules/x_transformer.py; parameter names of diffusers' LDMBertModel.
"""

from __future__ import annotations

from pathlib import Path

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.layers import layer, layer_norm, linear, self_attention
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec, norm_spec
from ldmref.models.text_config import LAYER_FIELDS, TextConfig
from ldmref.models.text_kind import TextEncoder
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.wordpiece import wordpiece_tokenizer


def ldmbert_spec(config: TextConfig) -> Spec:
    """Return the shapes of every parameter.

    num_attention_heads * head_dim may be less than hidden_size.
    """
    d = config.hidden_size
    heads = config.num_attention_heads
    inner = heads * (config.head_dim or d // heads)
    block = {
        "self_attn": {name: linear_spec(d, inner, False) for name in ("q_proj", "k_proj", "v_proj")}
        | {"out_proj": linear_spec(inner, d)},
        "self_attn_layer_norm": norm_spec(d),
        "fc1": linear_spec(d, config.intermediate_size),
        "fc2": linear_spec(config.intermediate_size, d),
        "final_layer_norm": norm_spec(d),
    }
    return {
        "model": {
            "embed_tokens": {"weight": (config.vocab_size, d)},
            "embed_positions": {"weight": (config.max_position_embeddings, d)},
            "layers": numbered([block] * config.num_hidden_layers),
            "layer_norm": norm_spec(d),
        }
    }


def ldmbert(ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int = 0) -> Array:
    """Compute hidden states after the last norm; ids: (n, l) int64 -> (n, l, hidden_size).

    Padding is not masked. `skip` is the number of final layers to leave out.
    """
    m = p.model
    x = ops.embedding(m.embed_tokens.weight, ids) + m.embed_positions.weight[: ids.shape[1]]
    layers = m.layers.items_in_order()
    for block in layers[: len(layers) - skip]:
        x = ldmbert_layer(ops, block, x, config)
    return layer_norm(ops, m.layer_norm, x, config.layer_norm_eps)


@layer
def ldmbert_layer(ops: Backend, p: Params, x: Array, config: TextConfig) -> Array:
    """Apply self-attention and an MLP, both pre-norm and residual; x: (n, l, d) -> the same."""
    h = layer_norm(ops, p.self_attn_layer_norm, x, config.layer_norm_eps)
    x = ops.add(x, self_attention(ops, p.self_attn, h, config.num_attention_heads))
    h = layer_norm(ops, p.final_layer_norm, x, config.layer_norm_eps)
    return ops.add(x, linear(ops, p.fc2, ops.gelu(linear(ops, p.fc1, h))))


def bert_tokenizer(
    config: TextConfig, source: str | Path | None, pad: int | None
) -> PromptTokenizer:
    """Return the tokenizer of BERT's vocabulary, which names its own padding."""
    return wordpiece_tokenizer(source, config.max_position_embeddings)


LDMBERT = TextEncoder(
    name="ldmbert",
    title="LDMBERT",
    spec=ldmbert_spec,
    tokenizer=bert_tokenizer,
    function=ldmbert,
    fields=(*LAYER_FIELDS, "head_dim"),
    vocabulary="bert",
    ignored=r".*\.position_ids|to_logits\..*",
    trained=False,
)
