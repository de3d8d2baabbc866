"""CompVis' names for the text encoders: CLIP, OpenCLIP, latent diffusion's own transformer, and
the table of classes.

Sources: huggingface/transformers (CLIPTextModel), mlfoundations/open_clip (transformer.py),
CompVis/latent-diffusion (ldm/modules/x_transformer.py, ldm/modules/encoders/modules.py).
"""

from __future__ import annotations

from dataclasses import replace

from ldmref.io.key_table import KeyEntry, key_table, prefixed
from ldmref.models.config import TextConfig
from ldmref.models.params import flatten
from ldmref.models.text import text_spec

LDMBERT_MODULES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
OPEN_CLIP_MODULES = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "self_attn.q_proj.weight": "attn.in_proj_weight", "self_attn.q_proj.bias": "attn.in_proj_bias",
    "self_attn.k_proj.weight": "attn.in_proj_weight", "self_attn.k_proj.bias": "attn.in_proj_bias",
    "self_attn.v_proj.weight": "attn.in_proj_weight", "self_attn.v_proj.bias": "attn.in_proj_bias",
    "position_embedding.weight": "positional_embedding",
}  # fmt: skip
OPEN_CLIP_THIRDS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}


def text_table(config: TextConfig) -> dict[str, KeyEntry]:
    """The tensors below `cond_stage_model.`"""
    if config.model_type == "class":
        return key_table(flatten(text_spec(config)), {"": ""})
    if config.model_type == "ldmbert":
        return prefixed("", "transformer.", ldmbert_table(config))
    if config.hidden_act == "gelu":
        return prefixed("", "model.", open_clip_table(config))
    return prefixed("", "transformer.", clip_table(config))


def ldmbert_table(config: TextConfig) -> dict[str, KeyEntry]:
    """x-transformers' encoder, which counts attention and feed-forward as two layers."""
    blocks = {"model.embed_tokens": "token_emb", "model.embed_positions": "pos_emb.emb",
              "model.layer_norm": "norm"}  # fmt: skip
    for i in range(config.num_hidden_layers):
        ours, attention = f"model.layers.{i}", f"attn_layers.layers.{2 * i}"
        feed_forward = f"attn_layers.layers.{2 * i + 1}"
        blocks |= {
            f"{ours}.self_attn_layer_norm": f"{attention}.0",
            f"{ours}.self_attn": f"{attention}.1",
            f"{ours}.final_layer_norm": f"{feed_forward}.0",
            f"{ours}.fc1": f"{feed_forward}.1.net.0.0",
            f"{ours}.fc2": f"{feed_forward}.1.net.2",
        }
    return key_table(flatten(text_spec(config)), blocks, LDMBERT_MODULES)


def clip_table(config: TextConfig) -> dict[str, KeyEntry]:
    """CLIP under the names of transformers, which are ours."""
    return key_table(flatten(text_spec(config)), {"": ""})


def open_clip_table(config: TextConfig) -> dict[str, KeyEntry]:
    """OpenCLIP's text tower: query, key and value stacked, the projection transposed."""
    blocks = {"text_model.embeddings": "", "text_model.final_layer_norm": "ln_final",
              "text_projection.weight": "text_projection"}  # fmt: skip
    for i in range(config.num_hidden_layers):
        blocks[f"text_model.encoder.layers.{i}"] = f"transformer.resblocks.{i}"
    table = key_table(flatten(text_spec(config)), blocks, OPEN_CLIP_MODULES)
    for name, entry in table.items():
        third = OPEN_CLIP_THIRDS.get(name.split(".")[-2])
        form = "transposed" if name == "text_projection.weight" else ""
        table[name] = replace(entry, third=third, form=form)
    return table
