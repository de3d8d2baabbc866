"""The text transformer: CLIP's, causal, pre-norm.

Radford et al. 2021, arXiv:2103.00020, section 2.4; parameter names of transformers' CLIPTextModel.
"""

from __future__ import annotations

from ldmref.backends.base import Array, Backend
from ldmref.models.config import TextConfig
from ldmref.models.layers import layer_norm, linear, linear_spec, norm_spec
from ldmref.models.params import Params, Spec


def text_spec(config: TextConfig) -> Spec:
    """The shapes of every parameter of the text transformer."""
    d = config.hidden_size
    layer = {
        "self_attn": {
            name: linear_spec(d, d) for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        },
        "layer_norm1": norm_spec(d),
        "mlp": {
            "fc1": linear_spec(d, config.intermediate_size),
            "fc2": linear_spec(config.intermediate_size, d),
        },
        "layer_norm2": norm_spec(d),
    }
    return {
        "text_model": {
            "embeddings": {
                "token_embedding": {"weight": (config.vocab_size, d)},
                "position_embedding": {"weight": (config.max_position_embeddings, d)},
            },
            "encoder": {"layers": {str(i): layer for i in range(config.num_hidden_layers)}},
            "final_layer_norm": norm_spec(d),
        }
    }


def text_encoder(ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int = 0) -> Array:
    """Hidden states after the final norm; ids: (n, l) int64 -> (n, l, hidden_size).

    `skip` leaves out the last layers (clip skip: 1 takes the penultimate layer), never the norm.
    """
    m, eps = p.text_model, config.layer_norm_eps
    act = ops.gelu if config.hidden_act == "gelu" else ops.quick_gelu
    n, length = ids.shape
    d, heads = config.hidden_size, config.num_attention_heads
    x = ops.embedding(m.embeddings.token_embedding.weight, ids)
    x = x + m.embeddings.position_embedding.weight[:length]

    def split(y: Array) -> Array:  # (n, l, d) -> (n, heads, l, d / heads)
        return ops.xp.permute_dims(ops.xp.reshape(y, (n, length, heads, d // heads)), (0, 2, 1, 3))

    layers = m.encoder.layers.items_in_order()
    for layer in layers[: len(layers) - skip]:
        a, h = layer.self_attn, layer_norm(ops, layer.layer_norm1, x, eps)
        q, k, v = (split(linear(ops, proj, h)) for proj in (a.q_proj, a.k_proj, a.v_proj))
        y = ops.xp.permute_dims(ops.attention(q, k, v, causal=True), (0, 2, 1, 3))
        x = x + linear(ops, a.out_proj, ops.xp.reshape(y, (n, length, d)))
        h = layer_norm(ops, layer.layer_norm2, x, eps)
        x = x + linear(ops, layer.mlp.fc2, act(linear(ops, layer.mlp.fc1, h)))
    return layer_norm(ops, m.final_layer_norm, x, eps)
