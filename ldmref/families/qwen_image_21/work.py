"""The work of one evaluation of Qwen-Image 2.1's transformer."""

from __future__ import annotations

from ldmref.families.qwen_image_21.config import transformer_of
from ldmref.families.qwen_image_21.network import transformer_spec
from ldmref.families.qwen_image_21.text import CHAT
from ldmref.models.config import ModelConfig
from ldmref.models.flops import count_products


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the number of tokens of an image, and the most of a text."""
    text = config.text_encoder.max_position_embeddings - CHAT.dropped
    return config.count_tokens(width, height), text


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels.

    Text is counted as in the first step; it is the same in all others.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    pairs = text * text + image * (text + image)
    attention = 4 * network.num_layers * pairs * network.width

    def count_rows(name: str) -> int:
        if name.startswith(("time_text_embed", "modulation", "norm_out")):
            return 2  # of this time, and of time 0
        if name.startswith("txt_in"):
            return text
        return image if name.startswith("img_in") else image + text

    return attention + count_products(transformer_spec(network), count_rows)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that are held at once: those of a block, and the text's keys and values.

    A block holds tokens, their norm, and three times the feed-forward layer's width.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    block = (image + text) * network.width * (2 + 3 * network.mlp_ratio)
    return block + 2 * network.num_layers * text * network.width
