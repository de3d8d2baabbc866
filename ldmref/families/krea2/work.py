"""The work of one evaluation of Krea 2's transformer."""

from __future__ import annotations

from ldmref.families.krea2.config import transformer_of
from ldmref.families.krea2.text import CHAT
from ldmref.models.config import ModelConfig
from ldmref.models.transformer_layers import PATCH


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the numbers of tokens of an image, and of the longest text."""
    text = config.text_encoder.max_position_embeddings - CHAT.dropped
    return config.count_tokens(width, height), text


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    d, d_text, k = network.width, network.text_hidden_dim, network.num_text_layers
    image, text = count_tokens(config, width, height)

    def block(tokens: int, read: int, d: int, shared: float, hidden: int) -> int:
        products = 2 * tokens * d * (3 * d + 2 * round(shared * d) + 3 * hidden)
        return products + 4 * tokens * read * d

    shared = network.text_num_key_value_heads / network.text_num_attention_heads
    of_text = d_text, shared, network.text_intermediate_size
    fusion = network.num_layerwise_text_blocks * block(text * k, k, *of_text)
    fusion += 2 * text * k * d_text + network.num_refiner_text_blocks * block(text, text, *of_text)
    both = image + text
    shared = network.num_key_value_heads / network.num_attention_heads
    blocks = network.num_layers * block(both, both, d, shared, network.intermediate_size)
    time = 2 * d * (network.timestep_embed_dim + d + 6 * d)
    ends = 2 * text * d * (d_text + d) + 4 * image * d * PATCH**2 * network.in_channels
    return fusion + blocks + time + ends


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block holds at once: tokens, their norm, and three of the MLP.

    Or those of the fusion, whose tokens have a row for each hidden state.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    rows = network.num_text_layers * text
    fusion = rows * (2 * network.text_hidden_dim + 3 * network.text_intermediate_size)
    return max((image + text) * (2 * network.width + 3 * network.intermediate_size), fusion)
