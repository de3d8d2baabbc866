"""Krea 2: a transformer of one stream for image and text, after twelve layers of Qwen3-VL.

| file           | holds                                                                    |
|----------------|--------------------------------------------------------------------------|
| `config.py`    | the configuration, and what must fit together                            |
| `network.py`   | the transformer: fusion of the text's states, blocks with gated attention |
| `text.py`      | the chat around a prompt                                                 |
| `files.py`     | diffusers' folders                                                       |
| `original.py`  | the makers' single files                                                 |
| `presets.py`   | the published sizes                                                      |
| `work.py`      | operations and memory                                                    |

The makers' guidance scale g is 1 + g here. They put padding in the middle of the text, which no
token reads and which has no position; so it is cut, and nothing changes. The autoencoder is
Qwen-Image's.

Krea 2026, github.com/krea-ai/krea-2.
"""

from __future__ import annotations

from functools import partial

from ldmref.families.joint_transformers import (
    MASK,
    TIME,
    describe_model,
    latents_input,
    text_input,
)
from ldmref.families.krea2.config import Krea2Config, broken_rules, transformer_of
from ldmref.families.krea2.files import PIPELINES, read_folder
from ldmref.families.krea2.network import transformer, transformer_spec
from ldmref.families.krea2.original import ORIGINALS
from ldmref.families.krea2.presets import make_presets
from ldmref.families.krea2.text import CHAT
from ldmref.families.krea2.work import count_activations, count_flops
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
from ldmref.models.steering import Steerable

MULTIPLE = 16  # to which the number of a text's tokens is rounded up
LORA_TARGETS = {
    "attention": (".to_q", ".to_k", ".to_v", ".to_gate", ".to_out.0"),
    "feed_forward": (".ff.gate", ".ff.up", ".ff.down"),
    "projections": ("img_in", "txt_in.linear_1", "txt_in.linear_2"),
}


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
