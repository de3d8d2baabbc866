"""The work of one evaluation of FLUX.2's transformer."""

from __future__ import annotations

from ldmref.families.flux2.config import transformer_of
from ldmref.families.flux2.network import transformer_spec
from ldmref.models.config import ModelConfig
from ldmref.models.flops import count_products

ONCE = ("time_guidance_embed", "double_stream_modulation", "single_stream_modulation", "norm_out")


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the number of cells of an image, and that of the tokens of its text."""
    return config.count_tokens(width, height), config.text_encoder.max_position_embeddings


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    blocks = network.num_layers + network.num_single_layers
    attention = 4 * blocks * (image + text) ** 2 * network.width

    def count_rows(name: str) -> int:
        if name.startswith(ONCE):
            return 1
        if name.startswith("single_transformer_blocks"):
            return image + text
        if name.startswith("context_embedder") or "add_" in name or "ff_context" in name:
            return text
        return image

    return attention + count_products(transformer_spec(network), count_rows)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block of one stream holds at once.

    The stream and its norm, queries, keys, values and both halves of the MLP, attention's output,
    the gated MLP, and the two of them joined.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    d, hidden = network.width, network.mlp_width
    return (image + text) * (2 * d + 3 * d + 2 * hidden + d + hidden + d + hidden)
