"""The work of one evaluation of Krea 2's transformer."""

from __future__ import annotations

from functools import partial

from ldmref.families import joint_transformers
from ldmref.families.krea2.config import transformer_of
from ldmref.families.krea2.network import transformer_spec
from ldmref.families.krea2.text import CHAT
from ldmref.models.config import ModelConfig
from ldmref.models.flops import count_products, find_rows

count_tokens = partial(joint_transformers.count_tokens, dropped=CHAT.dropped)
"""Return the numbers of tokens of an image, and of the longest text."""


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
