"""CompVis' names for what reads the prompt: CLIP, OpenCLIP, latent diffusion's own transformer, and
the table of classes.

Sources: huggingface/transformers (CLIPTextModel), mlfoundations/open_clip (transformer.py),
CompVis/latent-diffusion (ldm/modules/x_transformer.py, ldm/modules/encoders/modules.py).
"""

from __future__ import annotations

from ldmref.io.compvis.key_entry import Entry, prefixed
from ldmref.models.config import TextConfig
from ldmref.models.params import flatten
from ldmref.models.text import text_spec


def text_table(config: TextConfig) -> dict[str, Entry]:
    """The text encoder's tensors below `cond_stage_model.`"""
    if config.model_type == "class":
        return {n: Entry(n, shape) for n, shape in flatten(text_spec(config)).items()}
    if config.model_type == "ldmbert":
        return prefixed("", "transformer.", ldmbert_table(config))
    if config.hidden_act == "gelu":
        return prefixed("", "model.", open_clip_table(config))
    return prefixed("", "transformer.", clip_table(config))


_LDMBERT = {"self_attn_layer_norm": "{a}.0", "self_attn.q_proj": "{a}.1.to_q",
            "self_attn.k_proj": "{a}.1.to_k", "self_attn.v_proj": "{a}.1.to_v",
            "self_attn.out_proj": "{a}.1.to_out", "final_layer_norm": "{f}.0",
            "fc1": "{f}.1.net.0.0", "fc2": "{f}.1.net.2"}  # fmt: skip


def ldmbert_table(config: TextConfig) -> dict[str, Entry]:
    """x-transformers' encoder: attention and feed-forward of a layer are two layers there."""
    places = {"embed_tokens": "token_emb", "embed_positions": "pos_emb.emb", "layer_norm": "norm"}
    for i in range(config.num_hidden_layers):
        for ours, theirs in _LDMBERT.items():
            theirs = theirs.format(a=2 * i, f=2 * i + 1)
            places[f"layers.{i}.{ours}"] = f"attn_layers.layers.{theirs}"
    table = {}
    for name, shape in flatten(text_spec(config)).items():
        place, leaf = name.removeprefix("model.").rsplit(".", 1)
        table[name] = Entry(f"{places[place]}.{leaf}", shape)
    return table


def clip_table(config: TextConfig) -> dict[str, Entry]:
    """CLIP as transformers names it: the same names."""
    return {name: Entry(name, shape) for name, shape in flatten(text_spec(config)).items()}


_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
              "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}  # fmt: skip


def open_clip_table(config: TextConfig) -> dict[str, Entry]:
    """OpenCLIP's text tower: query, key and value stacked, the projection transposed."""
    table = {}
    for name, shape in flatten(text_spec(config)).items():
        parts = name.split(".")
        if name == "text_projection.weight":
            table[name] = Entry("text_projection", shape, form="transposed")
        elif parts[1] == "embeddings":
            bare = parts[2] == "position_embedding"
            table[name] = Entry("positional_embedding" if bare else "token_embedding.weight", shape)
        elif parts[1] == "final_layer_norm":
            table[name] = Entry(f"ln_final.{parts[2]}", shape)
        else:
            layer, inner, leaf = parts[3], ".".join(parts[4:-1]), parts[-1]
            place = f"transformer.resblocks.{layer}"
            if inner in _OPEN_CLIP:
                table[name] = Entry(f"{place}.{_OPEN_CLIP[inner]}.{leaf}", shape)
            else:
                third = ("q_proj", "k_proj", "v_proj").index(parts[5])
                table[name] = Entry(f"{place}.attn.in_proj_{leaf}", shape, third)
    return table
