"""Krea 2: a transformer of one stream for image and text, after twelve layers of Qwen3-VL.

| file           | holds                                                                    |
|----------------|--------------------------------------------------------------------------|
| `config.py`    | the configuration, and what must fit together                            |
| `network.py`   | the transformer: fusion of the text's states, blocks with gated attention |
| `text.py`      | the chat around a prompt                                                 |
| `files.py`     | diffusers' folders, and the makers' single files                         |
| `presets.py`   | the published sizes                                                      |

The makers' guidance scale g is 1 + g here. They put padding in the middle of the text, which no
token reads and which has no position; so it is cut, and nothing changes. The autoencoder is
Qwen-Image's.

Krea 2026, github.com/krea-ai/krea-2.
"""

from __future__ import annotations

from functools import partial

from ldmref.families import joint_transformers
from ldmref.families.joint_transformers import (
    MASK,
    TIME,
    describe_model,
    latents_input,
    text_input,
)
from ldmref.families.krea2.config import Krea2Config, broken_rules, transformer_of
from ldmref.families.krea2.files import ORIGINALS, PIPELINES, read_folder
from ldmref.families.krea2.network import transformer, transformer_spec
from ldmref.families.krea2.presets import make_presets
from ldmref.families.krea2.text import CHAT
from ldmref.families.qwen3.prompts import read_chat, with_length
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork, TextAttention
from ldmref.models.family import (
    Family,
    GuidanceScale,
    LoraRules,
    Work,
    guide_by_difference,
)
from ldmref.models.flops import count_products, find_rows
from ldmref.models.steering import Steerable

MULTIPLE = 16  # to which the number of a text's tokens is rounded up
LORA_TARGETS = {
    "attention": (".to_q", ".to_k", ".to_v", ".to_gate", ".to_out.0"),
    "feed_forward": (".ff.gate", ".ff.up", ".ff.down"),
    "projections": ("img_in", "txt_in.linear_1", "txt_in.linear_2"),
}

count_tokens = partial(joint_transformers.count_tokens, dropped=CHAT.dropped)
"""Return the numbers of tokens of an image, and of the longest text."""


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoder, transformer and autoencoder."""
    denoiser = transformer_of(config)
    latents = latents_input(denoiser.in_channels)
    inputs = (latents, TIME, text_input(denoiser.context_dim), MASK)
    attended = tuple(f"transformer_blocks.{i}.attn" for i in range(denoiser.num_layers))
    return describe_model(
        config,
        transformer,
        transformer_spec,
        inputs,
        TextAttention(attended, ("text", "image")),
        steerable=Steerable("transformer_blocks"),
    )


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    k, both = network.num_text_layers, image + text
    of_text = network.num_layerwise_text_blocks * text * k**2
    of_text += network.num_refiner_text_blocks * text**2
    pairs = network.num_layers * both**2
    attention = 4 * (network.text_hidden_dim * of_text + network.width * pairs)
    rows = {
        "img_in": image,
        "time_embed": 1,
        "time_mod_proj": 1,
        "text_fusion.layerwise_blocks": text * k,
        "text_fusion.projector": text * network.text_hidden_dim,
        "text_fusion.refiner_blocks": text,
        "txt_in": text,
        "transformer_blocks": both,
        "final_layer": image,
    }
    count_rows = find_rows(rows, {"scale_shift_table": 0})
    return attention + count_products(transformer_spec(network), count_rows)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block holds at once: tokens, their norm, and three of the MLP.

    Or those of the fusion, whose tokens have a row for each hidden state.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    rows = network.num_text_layers * text
    fusion = rows * (2 * network.text_hidden_dim + 3 * network.text_intermediate_size)
    return max((image + text) * (2 * network.width + 3 * network.intermediate_size), fusion)


KREA2 = Family(
    "krea2",
    Krea2Config,
    describe_networks,
    Work(count_flops, count_activations),
    "Krea 2: a transformer of one stream for image and text, after twelve layers of Qwen3-VL",
    broken_rules,
    text=read_chat(CHAT, with_length=partial(with_length, dropped=CHAT.dropped), multiple=MULTIPLE),
    presets=make_presets(),
    files=ORIGINALS,
    folders=dict.fromkeys(PIPELINES, read_folder),
    guidance_scale=GuidanceScale(guide_by_difference),
    lora=LoraRules(LORA_TARGETS),
)
"""The family of Krea 2."""
