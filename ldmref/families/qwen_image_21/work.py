"""The work of one evaluation of Qwen-Image 2.1's transformer."""

from __future__ import annotations

from functools import partial

from ldmref.families import joint_transformers
from ldmref.families.qwen_image_21.config import transformer_of
from ldmref.families.qwen_image_21.network import transformer_spec
from ldmref.families.qwen_image_21.text import CHAT
from ldmref.models.config import ModelConfig
from ldmref.models.flops import count_products, find_rows

count_tokens = partial(joint_transformers.count_tokens, dropped=CHAT.dropped)
"""Return the numbers of tokens of an image, and of the longest text."""


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
