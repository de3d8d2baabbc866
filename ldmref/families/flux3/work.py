"""The work of one evaluation of FLUX.3's transformer, without references."""

from __future__ import annotations

from ldmref.families.flux3.config import transformer_of
from ldmref.families.flux3.network import REFERENCES, transformer_spec
from ldmref.families.joint_transformers import count_tokens
from ldmref.models.config import ModelConfig
from ldmref.models.flops import count_products, find_rows


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    pairs = network.num_layers * (image**2 + text**2)
    pairs += network.num_single_layers * (image + text) ** 2
    total = 4 * network.width * pairs
    rows = {
        "timestep_embedder": 2,
        "target_timestep_embedder": 1,
        "early_stream_modulations": 1,
        "single_stream_modulations": 1,
        "x_embedders": image,
        "context_embedder": text,
        "mode_blocks": image,
        "txt_mode_blocks": text,
        "single_transformer_blocks": image + text,
        "norm_out": 1,
        "proj_out": image,
    }
    count_rows = find_rows(rows, {f".{REFERENCES}.": 0})
    return total + count_products(transformer_spec(network), count_rows)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block of all modes holds at once.

    In units of the width: the tokens, their norm and the result of attention; and of the
    feed-forward layer, both halves and their product.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    return (image + text) * (3 * network.width + 3 * network.hidden)
