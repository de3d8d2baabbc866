"""Qwen-Image 2.1: a transformer of one causal sequence of text and image, after Qwen3-VL.

| file                     | holds                                                     |
|--------------------------|-----------------------------------------------------------|
| `config.py`              | the configuration, and what must fit together             |
| `network.py`             | the transformer, with a cache of keys and values of text  |
| `text.py`                | the chat around a prompt, of which the start is dropped   |
| `files.py`               | diffusers' folders, and single files                      |
| `presets.py`             | the published models                                      |

The model is defined by one prompt at a time: padding of shorter prompts in a batch moves nothing
here, where diffusers 0.42 moves the image, which `rng="torch"` reproduces. Guidance is off by
default and is not renormalised. Images that are edited need Qwen3-VL to see them, which ldmref's
text encoder does not. The autoencoder is `ldmref.families.autoencoders.qwen_image_21`.

Qwen Team 2026, whose code is QwenImage21Transformer2DModel of diffusers 0.42.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ldmref.backends.base import Backend
from ldmref.families import joint_transformers
from ldmref.families.joint_transformers import (
    MASK,
    TIME,
    describe_model,
    latents_input,
    text_input,
)
from ldmref.families.qwen3.prompts import read_chat
from ldmref.families.qwen_image_21.config import (
    QwenImage21Config,
    broken_rules,
    transformer_of,
)
from ldmref.families.qwen_image_21.files import PIPELINE, SINGLE_FILES, read_folder
from ldmref.families.qwen_image_21.network import transformer, transformer_spec
from ldmref.families.qwen_image_21.presets import make_presets
from ldmref.families.qwen_image_21.text import CHAT, IMAGE_START
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.declared import BATCH, DeclaredNetwork, NetworkInput, TextAttention
from ldmref.models.family import (
    Family,
    LoraRules,
    Work,
)
from ldmref.models.flops import count_products, find_rows

LORA_TARGETS = {
    "attention": (".to_q", ".to_k", ".to_v", ".to_out.0"),
    "feed_forward": (".img_mlp.proj", ".img_mlp.out", ".img_mlp.gate_layer"),
    "projections": ("img_in", "txt_in.in_layer", "txt_in.out_layer"),
}


def start_behind(ops: Backend, n: int, longest: int) -> dict[str, Array]:
    """Return where diffusers puts n images of a batch: behind its longest text."""
    return {IMAGE_START: ops.asarray(np.full(n, longest), ops.state_dtype)}


count_tokens = partial(joint_transformers.count_tokens, dropped=CHAT.dropped)
"""Return the numbers of tokens of an image, and of the longest text."""


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoder, transformer and autoencoder."""
    denoiser = transformer_of(config)
    latents = latents_input(denoiser.in_channels)
    inputs = (latents, TIME, text_input(denoiser.context_in_dim), MASK)
    return describe_model(
        config,
        transformer,
        transformer_spec,
        inputs,
        TextAttention((".attn",), ("text", "image")),
        description="transformer of text and image",
        optional=(NetworkInput(IMAGE_START, IMAGE_START, (BATCH,)),),
    )


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels.

    Text is counted as in the first step; it is the same in all others.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    pairs = text * text + image * (text + image)
    attention = 4 * network.num_layers * pairs * network.width
    rows = {
        **dict.fromkeys(("time_text_embed", "modulation", "norm_out"), 2),  # this time, and 0
        "txt_in": text,
        "img_in": image,
        **dict.fromkeys(("transformer_blocks", "proj_out"), image + text),
    }
    return attention + count_products(transformer_spec(network), find_rows(rows))


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that are held at once: those of a block, and the text's keys and values.

    A block holds tokens, their norm, and three times the feed-forward layer's width.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    block = (image + text) * network.width * (2 + 3 * network.mlp_ratio)
    return block + 2 * network.num_layers * text * network.width


QWEN_IMAGE_21 = Family(
    "qwen-image-2.1",
    QwenImage21Config,
    describe_networks,
    Work(count_flops, count_activations),
    "Qwen-Image 2.1: a transformer of one causal sequence of text and image, after Qwen3-VL",
    broken_rules,
    text=read_chat(CHAT, multiple=1, together=start_behind, grows=True, feels_weights=False),
    presets=make_presets(),
    files=SINGLE_FILES,
    folders={PIPELINE: read_folder},
    lora=LoraRules(LORA_TARGETS),
)
"""The family of Qwen-Image 2.1."""
